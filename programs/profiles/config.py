"""The settings of `python -m programs profile`: command line and test fixture in one."""

from dataclasses import dataclass
from pathlib import Path

from data.base.errors import require
from programs.options import AdapterName, require_budget


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileConfig:
    """Draft a corpus profile (what counts as relevant, how passages read) from a sample, for a person to edit."""

    data: str
    """The corpus with some judged queries: BEIR folder, pairs (.jsonl, .parquet), data set folder or hub:ORG/NAME."""

    lm: str
    """Model that drafts: any litellm model string, with its key in the environment."""

    split: str = "train"
    """Split of the data."""

    out: Path = Path("profile.toml")
    """File to write: give it to `synthesize` as profile=FILE."""

    overwrite: bool = False
    """Write over a file that is there."""

    sample: int = 12
    """So many pairs and as many passages are shown to the model, each cut at 800 characters."""

    api_base: str | None = None
    """Address of an OpenAI-compatible server; None takes the provider's own or its environment variable's."""

    api_key_env: str | None = None
    """Name of the environment variable that holds the key; None takes the provider's usual one."""

    adapter: AdapterName = "auto"
    """Layout of prompt and answer: chat, json, xml; auto takes the first one that the model answers readably in."""

    budget_usd: float | None = None
    """Most USD that it may cost; None is no limit. It is one call, or as many as there are layouts to try."""

    budget_tokens: int | None = None
    """Most tokens that it may use; None is no limit."""

    max_tokens: int = 2000
    """Longest answer in tokens."""

    retries: int = 5
    """How often a call is repeated after a rate limit, a server error, a timeout or a lost connection."""

    timeout_s: float = 120.0
    """Seconds to wait for one answer."""

    seed: int = 0
    """Seed of the sample."""

    def __post_init__(self) -> None:
        require(bool(self.lm.strip()), "lm", "a model string", self.lm)
        require(self.sample >= 1, "sample", "at least 1", self.sample)
        require(self.out.suffix == ".toml", "out", "a file whose name ends in .toml", str(self.out))
        require_budget(self.budget_usd, self.budget_tokens)
        require(self.max_tokens >= 16, "max-tokens", "at least 16", self.max_tokens)
        require(self.retries >= 0, "retries", "0 or more", self.retries)
        require(self.timeout_s > 0, "timeout-s", "more than 0 seconds", self.timeout_s)
