"""The sentence-transformers folder format: how a folder says what to do around its transformer, read and written.

Every file and key that sentence-transformers 6 reads is obeyed, or refused in one line that names it.
"""

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from data.base.errors import InputError
from data.base.files import read_json_object, write_json
from trainer.encoder.pooling import POOLINGS

log = logging.getLogger(__name__)
_CONFIG = "config_sentence_transformers.json"
# Flags of the pooling file before sentence-transformers 6; from 6 on it is one `pooling_mode` string.
_LEGACY_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
# What surrounds the transformer, under the names of newer and older versions; the first file that says something holds.
_TRANSFORMER_FILES = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
_OLD_NAMES = {"model_args": "model_kwargs", "tokenizer_args": "processor_kwargs", "config_args": "config_kwargs"}
# Keys of the transformer's file that change no embedding, and those that are read below.
_TRANSFORMER_KEYS = frozenset({"unpad_inputs", "backend", "max_seq_length", "do_lower_case", *_OLD_NAMES.values()})
# Keys that change embeddings in ways that are not reproduced, with the values at which they do not.
_ONLY_AT_DEFAULT: dict[str, tuple[Any, ...]] = {
    "transformer_task": ("feature-extraction",),
    "module_output_name": ("token_embeddings",),
    "processing_kwargs": (None, {}),
    "query_length": (None,),
    "document_length": (None,),
    "query_expansion": (None,),
    "tokenizer_name_or_path": (None,),
}
# Arguments of from_pretrained that say where files come from, which sentence-transformers overrides, or how to compute.
_PLACE_ARGUMENTS = frozenset({"subfolder", "token", "cache_dir", "revision", "local_files_only", "trust_remote_code"})
_KERNEL_ARGUMENTS = frozenset({"attn_implementation", "use_safetensors", "low_cpu_mem_usage", "add_pooling_layer"})
_FLOAT32 = (None, "auto", "float32")
_FILE_ARGUMENTS = frozenset({"vocab_file", "merges_file", "tokenizer_file", "spm_file", "name_or_path"})


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFolder:
    """A folder as it was read: where the transformer lies, what surrounds it, and the arguments to load it with.

    `settings` is None for a plain transformers folder; `length_file` says the settings' max_length.
    """

    transformer: Path
    settings: EncoderSettings | None = None
    tokenizer_arguments: dict[str, Any] = field(default_factory=dict)
    config_arguments: dict[str, Any] = field(default_factory=dict)
    length_file: Path | None = None


def read_model_folder(folder: Path) -> ModelFolder:
    """Read modules.json and the files it names. Raises InputError for what cannot be reproduced exactly."""
    modules_file = folder / "modules.json"
    if not modules_file.is_file():
        return ModelFolder(transformer=folder)
    modules = read_modules(modules_file)
    kinds = [module["type"].rsplit(".", 1)[-1] for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
        raise InputError(
            f"has the modules {', '.join(kinds)}; expected Transformer, Pooling and optionally Normalize",
            file=modules_file,
        )
    for module in modules:
        if not module["type"].startswith("sentence_transformers."):
            raise InputError(f"has a module of its own code, {module['type']}, which is not run", file=modules_file)
    if len({module.get("name") for module in modules}) < len(modules):
        raise InputError("names two modules alike", file=modules_file, field="name")
    places = [
        _inside(folder, module, usual) for module, usual in zip(modules, ("", "1_Pooling", "2_Normalize"), strict=False)
    ]
    config_file = folder / _CONFIG
    config = read_json_object(config_file, missing_ok=True)
    _only_at_default(config, {"model_type": (None, "SentenceTransformer")}, config_file)
    file, transformer = _transformer_config(places[0])
    tokenizer_arguments = _arguments(transformer, "processor_kwargs", file, _FILE_ARGUMENTS)
    length = tokenizer_arguments.pop("model_max_length", transformer.get("max_seq_length"))
    if normalized := kinds[2:] == ["Normalize"]:
        names = dict.fromkeys(("module_input_name", "module_output_name"), (None, "sentence_embedding"))
        normalize_file = places[2] / "config.json"
        _only_at_default(read_json_object(normalize_file, missing_ok=True), names, normalize_file)
    query_prompt, document_prompt = _read_prompts(config, config_file)
    settings = EncoderSettings(
        pooling=_read_pooling(places[1] / "config.json"),
        normalize=_ranks_by_cosine(config, normalized, config_file),
        query_prompt=query_prompt,
        document_prompt=document_prompt,
        max_length=_whole_number(length, "max_seq_length", file),
        lower_case=bool(transformer.get("do_lower_case", False)),
        dimensions=_whole_number(config.get("truncate_dim"), "truncate_dim", config_file),
    )
    return ModelFolder(
        transformer=places[0],
        settings=settings,
        tokenizer_arguments=tokenizer_arguments,
        config_arguments=_arguments(transformer, "config_kwargs", file, frozenset()),
        length_file=file,
    )


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
        folder / _TRANSFORMER_FILES[0],
        {"max_seq_length": settings.max_length, "do_lower_case": settings.lower_case},
    )
    write_json(
        folder / _CONFIG,
        {
            "prompts": {"query": settings.query_prompt, "document": settings.document_prompt},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine" if settings.normalize else "dot",
        }
        | ({} if settings.dimensions is None else {"truncate_dim": settings.dimensions}),
    )


