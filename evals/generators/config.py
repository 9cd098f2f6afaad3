"""The options of a comparison of generator models and of a probe of a verifier."""

from pathlib import Path
from typing import Annotated

from data.base.arguments import Split
from data.base.errors import require
from data.base.options import Count, options
from programs.options import AdapterName, FeedbackOptions, LMOptions, ModelName, SendOptions, VerifyBy

ModelNames = Annotated[tuple[ModelName, ...], Split(r"[\s,]+")]


@options
class CompareConfig(SendOptions, FeedbackOptions):
    """Run the same rows through several generators, each under the same budget, and rank them."""

    rows: Path
    """Training rows with mined negatives in JSONL, as `mine` writes them."""

    lms: ModelNames
    """Generators to compare: model strings separated by commas or spaces."""

    out: Path = Path("runs/compare")
    """Run folder: one synthesis run folder a model, leaderboard.json and leaderboard.md."""

    verifier_lm: str | None = None
    """One verifier for all of them; None lets every generator verify itself, which compares verdicts as well."""

    max_rows: Count | None = 30

    def __post_init__(self) -> None:
        require(bool(self.lms) and len(set(self.lms)) == len(self.lms), "lms", "model strings, each once", self.lms)


@options
class ProbeConfig(LMOptions):
    """Show a verifier 30 passages that tell it what to say, and count how often it obeys."""

    refused = (("send", "a probe takes no batches: it is 30 passages, judged at once"),)

    lm: ModelName

    adapter: AdapterName = "chat"

    verify: VerifyBy = "line-up"
    """How passages are judged: line-up (among the other passages of their row, whose verdicts an injection might turn
    too) or one-by-one."""
