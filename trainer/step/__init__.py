"""One training step: batches, gradients, the optimizer."""
