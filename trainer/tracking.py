"""Metrics to a tracker beside metrics.jsonl: one small seam, each tracker imported only when it is asked for."""

import importlib
from pathlib import Path
from typing import Any, Protocol

from data.base.errors import InputError
from trainer.config import Tracking


class Tracker(Protocol):
    """Takes the numbers of one step. `step` rises; a resumed run repeats steps that were not checkpointed."""

    def log(self, step: int, values: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class NoTracker:
    def log(self, step: int, values: dict[str, float]) -> None:
        pass

    def close(self) -> None:
        pass


class _TensorBoard:
    def __init__(self, module: Any, folder: Path):
        self._writer = module.SummaryWriter(str(folder / "tensorboard"))

    def log(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Project:
    """W&B, and trackio, which has the same calls."""

    def __init__(self, module: Any, folder: Path, settings: dict[str, Any]):
        self._module = module
        module.init(project="causalneg", name=folder.name, config=settings)

    def log(self, step: int, values: dict[str, float]) -> None:
        self._module.log(values, step=step)

    def close(self) -> None:
        self._module.finish()


def make_tracker(kind: Tracking, folder: Path, settings: dict[str, Any]) -> Tracker:
    """The tracker of that name. Raises InputError when its package is not installed; keys come from its environment."""
    if kind == "none":
        return NoTracker()
    name = "torch.utils.tensorboard" if kind == "tensorboard" else kind
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"--tracking {kind}: is not installed (pip install {kind})") from error
    return _TensorBoard(module, folder) if kind == "tensorboard" else _Project(module, folder, settings)
