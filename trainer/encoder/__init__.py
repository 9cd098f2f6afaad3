"""The encoder: model folders in sentence-transformers' layout, packed forward passes, pooling."""
