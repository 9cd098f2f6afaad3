"""Encoder, mining, losses and the training loop. Imports `data` only."""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# On a machine that does other work too, OpenMP's threads would burn their time slices spinning at each barrier for one
# that is not running: measured 25 s instead of 4 s for the same step. Read when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from trainer.config import TrainConfig
    from trainer.encoder import Encoder
    from trainer.loop import train
    from trainer.loss_modules import CounterfactualLoss, InfoNCE, QueryViewEntropy
    from trainer.mining.config import MineConfig
    from trainer.mining.mine import mine

__all__ = [
    "CounterfactualLoss", "Encoder", "InfoNCE", "MineConfig", "QueryViewEntropy", "TrainConfig", "mine", "train",
]  # fmt: skip
_HOMES = {
    "Encoder": ".encoder.encoder",
    "MineConfig": ".mining.config",
    "TrainConfig": ".config",
    "mine": ".mining.mine",
    "train": ".loop",
    **dict.fromkeys(("CounterfactualLoss", "InfoNCE", "QueryViewEntropy"), ".loss_modules"),
}


def __getattr__(name: str) -> Any:
    # On demand: torch takes seconds to import, which `import trainer` and the commands' --help should not.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
