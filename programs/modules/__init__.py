"""The prompts as DSPy signatures and the modules that compose them."""
