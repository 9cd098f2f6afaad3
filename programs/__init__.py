"""DSPy signatures and modules that write and verify negatives. Imports `data`, and `trainer` for its Encoder only."""
