"""Fixtures that more than one room's tests use."""

import programs  # noqa: F401 - before litellm, which would fetch a price list when it is imported without our settings
from tests.trainer.conftest import tiny_bert, tiny_qwen

__all__ = ["tiny_bert", "tiny_qwen"]
