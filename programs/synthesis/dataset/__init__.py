"""`just dataset`: a synthesised set as a Hugging Face data set, with a data card that says how it arose."""

import logging
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from data.base.errors import InputError
from data.base.files import atomic_writer, folder_lock, read_json_object
from data.base.options import options
from data.base.outputs import ForceOption, Outputs, claim_folder
from data.hub import HubOptions, Licence, push_folder, write_token
from data.records import Row, row_to_dict
from data.row_files import read_rows, write_parquet_objects

log = logging.getLogger(__name__)

# Rows a file: at the usual 20 KB a row about 500 MB before compression.
_SHARD_ROWS = 25_000
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


@options
class DatasetConfig(HubOptions, ForceOption):
    """Make a synthesised set a Hugging Face data set: Parquet files and a data card, which load_dataset(out) reads."""

    run: Path
    """Run folder of `synthesize`: rows.jsonl, config.json, summary.json."""

    out: Path
    """Folder to write."""

    licence: Licence
    """Licence of the source texts as the hub names it, like cc-by-sa-4.0 or cc0-1.0; "unknown" if you do not know it.
    Generated passages are derived from them."""

    source: str = ""
    """Where the source texts come from, in a sentence or an address; it goes into the card."""

    cassette: Path | None = None
    """File that receives the run's answers as a cassette (as `record` writes one), which lm=recorded:FILE replays."""

    title: str = ""
    """Name of the data set (empty: the name of the folder)."""


@dataclass(slots=True)
class _Counts:
    rows: int = 0
    positives: int = 0
    sources: Counter[str] = field(default_factory=Counter)
    disruptions: Counter[str] = field(default_factory=Counter)

    def add(self, row: Row) -> None:
        self.rows += 1
        self.positives += len(row.positives)
        self.sources.update(negative.source for negative in row.negatives)
        self.disruptions.update(n.disruption for n in row.negatives if n.disruption)


def run_dataset(config: DatasetConfig) -> None:
    """The command: write the folder, push it if asked to, and say where it is. Raises InputError."""
    if config.hub is not None:
        write_token()
    write_dataset(config)
    sys.stdout.write(f"written: {config.out}\n")
    if config.hub is not None:
        address = push_folder(
            config.out, config.hub, "dataset", private=config.private, message="Hard negatives written by CausalNeg"
        )
        sys.stdout.write(f"on the hub: {address}\n")


def write_dataset(config: DatasetConfig) -> Path:
    """Write data/train-*.parquet and README.md; returns the folder.

    Raises InputError when the run is not finished or `out` holds something.
    """
    card = config.out / "README.md"
    outputs = Outputs("dataset", [card, config.cassette], run=config.run, force=config.force)
    from programs.synthesis.store import synthesis_folder  # --help should not load what this does

    run = synthesis_folder(config.run) or config.run
    settings = read_json_object(run / "config.json")
    summary = read_json_object(run / "summary.json")
    if "funnel" not in summary:
        raise InputError("has no funnel: the synthesis was refused or is not finished", file=run / "summary.json")
    with folder_lock(config.out):
        before = [f"data/{path.name}" for path in config.out.glob("data/train-*.parquet")]
        claim_folder("dataset", config.out, (*before, "README.md"), run=config.run, alone=True, restart=True)
        _write_parts(config, run, settings, summary)
        if config.cassette is not None:
            _write_cassette(config.cassette, run)
        outputs.record()
    return config.out


def _write_parts(config: DatasetConfig, run: Path, settings: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
    from jinja2 import TemplateError

    counts = _Counts()
    rows = _counted(read_rows(run / "rows.jsonl"), counts)
    for number, first in enumerate(rows):
        shard = islice(rows, _SHARD_ROWS - 1)
        path = config.out / "data" / f"train-{number:05}.parquet"
        write_parquet_objects(path, (row_to_dict(row) for row in chain([first], shard)))
    if not counts.rows:
        raise InputError("holds no rows", file=run / "rows.jsonl")
    try:
        text = data_card(config, settings, summary, counts)
    except (TemplateError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"is in a form that this version does not know ({error})", file=run / "summary.json"
        ) from error
    # Last, so that a folder with a card is whole.
    with atomic_writer(config.out / "README.md") as file:
        file.write(text + "\n")


def _write_cassette(path: Path, run: Path) -> None:
    from programs.lm.servers.cassette import write_lines
    from programs.synthesis.store import RunStore, finished_key

    store_file = run / "store.sqlite"
    if not store_file.is_file():
        raise InputError("is missing: the answers are in it", file=store_file)
    with RunStore(store_file, program=finished_key(run)) as store:
        count = write_lines(path, store.said())
    log.info("written: %s, %d calls", path, count)


def _counted(rows: Iterator[Row], counts: _Counts) -> Iterator[Row]:
    for row in rows:
        counts.add(row)
        yield row


def data_card(config: DatasetConfig, settings: Mapping[str, Any], summary: Mapping[str, Any], counts: _Counts) -> str:
    """The README.md of the data set: front matter for the hub, then how the set arose and how far to trust it."""
    from huggingface_hub import DatasetCardData
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    title = config.title or config.out.name
    front = DatasetCardData(
        license=config.licence,
        pretty_name=title,
        task_categories=["text-retrieval", "sentence-similarity"],
        tags=["hard-negatives", "synthetic", "dense-retrieval", "causalneg"],
        size_categories=[next((name for most, name in _SIZES if counts.rows < most), "n>1M")],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}],
    )
    roles = {role: ", ".join(used["models"]) for role, used in summary["usage"]["roles"].items()}
    # Markdown, not HTML; a name that the data lack is an error.
    templates = Environment(loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True)
    return templates.get_template("dataset_card.md.j2").render(
        front=front.to_yaml(),
        title=title,
        counts=counts,
        roles=roles,
        # A probe of the verifier's layout verifies nothing.
        verified=summary["program"]["name"] != "naive" or summary["funnel"]["requirements"] > 0,
        summary=summary,
        profile=Path(str(summary.get("profile", settings.get("profile", "unknown")))).name,
        config=config,
    )
