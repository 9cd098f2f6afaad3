"""Fixtures that more than one room's tests use."""

from tests.trainer.conftest import tiny_bert, tiny_qwen

__all__ = ["tiny_bert", "tiny_qwen"]
