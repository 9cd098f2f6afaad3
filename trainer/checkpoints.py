"""Weights on disk: written whole or not at all, tensors as safetensors, never pickles."""

import os
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from data.errors import InputError


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors under their final name in one step. Raises InputError when the disk does not take them."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(descriptor)
        temporary = Path(name)
        save_file({key: tensor.detach().contiguous() for key, tensor in tensors.items()}, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())  # temporary files are private to their owner; results are ordinary files
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot write: {error}", file=path) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read tensors to the CPU. Raises InputError when the file is missing or damaged."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot read: {error}", file=path) from error


def save_weights(path: Path, module: nn.Module) -> None:
    """Write a module's parameters and buffers; tensors that share memory are written once each."""
    save_tensors(path, {name: tensor.clone() for name, tensor in module.state_dict().items()})


def load_weights(path: Path, module: nn.Module) -> None:
    """Read them back into the same architecture. Raises InputError when the file is of another model."""
    tensors = load_tensors(path)
    expected = module.state_dict()
    wrong = sorted(
        name
        for name in tensors.keys() | expected.keys()
        if name not in tensors or name not in expected or tensors[name].shape != expected[name].shape
    )
    if wrong:
        raise InputError(f"is a checkpoint of another model: {len(wrong)} tensors differ, first {wrong[0]}", file=path)
    with torch.no_grad():
        for name, tensor in expected.items():
            tensor.copy_(tensors[name])
