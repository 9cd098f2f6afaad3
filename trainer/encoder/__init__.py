"""The encoder: model folders in sentence-transformers' layout, packed forward passes, pooling."""

from trainer.encoder.encoder import Encoder, Role

__all__ = ["Encoder", "Role"]