def read_modules(path: Path) -> list[dict[str, Any]]:
    """The modules in the order of the file, as sentence-transformers applies them."""
    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
        texts = [(module["type"], module.get("name", "")) for module in modules]
        if not texts or not all(isinstance(text, str) for pair in texts for text in pair):
            raise ValueError("expected a list of modules with idx, name, path and type")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"is not a list of sentence-transformers modules ({error})", file=path) from error
    return cast(list[dict[str, Any]], modules)


def _inside(folder: Path, module: dict[str, Any], usual: str) -> Path:
    """Where a module lies. Raises InputError when modules.json names a place outside the model's own folder."""
    inside = folder / str(module.get("path", usual))
    if not inside.resolve().is_relative_to(folder.resolve()):
        raise InputError("names a place outside the model's folder", file=folder / "modules.json", field="path")
    return inside


def _transformer_config(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The first file that surrounds the transformer with settings, and these."""
    found = ((folder / name, read_json_object(folder / name, missing_ok=True)) for name in _TRANSFORMER_FILES)
    file, config = next(((file, config) for file, config in found if config), (folder / _TRANSFORMER_FILES[0], {}))
    config = {_OLD_NAMES.get(key, key): value for key, value in config.items()}
    modalities = config.pop("modality_config", {}) or {}
    text = {"method": "forward", "method_output_name": "last_hidden_state"}
    if modalities.get("text", text) != text:
        raise InputError(f"is {modalities['text']}, which is not supported", file=file, field="modality_config")
    _only_at_default(config, _ONLY_AT_DEFAULT, file)
    for key in sorted(config.keys() - _ONLY_AT_DEFAULT.keys() - _TRANSFORMER_KEYS):
        raise InputError("is not known", file=file, field=key)
    for key, value in _arguments(config, "model_kwargs", file, frozenset()).items():
        if not (key in _KERNEL_ARGUMENTS or (key in ("dtype", "torch_dtype") and value in _FLOAT32)):
            raise InputError(f"sets {key} to {value!r}, which is not supported", file=file, field="model_kwargs")
    return file, config


def _arguments(config: dict[str, Any], key: str, file: Path, refused: frozenset[str]) -> dict[str, Any]:
    found = config.get(key) or {}
    for name in sorted(refused & found.keys()):
        raise InputError(f"sets {name}, which is not supported", file=file, field=key)
    return {name: value for name, value in found.items() if name not in _PLACE_ARGUMENTS}


def _only_at_default(config: dict[str, Any], defaults: dict[str, tuple[Any, ...]], file: Path) -> None:
    for key, accepted in defaults.items():
        if key in config and config[key] not in accepted:
            raise InputError(f"is {config[key]!r}, which is not supported", file=file, field=key)


def _ranks_by_cosine(config: dict[str, Any], normalized: bool, file: Path) -> bool:
    """Whether embeddings are to be normalised so that their inner product ranks as sentence-transformers does."""
    similarity = config.get("similarity_fn_name")
    if similarity not in (None, "cosine", "dot"):
        raise InputError(f"is {similarity!r}; expected cosine or dot", file=file, field="similarity_fn_name")
    if similarity == "dot" and normalized and config.get("truncate_dim") is not None:
        raise InputError("cuts normalised embeddings, whose inner products then rank", file=file, field="truncate_dim")
    return normalized or similarity != "dot"


def _read_prompts(config: dict[str, Any], file: Path) -> tuple[str, str]:
    """Those of a query and of a document; as encode_query and encode_document do, no others, and no default one."""
    prompts = config.get("prompts") or {}
    if not isinstance(prompts, dict):
        raise InputError("expected an object of texts", file=file, field="prompts")
    found = prompts.get("query") or "", prompts.get("document") or ""
    if not all(isinstance(prompt, str) for prompt in found):
        raise InputError("expected texts", file=file, field="prompts")
    unused = [name for name in ("passage", "corpus") if prompts.get(name)]
    if unused and not found[1]:
        log.warning(
            "warning: %s has a prompt %r, which sentence-transformers uses for no document, and so nothing here does; "
            "--document-prompt gives one", file, unused[0],
        )  # fmt: skip
    return found


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


def _whole_number(value: Any, name: str, file: Path) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise InputError(f"expected a whole number of at least 1, got {value!r}", file=file, field=name)
    return value
