"""The options of `just queries`: command line, saved config.json and test fixture in one."""

from pathlib import Path
from typing import Annotated

from data.base.errors import require
from data.base.options import Count, Natural, between, options
from programs.options import FallbackOptions, JudgingOptions, LMOptions, ModelName, Temperature


@options
class QueriesConfig(FallbackOptions, JudgingOptions, LMOptions):
    """Write queries for the passages of a corpus that has none, judge each blind, keep those that a retriever finds.

    Writes a BEIR folder with the splits train, dev and test, which `mine`, `train` and `eval` take as data.
    """

    corpus: str
    """Passages: a file with one a line (.jsonl, .csv, ...; text, perhaps title and id), a BEIR folder, or a folder of
    .txt files, each a passage."""

    lm: ModelName

    out: Path = Path("runs/queries")
    """Run folder: a BEIR folder with store.sqlite, config.json and summary.json in it. The same command goes on where
    it ended, also with a higher max-rows."""

    samples: Path | None = None
    """Queries of real users, whose style is imitated: a .txt file, one a line, or a .jsonl or .csv file with a text or
    query a line (None: none; ten are shown, a seeded choice)."""

    queries_per_passage: Count = 2
    """At most this many queries are written for a passage."""

    max_rows: Count | None = None
    """Passages that get queries, a seeded choice of the corpus; None takes all."""

    temperature: Temperature = 0.7
    """Sampling temperature of the writer; the verifier's is 0. Reasoning models get none."""

    retriever: str = "bundled:all-MiniLM-L6-v2"
    """Encoder of the round trip: bundled:NAME, a model folder or a hub name."""

    round_trip: Natural = 20
    """A query is kept when the retriever ranks its passage among the first so many of the corpus; 0 keeps all."""

    dev_percent: Annotated[int, between(0, 49)] = 10
    """Passages of 100 whose queries go into the dev split, by a hash of the passage; as many go into test."""

    def __post_init__(self) -> None:
        require(
            self.verify != "line-up", "verify", "one-by-one, as each query is judged with its own passage", "line-up"
        )
