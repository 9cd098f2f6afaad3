"""The model card: README.md of a trained folder, with front matter for the hub, and what evaluations add to it."""

import platform
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2

from data.base.errors import InputError, first_line
from data.base.files import atomic_writer, read_json_object
from data.records import Row
from trainer.config import TrainConfig
from trainer.encoder.model_files import find_model_folder
from trainer.encoder.options import BUNDLED_MODEL
from trainer.encoder.st_folder import read_model_folder

if TYPE_CHECKING:
    from trainer.run.run_folder import TrainResult

_TEMPLATE = Path(__file__).with_name("model_card.md.j2")
_MEASURES = re.compile(r"<!-- measures -->.*<!-- end of measures -->", re.DOTALL)
# Where a model that is no hub name came from.
_ORIGINS = {BUNDLED_MODEL: "sentence-transformers/all-MiniLM-L6-v2"}
_LIBRARIES = ("torch", "transformers", "sentence-transformers", "causalneg")
# What an evaluation may set otherwise than the model's folder does.
_SET_OTHERWISE = ("max_length", "dimensions", "query_prompt", "document_prompt")
# Settings that say nothing about the model, or are said elsewhere on the card.
_NOT_SHOWN = frozenset(
    {
        *("rows", "out", "model", "dev", "dev_split", "query_prompt", "document_prompt"),
        *("device", "restart", "skip_bad_rows", "keep_checkpoints", "tracking"),
    }
)


def write_model_card(folder: Path, config: TrainConfig, result: "TrainResult", rows: Sequence[Row]) -> None:
    """Write README.md into the saved model `folder`. Raises InputError when it cannot be written."""
    from huggingface_hub import ModelCardData

    base = base_model(config.model)
    front = ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=["sentence-transformers", "feature-extraction", "dense-retrieval", "hard-negatives", "causalneg"],
        base_model=base,
    )
    negatives = [negative for row in rows for negative in row.negatives]
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    environment.filters |= {"cell": _cell, "shown": shown_path}
    text = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        front=front.to_yaml(),
        base=base,
        model_name=Path(config.model).name,
        config=config,
        loss=config.loss,
        result=result,
        encoder=read_model_folder(folder).settings,
        rows=rows,
        sources=Counter(negative.source for negative in negatives),
        promoted=sum(passage.source == "mined" for row in rows for passage in row.positives),
        verified=all(n.requirement and n.verdict for n in negatives if n.source == "generated"),
        origins={
            "written by": Counter(n.generator for n in negatives if n.generator),
            "with the program": Counter(n.program for n in negatives if n.program),
            "kind of violation": Counter(n.disruption for n in negatives if n.disruption),
        },
        command=command(config),
        settings={f.name: getattr(config, f.name) for f in fields(config) if f.name not in _NOT_SHOWN},
        versions=list(_versions()),
        machine=platform.machine(),
        device=_device(config),
        usage=_usage(Path(config.rows).parent / "summary.json"),
    )
    with atomic_writer(folder / "README.md") as file:
        file.write(text)


