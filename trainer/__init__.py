"""Encoder, mining, losses and the training loop. Imports `data` only."""
