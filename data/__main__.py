"""`python -m data COMMAND`: look at data before work is spent on it."""

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from data.base.cli import run_command
from data.base.errors import BadRows, InputError
from data.base.options import Count, options
from data.base.outputs import ForceOption, Outputs, claim_folder
from data.formats.convert import fewest_negatives, format_named, read_format, write_format
from data.formats.sidecar import sidecar_path
from data.readers.beir import write_beir
from data.readers.demo import demo_split
from data.readers.source import read_source
from data.retrieval_set import find_leakage
from data.row_files import read_rows


@options
class DemoConfig:
    """Write the demo data that ships with the project as BEIR folders."""

    out: Path = Path("runs/demo/data")
    """Folder that receives one BEIR folder a split: train, seen, dev and test."""


def write_demo(config: DemoConfig) -> dict[str, Path]:
    """Write the four splits of the demo data; returns the folder of each."""
    splits = {split: demo_split(split) for split in ("train", "seen", "dev", "test")}
    claim_folder("data demo", config.out, tuple(splits))
    folders = {split: config.out / split for split in splits}
    for split, retrieval_set in splits.items():
        write_beir(folders[split], retrieval_set, split)
    return folders


def _demo(config: DemoConfig) -> None:
    for folder in write_demo(config).values():
        sys.stdout.write(f"{folder}\n")


@options
class LeakageConfig:
    """Report evaluation queries and relevant passages whose text also occurs in the training rows."""

    rows: Path
    """Training rows (JSONL of `just mine` or `just synthesize`)."""

    eval: str
    """Evaluation data: BEIR folder, .jsonl file of pairs, data set folder or hub:ORG/NAME."""

    split: str = "test"
    """Split of the evaluation data."""

    skip_bad_rows: bool = False
    """Count and report bad rows instead of stopping at the first one."""


def _leakage(config: LeakageConfig) -> None:
    bad_rows = BadRows(config.skip_bad_rows)
    evaluation = read_source(config.eval, config.split, bad_rows)
    rows = list(read_rows(config.rows, bad_rows))
    for given, holds, what in ((config.eval, evaluation.queries, "queries"), (config.rows, rows, "rows")):
        if not holds:
            raise InputError(f"holds no {what}", file=given)
    found = find_leakage(rows, evaluation)
    sys.stdout.write(found.summary() + "\n")
    for query_id in found.queries[:20]:
        sys.stdout.write(f"query {query_id}: {evaluation.queries[query_id]}\n")
    for passage_id in found.relevant_passages[:20]:
        sys.stdout.write(f"passage {passage_id}: {evaluation.passages[passage_id][:100]!r}\n")
    if config.skip_bad_rows:
        sys.stdout.write(bad_rows.summary() + "\n")


FormatName = Literal[
    "rows", "flag-embedding", "swift", "tevatron", "st-tuples", "st-origins", "st-graded", "st-labelled"
]


@options
class ConvertConfig(ForceOption):
    """Turn a file of training rows into another trainer's format, or back."""

    input: Path
    """File to read: .jsonl, or .parquet for canonical rows."""

    out: Path
    """File to write: .jsonl, or .parquet for canonical rows. A sidecar OUT.provenance.jsonl keeps what the format
    cannot carry; a later conversion back finds it."""

    source: FormatName = "rows"
    """Format of the input: rows (ours), flag-embedding (query, pos, neg), swift (MS-Swift messages), tevatron,
    st-tuples (sentence-transformers: anchor, positive, negative_1 ...), st-origins (the same with a label that says
    which negatives are generated), st-graded (and each one's grade) or st-labelled (query, docs, labels)."""

    to: FormatName = "rows"
    """Format to write."""

    num_negatives: Count | None = None
    """For st-tuples, st-origins and st-graded the negatives of a line, for swift its mined ones; rows with fewer are
    dropped and counted (None: the smallest number that any row has, so that none is dropped)."""

    skip_bad_rows: bool = False
    """Count and report bad rows instead of stopping at the first one."""


def _convert(config: ConvertConfig) -> None:
    bad_rows = BadRows(config.skip_bad_rows)
    outputs = Outputs("convert", [config.out, sidecar_path(config.out)], inputs=[config.input], force=config.force)
    target, num_negatives = format_named(config.to), config.num_negatives
    if num_negatives is not None and not target.fixed:
        raise InputError(f"--num-negatives: {target.name} takes all the negatives of a row, as many as it has")
    if num_negatives is None and target.fixed:
        # A pass of its own, so that a file of any size still streams.
        counted = BadRows(config.skip_bad_rows)
        num_negatives = fewest_negatives(read_format(config.input, config.source, counted), config.to)
    unknown: Counter[str] = Counter()
    rows = read_format(config.input, config.source, bad_rows, unknown)
    first = next(rows, None)
    if first is None:
        raise InputError("holds no rows", file=config.input)
    report = write_format(config.out, config.to, chain([first], rows), num_negatives)
    outputs.record()
    sidecar = None if target.lossless else sidecar_path(config.out)
    sys.stdout.write(report.summary(target, num_negatives or 0, sidecar) + "\n")
    if unknown:
        counts = ", ".join(f"{count} as {name}" for name, count in sorted(unknown.items()))
        sys.stdout.write(f"  negatives that {sidecar_path(config.input)} does not know, kept without ids: {counts}\n")
    if config.skip_bad_rows:
        sys.stdout.write(bad_rows.summary() + "\n")


COMMANDS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "demo": (DemoConfig, _demo),
    "leakage": (LeakageConfig, _leakage),
    "convert": (ConvertConfig, _convert),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    # Of these `demo` has no recipe.
    words = sys.argv[1:] if argv is None else argv
    recipe = "just {}" if words[:1] in (["convert"], ["leakage"]) else "python -m data {}"
    return run_command(COMMANDS, argv, recipe=recipe)


if __name__ == "__main__":
    sys.exit(main())
