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

from data.base.errors import InputError
from data.base.files import atomic_writer, read_json_object
from data.records import Row
from trainer.config import TrainConfig
from trainer.encoder.options import BUNDLED_MODEL
from trainer.encoder.st_folder import read_settings

if TYPE_CHECKING:
    from trainer.run.run_folder import TrainResult

_PAPER = "[arXiv 2606.01304](https://arxiv.org/abs/2606.01304)"
_MEASURES = re.compile(r"<!-- measures -->.*<!-- end of measures -->", re.DOTALL)
# Where a model that is no hub name came from.
_ORIGINS = {BUNDLED_MODEL: "sentence-transformers/all-MiniLM-L6-v2"}
_LIBRARIES = ("torch", "transformers", "sentence-transformers", "causalneg")
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
    text = "\n\n".join(
        [
            f"# A dense retriever trained from {base or Path(config.model).name}",
            _opening(rows),
            f"## Use\n\n{_use(folder)}",
            f"## Data\n\n{_data(config, rows, result)}",
            f"## Training\n\n{_training(config, result)}",
            f"## Evaluation\n\n{_evaluation(config, result)}",
            f"## Cost\n\n{_cost(config, result)}",
        ]
    )
    with atomic_writer(folder / "README.md") as file:
        file.write(f"---\n{front.to_yaml()}\n---\n\n{text}\n")


def add_evaluations(folder: Path, files: Iterable[Path], *, licence: str | None = None) -> None:
    """Put the results of `just eval out=FILE` into the card of `folder`: a table, and the hub's model index.

    Raises InputError for a file that is no such result or about another model, and for a folder without a card.
    """
    from huggingface_hub import EvalResult, ModelCard

    path = folder / "README.md"
    if not path.is_file():
        raise InputError("has no README.md: it is no model that `train` wrote", file=folder)
    card = ModelCard.load(path)
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
    if Path(str(config.get("model"))).resolve() != folder.resolve():
        raise InputError(f"measured {config.get('model')}, which is not {folder}", file=file)
    data = f"{shown_path(str(config['data']))} ({config.get('split', 'test')})"
    for measure, interval in intervals.items():
        yield data, measure, interval["mean"], interval["low"], interval["high"], int(result["num_queries"])


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
    words = ["python -m trainer train"]
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


def _opening(rows: Sequence[Row]) -> str:
    sources = Counter(negative.source for row in rows for negative in row.negatives)
    written = f" and {sources['generated']} that a language model wrote" if sources["generated"] else ""
    if written and all(n.requirement and n.verdict for row in rows for n in row.of_source("generated")):
        written += " by breaking one requirement of the query each, verified blind"
    return (
        f"Maps queries and passages to vectors whose inner product ranks the passages. Trained on {len(rows)} queries "
        f"with {sources['mined']} mined hard negatives{written}, after *When Hard Negatives Hurt* ({_PAPER})."
    )


def _use(folder: Path) -> str:
    settings = read_settings(folder)
    assert settings is not None
    prompts = [
        f"- {role} prompt: {f'`{_cell(prompt)}`' if prompt else 'none'}"
        for role, prompt in (("query", settings.query_prompt), ("document", settings.document_prompt))
    ]
    return "\n".join(
        [
            "```python",
            "from sentence_transformers import SentenceTransformer",
            "",
            'model = SentenceTransformer("THIS_FOLDER_OR_HUB_NAME")',
            'queries = model.encode_query(["how long is the warranty"])',
            'passages = model.encode_document(["The warranty lasts three years.", "We ship on Mondays."])',
            "print(model.similarity(queries, passages))",
            "```",
            "",
            f"In transformers: `AutoModel`, then {settings.pooling} pooling over the tokens"
            f"{f', the first {settings.dimensions} numbers' if settings.dimensions else ''}"
            f"{', then division by the length' if settings.normalize else ''}.",
            "",
            *prompts,
            f"- longest input: {settings.max_length} tokens",
        ]
    )


def _data(config: TrainConfig, rows: Sequence[Row], result: "TrainResult") -> str:
    negatives = [negative for row in rows for negative in row.negatives]
    lines = [f"- rows: {len(rows)}, from `{_cell(shown_path(config.rows))}`"]
    for source in ("mined", "generated"):
        count = sum(negative.source == source for negative in negatives)
        lines.append(f"- {source} negatives: {count}")
    for name, found in (
        ("written by", Counter(n.generator for n in negatives if n.generator)),
        ("with the program", Counter(n.program for n in negatives if n.program)),
        ("kind of violation", Counter(n.disruption for n in negatives if n.disruption)),
    ):
        if found:
            lines.append(f"- {name}: " + ", ".join(f"{_cell(key)} ({count})" for key, count in found.most_common()))
    if result.leaked_queries or result.leaked_passages:
        lines.append(
            f"- **leak**: {result.leaked_queries} dev queries and {result.leaked_passages} of their relevant passages "
            "also occur in the training rows"
        )
    return "\n".join(lines)


def _training(config: TrainConfig, result: "TrainResult") -> str:
    setting = config.loss
    loss = "graded InfoNCE" if setting.graded else "InfoNCE"
    loss += f" (temperature {setting.temperature}, further negatives: {config.in_batch}"
    if setting.graded:
        loss += f", a judged passage is as relevant as its verdict says, sharpness {setting.grade_sharpness}"
    if setting.mask_above is not None:
        loss += f", without negatives that score above the positive by more than {setting.mask_above}"
    if setting.generated_weight != 1:
        loss += f", a generated negative counts for {setting.generated_weight}"
    loss += ")"
    if setting.entropy_weight:
        loss += (
            f" + {setting.entropy_weight} times query-view entropy maximisation (temperature "
            f"{setting.entropy_temperature})"
        )
    settings = [
        f"| {field.name} | {_cell(str(getattr(config, field.name)))} |"
        for field in fields(config)
        if field.name not in _NOT_SHOWN
    ]
    return "\n".join(
        [
            f"Loss: {loss}.",
            f"{result.steps} steps, weights of step {result.best_step}; loss {result.first_loss:.4f} at the first "
            f"step, {result.last_loss:.4f} at the last. The command (of absolute paths the last part):",
            "",
            "```sh",
            command(config),
            "```",
            "",
            "| setting | value |",
            "|---|---|",
            *settings,
            "",
            f"With {', '.join(_versions())}.",
        ]
    )


def _evaluation(config: TrainConfig, result: "TrainResult") -> str:
    dev = "No dev data was given."
    if config.dev is not None and result.dev_before is not None and result.dev_after is not None:
        dev = (
            f"nDCG@10 on `{_cell(shown_path(config.dev))}` ({config.dev_split}), by which the weights were chosen: "
            f"{result.dev_before:.4f} before training, {result.dev_after:.4f} after."
        )
    return (
        f"{dev}\n\n<!-- measures -->\nNo other data has been measured yet (`just eval out=FILE`, then `just publish`)."
        "\n<!-- end of measures -->"
    )


def _cost(config: TrainConfig, result: "TrainResult") -> str:
    lines = [f"- training: {result.seconds:.0f} s on {platform.machine()}, device `{_device(config)}`"]
    summary = Path(config.rows).parent / "summary.json"
    usage = read_json_object(summary).get("usage") if summary.is_file() else None
    if isinstance(usage, Mapping) and "tokens" in usage:
        requests, cost = usage.get("requests"), usage.get("cost_in_words")
        lines.append(f"- language model: {requests} requests, {usage['tokens']} tokens; {cost}")
    return "\n".join(lines)


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
