"""Where a run stands, on disk: written whole or not at all, checked when read, tensors as safetensors."""

import logging
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from data.base.errors import InputError
from data.base.files import atomic_path, file_checksum, read_json_object, write_json
from trainer.encoder.options import Precision

log = logging.getLogger(__name__)
_FILES = ("model.safetensors", "optimizer.safetensors")
_MINED = "mined.safetensors"


@dataclass(slots=True, kw_only=True)
class RunState:
    """Everything of a run but weights and optimiser. Order, samples and dropout follow from the seed and `step`.

    `mined_RM` is what was mined while training (see Remining), in a file of its own.
    """

    step: int = 0
    best_step: int = 0
    best_score: float = -1.0
    dev_before: float | None = None
    first_loss: float = float("nan")
    last_loss: float = float("nan")
    num_truncated: int = 0
    seconds: float = 0.0
    data_key: str = ""
    checksums: dict[str, str] = field(default_factory=dict)
    num_skipped: int = 0
    num_processes: int = 1
    scaler: dict[str, float] = field(default_factory=dict)
    # What precision=auto came to.
    precision: Precision | None = None
    mined_RM: Tensor | None = None


class Checkpoints:
    """The folder OUT/checkpoints: step-N with weights, optimiser and state; best-N.safetensors with weights alone."""

    def __init__(self, folder: Path, keep: int):
        self.folder, self.keep = folder, keep

    def save(self, state: RunState, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Write one checkpoint, then drop those beyond the newest `keep`. Raises InputError if the disk refuses."""
        with atomic_path(self._step_folder(state.step), folder=True) as new:
            groups = dict(zip(_FILES, (module.state_dict(), _optimizer_tensors(optimizer)), strict=True))
            if state.mined_RM is not None:
                groups[_MINED] = {"mined_RM": state.mined_RM}
            state.checksums = {name: save_tensors(new / name, tensors) for name, tensors in groups.items()}
            write_json(new / "state.json", asdict(replace(state, mined_RM=None)))
        self._drop_old()

    def save_best(self, step: int, module: nn.Module) -> None:
        """Write the weights of the best step so far."""
        save_tensors(self._best_file(step), module.state_dict())

    def load_best(self, step: int, module: nn.Module) -> None:
        load_weights(self._best_file(step), module)

    def resume(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, data_key: str, num_processes: int
    ) -> RunState | None:
        """Load the newest checkpoint that is whole; None when there is none.

        Raises InputError when it belongs to other rows, another model, or a run of another number of processes: they
        share the rows of a step out among them, so that it would go on as another run.
        """
        for folder in sorted(self.folder.glob("step-*"), reverse=True):
            try:
                state = RunState(**read_json_object(folder / "state.json"))
                weights, moments = (_checked(folder / name, state.checksums[name]) for name in _FILES)
                if _MINED in state.checksums:
                    state.mined_RM = _checked(folder / _MINED, state.checksums[_MINED])["mined_RM"]
            except (InputError, TypeError, KeyError) as error:
                log.warning("warning: %s is damaged, trying the one before (%s)", folder, error)
                continue
            if state.data_key != data_key:
                raise InputError("is a checkpoint of other training rows: --restart to begin anew", file=folder)
            if state.num_processes != num_processes:
                raise InputError(
                    f"is of a run with {state.num_processes} processes, this one has {num_processes}: start as many "
                    "again, or --restart to begin anew",
                    file=folder,
                )
            _copy_weights(weights, module, folder)
            _restore_optimizer(moments, optimizer)
            return state
        return None

    def _step_folder(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _best_file(self, step: int) -> Path:
        return self.folder / f"best-{step:08d}.safetensors"

    def _drop_old(self) -> None:
        folders = sorted(self.folder.glob("step-*"), reverse=True)
        for folder in folders[self.keep :]:
            shutil.rmtree(folder, ignore_errors=True)
        # A run that resumes from any kept checkpoint must find that one's best weights.
        needed = set()
        for folder in folders[: self.keep]:
            with suppress(InputError, KeyError):  # a damaged one cannot be resumed from
                needed.add(self._best_file(int(read_json_object(folder / "state.json")["best_step"])))
        for file in self.folder.glob("best-*.safetensors"):
            if file not in needed:
                file.unlink()


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> str:
    """Write tensors under their final name in one step; returns the file's BLAKE2b checksum."""
    with atomic_path(path) as new:
        try:
            # Tensors that share memory are written once each.
            save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, new)
        except SafetensorError as error:
            raise InputError(f"cannot write: {error}", file=path) from error
        return file_checksum(new)


def load_weights(path: Path, module: nn.Module) -> None:
    """Read weights into the same architecture. Raises InputError for a damaged file or one of another model."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot read: {error}", file=path) from error
    _copy_weights(tensors, module, path)


def _checked(path: Path, wanted: str) -> dict[str, Tensor]:
    try:
        if file_checksum(path) != wanted:
            raise InputError("does not match its checksum", file=path)
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot read: {error}", file=path) from error


def _copy_weights(tensors: dict[str, Tensor], module: nn.Module, source: Path) -> None:
    expected = module.state_dict()
    wrong = sorted(
        name
        for name in tensors.keys() | expected.keys()
        if name not in tensors or name not in expected or tensors[name].shape != expected[name].shape
    )
    if wrong:
        raise InputError(f"belongs to another model: {len(wrong)} tensors differ, first {wrong[0]}", file=source)
    with torch.no_grad():
        for name, tensor in expected.items():
            tensor.copy_(tensors[name])


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": torch.as_tensor(value) for index, values in state.items() for name, value in values.items()
    }


def _restore_optimizer(tensors: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
