"""The options of prompt optimisation."""

from pathlib import Path
from typing import Annotated, Literal

from data.base.errors import InputError, require
from data.base.options import Count, Natural, OpenShare, between, options
from programs.options import FeedbackOptions, ReflectionOptions, RoleOptions

OptimizerName = Literal["gepa", "mipro", "bootstrap"]
PartName = Literal["verifier", "generator", "both"]


@options
class OptimizeConfig(FeedbackOptions, ReflectionOptions, RoleOptions):
    """Compile the prompts against the retriever that is being trained: first the verifier's, then the generator's."""

    refused = (("send", "an optimisation takes no batches, as its search waits for each answer"),)

    rows: Path
    """Training rows with mined negatives in JSONL, as `mine` writes them."""

    out: Path = Path("runs/optimize")
    """Run folder: program/ (the compiled program), store.sqlite, config.json, summary.json. The same command on it goes
    on where it ended: answers that were already paid for are not asked for again."""

    optimizer: OptimizerName = "bootstrap"
    """gepa rewrites instructions from the feedback's words; mipro searches instructions and demonstrations by score;
    bootstrap collects demonstrations that score well."""

    parts: PartName = "both"
    """Which prompts to compile."""

    rollouts: Count = 150
    """How often the search may run a program on an example, for each part."""

    demos: Count = 3
    """At most this many demonstrations in a prompt (bootstrap and mipro)."""

    dev_share: OpenShare = 0.25
    """Share of the rows (0 to 1) on which candidates are compared."""

    held_out_share: OpenShare = 0.25
    """Share of the rows (0 to 1) that the search never sees; before and after are measured on them."""

    concurrency: Annotated[int, between(1, 64)] = 4
    """How many examples are run at once."""

    style_passages: Natural = 2
    """How many mined passages show the generator how the corpus reads, when the profile names none."""

    def __post_init__(self) -> None:
        both = self.dev_share + self.held_out_share
        require(both < 1, "dev-share", "less than 1 together with held-out-share", both)
        if self.optimizer == "gepa" and self.reflection_lm is None:
            raise InputError("gepa needs a model that writes new instructions", field="reflection-lm")
        if self.optimizer == "bootstrap" and self.reflection_lm is not None:
            raise InputError("bootstrap uses no reflection model; leave it out", field="reflection-lm")