def add_evaluations(folder: Path, files: Iterable[Path], *, licence: str | None = None) -> None:
    """Put the results of `just eval out=FILE` into the card of `folder`: a table, and the hub's model index.

    Raises InputError for a file that is no such result or about another model, and for a folder without a card.
    """
    from huggingface_hub import EvalResult, ModelCard

    path = folder / "README.md"
    if not path.is_file():
        raise InputError("has no README.md: it is no model that `train` wrote", file=folder)
    try:
        card = ModelCard.load(path)
    except Exception as error:  # the hub client and its YAML raise unrelated types for what is no card
        raise InputError(f"is no model card ({first_line(error)})", file=path) from error
    lines, found = [], []
    for file in files:
        for data, measure, value, low, high, count in _measured(file, folder):
            lines.append(f"| {data} | {measure} | {value:.3f} | {low:.3f} to {high:.3f} | {count} |")
            found.append(
                EvalResult(
                    task_type="information-retrieval",
                    dataset_type=data,
                    dataset_name=data,
                    metric_type=measure.lower().replace("@", "_at_"),
                    metric_name=f"{measure} (95% interval {low:.3f} to {high:.3f})",
                    metric_value=round(value, 4),
                )
            )
    if found:
        table = ["| data | measure | mean | 95% interval | queries |", "|---|---|---|---|---|", *lines]
        block = "\n".join(["<!-- measures -->", *table, "<!-- end of measures -->"])
        if not _MEASURES.search(card.text):
            raise InputError("has no place for measures: it was not written by `train`", file=path)
        # A function, so that nothing in the table is read as a reference.
        card.text = _MEASURES.sub(lambda _: block, card.text)
        card.data.model_name = folder.resolve().parent.name
        card.data.eval_results = found
    if licence is not None:
        card.data.license = licence
    with atomic_writer(path) as out:
        out.write(str(card))


def _measured(file: Path, folder: Path) -> Iterable[tuple[str, str, float, float, float, int]]:
    result = read_json_object(file)
    config, intervals = result.get("config"), result.get("intervals")
    if not isinstance(config, Mapping) or not isinstance(intervals, Mapping) or "data" not in config:
        raise InputError("is no result of `just eval out=FILE`", file=file)
    measured = Path(str(config.get("model")))
    # A run's folder stands for the model in it.
    if (find_model_folder(str(measured)) if measured.is_dir() else measured).resolve() != folder.resolve():
        raise InputError(f"measured {config.get('model')}, which is not {folder}", file=file)
    # Not the model as its folder says it: figures of a cut embedding or of another prompt are told apart.
    changed = [f"{name}={config[name]!r}" for name in _SET_OTHERWISE if config.get(name) is not None]
    data = f"{shown_path(str(config['data']))} ({', '.join([str(config.get('split', 'test')), *map(_cell, changed)])})"
    for measure, interval in intervals.items():
        try:
            mean, low, high = (float(interval[end]) for end in ("mean", "low", "high"))
            count = int(result["num_queries"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(
                f"expected mean, low and high of {measure} and num_queries as numbers", file=file
            ) from error
        yield data, measure, mean, low, high, count


def base_model(name: str) -> str | None:
    """The hub name of the model that training began with; None for a local folder."""
    if name in _ORIGINS:
        return _ORIGINS[name]
    return None if Path(name).exists() or name.startswith(".") else name


def shown_path(path: str) -> str:
    """A path as it may be published: of an absolute one the name alone, since the rest says whose machine it was."""
    return Path(path).name if Path(path).is_absolute() else path


def command(config: TrainConfig) -> str:
    """The command line of this run: what differs from the defaults."""
    # In a wheel the rooms lie below one name.
    words = [f"python -m {__name__.removesuffix('.publish.model_card')} train"]
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name == "restart" or (field.default is not MISSING and value == field.default):
            continue
        flag = f"--{field.name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        elif isinstance(value, tuple):
            words.append(" ".join([flag, *map(str, value)]))
        else:
            words.append(f"{flag}={shlex.quote(shown_path(value) if isinstance(value, str) else str(value))}")
    return " \\\n  ".join(words)


def _usage(summary: Path) -> Mapping[str, object] | None:
    """What the language model of the rows used, by the summary of their synthesis; another file says nothing of it."""
    try:
        usage = read_json_object(summary, missing_ok=True).get("usage")
    except InputError:
        return None
    said = isinstance(usage, Mapping) and {"requests", "tokens", "cost_in_words"} <= usage.keys()
    return usage if said else None


def _device(config: TrainConfig) -> str:
    import torch

    return config.device or (torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu")


def _versions() -> Iterable[str]:
    for name in _LIBRARIES:
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            continue


def _cell(text: str) -> str:
    """Text inside a line or a table of Markdown."""
    return " ".join(text.replace("|", "\\|").replace("`", "'").split()) if text.strip() else text
