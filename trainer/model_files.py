"""From the word for a model to a checked local folder: bundled, local, or downloaded from the Hugging Face hub."""

import re
from pathlib import Path

from data.errors import InputError
from trainer.bundled import BUNDLED_MODEL, bundled_folder

_HUB_NAME = re.compile(r"^[\w][\w.-]*(/[\w.-]+)?$")
# Weights as safetensors only; never the pickles or the Python files that a repository may hold.
_HUB_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]
_HUB_IGNORED = ["onnx/*", "openvino/*", "*/onnx/*", "*/openvino/*"]


def find_model_folder(spec: str, revision: str | None = None) -> Path:
    """The local folder of `bundled:all-MiniLM-L6-v2`, of a local path, or of a hub name ("org/name", downloaded once).

    Raises InputError that says what was looked for when there is no such model or it has no safetensors weights.
    """
    if spec.startswith("bundled:"):
        if spec != BUNDLED_MODEL:
            raise InputError(f"unknown bundled model {spec!r}; there is {BUNDLED_MODEL}")
        return bundled_folder()
    folder = Path(spec)
    if not folder.is_dir():
        if folder.exists() or not _HUB_NAME.match(spec):
            raise InputError(
                f"unknown model {spec!r}: expected {BUNDLED_MODEL}, a folder that exists, or a hub name like org/name"
            )
        folder = _download(spec, revision)
    if not (folder / "config.json").is_file() and not (folder / "modules.json").is_file():
        raise InputError("is not a model: it has neither config.json nor modules.json", file=folder)
    if not any(folder.rglob("*.safetensors")):
        raise InputError("has no .safetensors weights (pickled weights are not read)", file=folder)
    return folder


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_HUB_FILES, ignore_patterns=_HUB_IGNORED))
    except Exception as error:  # the hub client raises many unrelated types for "not there"
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"unknown model {name!r}: no such local folder, and the hub could not give it ({reason})"
        ) from error
