"""The sentence-transformers folder format: how a folder says what to do around its transformer, read and written."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from data.base.errors import InputError
from data.base.files import read_json_object, write_json
from trainer.encoder.pooling import POOLINGS

# Flags of the pooling file before sentence-transformers 6; from 6 on it is one `pooling_mode` string.
_LEGACY_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
# Prompt names that the field uses for the two roles, in the order in which sentence-transformers looks for them.
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSettings:
    """What surrounds the transformer: pooling, normalisation, prompts, longest input in tokens (None: not said).

    `dimensions` is where embeddings end (None: nowhere), which sentence-transformers calls `truncate_dim`.
    """

    pooling: str = "mean"
    normalize: bool = True
    query_prompt: str = ""
    document_prompt: str = ""
    max_length: int | None = None
    lower_case: bool = False
    dimensions: int | None = None


def read_settings(folder: Path) -> EncoderSettings | None:
    """Read modules.json and the files it names; None when the folder is a plain transformers model.

    Raises InputError for a module or a pooling that this trainer cannot reproduce exactly.
    """
    if not (folder / "modules.json").is_file():
        return None
    modules = _read_modules(folder / "modules.json")
    kinds = [module["type"].rsplit(".", 1)[-1] for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
        raise InputError(
            f"has the modules {', '.join(kinds)}; expected Transformer, Pooling and optionally Normalize",
            file=folder / "modules.json",
        )
    config = _optional_json(folder / "config_sentence_transformers.json")
    # A default prompt is left alone, as encode_query and encode_document do: they use the role's prompt or none.
    prompts = dict(config.get("prompts") or {})
    transformer = _optional_json(module_folder(folder, modules[0], "") / "sentence_bert_config.json")
    return EncoderSettings(
        pooling=_read_pooling(module_folder(folder, modules[1], "1_Pooling") / "config.json"),
        normalize=kinds[2:] == ["Normalize"],
        query_prompt=prompts.get("query") or "",
        document_prompt=next((prompts[name] for name in _DOCUMENT_PROMPTS if prompts.get(name)), ""),
        max_length=transformer.get("max_seq_length"),
        lower_case=bool(transformer.get("do_lower_case", False)),
        dimensions=config.get("truncate_dim"),
    )


def transformer_folder(folder: Path) -> Path:
    """Where the weights and the tokenizer lie: the folder itself, or the sub-folder that modules.json names."""
    path = folder / "modules.json"
    return module_folder(folder, _read_modules(path)[0], "") if path.is_file() else folder


def module_folder(folder: Path, module: dict[str, Any], usual: str) -> Path:
    """Where a module lies. Raises InputError when modules.json names a place outside the model's own folder."""
    inside = folder / str(module.get("path", usual))
    if not inside.resolve().is_relative_to(folder.resolve()):
        raise InputError("names a place outside the model's folder", file=folder / "modules.json", field="path")
    return inside


def write_settings(folder: Path, settings: EncoderSettings, width: int) -> None:
    """Write the files that make a saved transformer a sentence-transformers folder (readable by versions 2 to 6).

    `width` is the transformer's. `truncate_dim` is left out where nothing is cut.
    """
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling")] + ([("2_Normalize", "Normalize")] * settings.normalize)
    write_json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(kinds)
        ],
    )
    flags = {flag: mode == settings.pooling for flag, mode in _LEGACY_FLAGS.items()}
    write_json(
        folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width} | flags | {"include_prompt": True}
    )
    if settings.normalize:
        (folder / "2_Normalize").mkdir(exist_ok=True)
    write_json(
        folder / "sentence_bert_config.json",
        {"max_seq_length": settings.max_length, "do_lower_case": settings.lower_case},
    )
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "prompts": {"query": settings.query_prompt, "document": settings.document_prompt},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine" if settings.normalize else "dot",
        }
        | ({} if settings.dimensions is None else {"truncate_dim": settings.dimensions}),
    )


def override(settings: EncoderSettings, **values: Any) -> EncoderSettings:
    """Replace the settings whose value is not None."""
    return replace(settings, **{name: value for name, value in values.items() if value is not None})


def _read_modules(path: Path) -> list[dict[str, Any]]:
    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
        modules = sorted(modules, key=lambda module: int(module["idx"]))
        if not modules or not all(isinstance(module["type"], str) for module in modules):
            raise ValueError("expected a list of modules with idx, path and type")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"is not a list of sentence-transformers modules ({error})", file=path) from error
    return cast(list[dict[str, Any]], modules)


def _read_pooling(path: Path) -> str:
    config = read_json_object(path)
    mode = config.get("pooling_mode")
    modes = [mode] if isinstance(mode, str) else list(mode or [])
    if not modes:
        modes = [mode for flag, mode in _LEGACY_FLAGS.items() if config.get(flag)] or ["mean"]
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise InputError(f"pools by {' + '.join(modes)}; expected one of {', '.join(POOLINGS)}", file=path)
    if config.get("include_prompt", True) is not True:
        raise InputError(
            "leaves the prompt out of the pooling (include_prompt false), which is not supported", file=path
        )
    return modes[0]


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json_object(path) if path.is_file() else {}
