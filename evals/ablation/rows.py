"""The rows of an ablation: a file, or a bundled corpus mined here and joined with its recorded answers."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from data.base.options import shared_options
from data.readers.recorded import BUNDLED, Generator, bundled_rows
from data.records import Row
from data.row_files import read_rows
from evals.ablation.config import AblateConfig
from trainer.encoder.options import EncoderOptions
from trainer.mining.config import MineConfig
from trainer.mining.mine import mine


def ablation_rows(config: AblateConfig) -> tuple[list[Row], list[Row] | None]:
    """The rows, and the same with naive negatives if they are given. Raises InputError."""
    mined: dict[str, list[Row]] = {}  # by bundled corpus, mined once

    def rows_of(spec: Path, generator: Generator) -> list[Row]:
        name = str(spec)
        if name not in BUNDLED:
            return list(read_rows(spec))
        recorded = bundled_rows(name, generator)
        if name not in mined:
            mined[name] = _mine(name, config.num_mined + max(len(r.of_source("generated")) for r in recorded), config)
        return list(with_mined(recorded, mined[name]))

    rows = rows_of(config.rows, "counterfactual")
    return rows, None if config.naive_rows is None else rows_of(config.naive_rows, "naive")


def _mine(name: str, num_negatives: int, config: AblateConfig) -> list[Row]:
    settings = shared_options(config, EncoderOptions)
    out = str(config.out / "mined.jsonl")
    mine(MineConfig(**settings, data=name, split="train", out=out, num_negatives=num_negatives))
    return list(read_rows(out))


def with_mined(recorded: Iterable[Row], mined_rows: Iterable[Row]) -> Iterable[Row]:
    """The recorded rows with the mined negatives of the same queries; a mined one that was judged has its verdict."""
    mined = {row.query_id: row.negatives for row in mined_rows}
    for row in recorded:
        verdicts = {negative.text: negative.verdict for negative in row.of_source("mined")}
        found = (replace(negative, verdict=verdicts.get(negative.text)) for negative in mined[row.query_id])
        yield replace(row, negatives=(*found, *row.of_source("generated")))
