"""The encoder: model folders in sentence-transformers' layout, packed forward passes, pooling."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.encoder.encoder import Encoder, Role

__all__ = ["Encoder", "Role"]


def __getattr__(name: str) -> Any:
    # On demand: torch takes seconds to import, which the options of a command should not.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(".encoder", __name__), name)
