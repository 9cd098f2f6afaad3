"""The options of the synthesis run: command line, saved config.json and test fixture in one."""

from dataclasses import fields
from pathlib import Path
from typing import Literal

from data.base.errors import require
from data.base.options import Count, Natural, NotNegative, Share, options
from data.base.outputs import ForceOption
from programs.options import (
    BandText,
    FallbackOptions,
    JudgingOptions,
    LMOptions,
    MinedRelevant,
    RankingOptions,
    RoleOptions,
    SendOptions,
)

Engine = Literal["local", "ray"]
Method = Literal["counterfactual", "naive", "verify"]


@options
class RowRunOptions(FallbackOptions, SendOptions, JudgingOptions, LMOptions):
    """How rows are worked on by language models in a folder that a run can go on in."""

    verify_mined: Natural = 4
    """So many mined negatives of a row, the nearest ones, are judged with its own; 0 judges none."""

    mined_relevant: MinedRelevant = "promote"
    """What becomes of a mined negative that answers the query: promote (a further positive), drop, or keep."""

    canary_share: Share = 0.25
    """Share of the rows (0 to 1) whose known positive is verified blind too, to measure what the verifier misses, where
    passages are judged one by one. A line-up has it in every row."""

    max_miss_rate: Share = 0.2
    """The verifier is unusable when the 95% interval of its miss rate on 20 known positives or more lies above this
    share."""

    accept_unusable_verifier: bool = False
    """Keep the negatives even when the canaries show that the verifier is unusable."""

    again: bool = False
    """Make rows anew, and pay for them again, that this folder has finished with other settings."""

    agreement_sample: Natural = 0
    """So many rows are judged in the other way too (one by one, or in a line-up), to measure how far the two agree."""


@options
class SynthesizeConfig(RankingOptions, RowRunOptions, RoleOptions):
    """Write and verify counterfactual negatives for the rows of a JSONL file."""

    rows: Path
    """Training rows in JSONL, as `mine` writes them, without generated negatives (mined ones are kept; some of those of
    other rows are shown to the model as style)."""

    out: Path = Path("runs/synthesize")
    """Run folder: rows.jsonl, store.sqlite, config.json, summary.json. The same command goes on where it ended, also
    with a higher max-rows."""

    method: Method = "counterfactual"
    """counterfactual: extract, violate, verify. naive: the baseline of `ablate`, one plain prompt; what it writes is
    judged only where `verify` says how. verify: nothing is written, as `just verify` does."""

    program: Path | None = None
    """Folder of a compiled program, as `optimize` writes them; None uses the prompts as they stand in the code."""

    repairs: Natural = 1
    """How often a draft that the verifier refused is written again, told what was wrong; 0 drops it at once."""

    retriever: str | None = None
    """Retriever that scores each accepted draft: bundled:NAME, a model folder or a hub name, best the one that is being
    trained; None scores none."""

    hardness: BandText | None = None
    """LOW..HIGH: the band of InfoNCE weight that accepted drafts are to have beside their row's positives and mined
    negatives. One below it is written again, told so, while there are repairs left, and the harder one is kept; one
    above it is judged twice. None is 0.01..1 where a retriever is named."""

    judge_twice_above: NotNegative = 0.05
    """A draft is judged twice, and must be accepted both times, whose similarity to the query is above the positive's
    by more than this, or whose weight is above the band."""

    engine: Engine = "local"
    """Where rows are worked on: local (this process) or ray (actors on a Ray cluster; extra `ray`)."""

    ray_actors: Count = 2
    """Actors that work on rows with engine=ray; `concurrency` and the budgets hold over all of them."""

    ray_address: str | None = None
    """Address of a running Ray cluster, as ray.init takes it; None makes one on this machine for the run."""

    style_passages: Natural = 2
    """How many mined passages show the generator how the corpus reads, when the profile names none."""

    def __post_init__(self) -> None:
        in_process = self.send == "calls" or self.engine == "local"
        require(in_process, "send", "calls with --engine ray, whose actors have no batches in common", self.send)
        alone = self.send == "calls" or not self.agreement_sample
        require(alone, "agreement-sample", "0 with --send batch or files", self.agreement_sample)
        recorded = self.record is None or self.engine == "local"
        require(recorded, "record", "none with --engine ray, whose actors write no one file", self.record)
        if self.retriever is None:
            require(self.hardness is None, "hardness", "none without --retriever, which measures it", self.hardness)
        else:
            in_process = self.engine == "local"
            require(in_process, "retriever", "none with --engine ray, whose actors load no retriever", self.retriever)
            writes = self.method == "counterfactual"
            require(writes, "retriever", "none but with --method counterfactual", self.retriever)
        if self.method == "naive":
            judges = self.verify is not None or not self.agreement_sample
            require(judges, "agreement-sample", "0 without --verify, as nothing is judged", self.agreement_sample)
            require(self.program is None, "program", "none with --method naive, which is never compiled", self.program)


@options
class PromptsConfig(SynthesizeConfig, ForceOption):
    """Show the messages that `synthesize` would send for the first rows, with the same options, without any model."""

    max_rows: Count | None = 3
    """Use only the first this many rows; None uses all."""

    write: Path | None = None
    """File that receives the prompts; None prints them."""


@options
class TryConfig(RoleOptions):
    """Write and verify the negatives of one row, and show them beside its passage."""

    query: str | None = None
    """The query; None, with recorded:demo, shows the demo's first row."""

    passage: str | None = None
    """A passage that answers it; None, with recorded:demo, takes the demo's."""

    def __post_init__(self) -> None:
        if self.lm != "recorded:demo":
            for name, value in (("query", self.query), ("passage", self.passage)):
                require(bool(value and value.strip()), name, "a text, as --lm is a model of your own", value)


@options
class VerifyConfig(RowRunOptions):
    """Judge the mined negatives of rows from anywhere; nothing is written.

    A row is judged by its requirements, or by those that are extracted from its positive first.
    """

    rows: Path
    """Training rows in JSONL, as `mine` and `convert` write them. Generated negatives without a verdict are judged too:
    those that answer the query are left out."""

    out: Path
    """Run folder: rows.jsonl, store.sqlite, config.json, summary.json. The same command goes on where it ended."""

    def as_synthesis(self) -> SynthesizeConfig:
        """The run that does it."""
        return SynthesizeConfig(method="verify", **{field.name: getattr(self, field.name) for field in fields(self)})
