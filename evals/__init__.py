"""Retrieval metrics, diagnostics and the demo. May import every other room."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import trainer  # noqa: F401  # says how OpenMP threads wait, which must come before anything loads torch

if TYPE_CHECKING:
    from evals.retrieval.config import EvalConfig
    from evals.retrieval.evaluate import evaluate

__all__ = ["EvalConfig", "evaluate"]
_HOMES = {"EvalConfig": ".retrieval.config", "evaluate": ".retrieval.evaluate"}


def __getattr__(name: str) -> Any:
    # On demand, as in the other rooms.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
