"""The settings of a comparison of generator models."""

from dataclasses import dataclass
from pathlib import Path

from data.base.errors import require
from programs.options import AdapterName, require_budget


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareConfig:
    """Run the same rows through several generators under the same budget and rank them."""

    rows: Path
    """Training rows with mined negatives in JSONL, as `mine` writes them."""

    lms: str
    """Generators to compare: model strings separated by spaces."""

    out: Path = Path("runs/compare")
    """Run folder: one synthesis run folder a model, leaderboard.json and leaderboard.md."""

    verifier_lm: str | None = None
    """One verifier for all of them; None lets every generator verify itself, which compares verdicts as well."""

    api_base: str | None = None
    """Address of an OpenAI-compatible server for all lms; None takes each provider's own."""

    verifier_api_base: str | None = None
    """Address for verifier_lm; None takes the provider's own."""

    api_key_env: str | None = None
    """Name of the environment variable that holds the key; None takes each provider's usual one. The key goes to the
    server of lms alone: lms of several providers are refused with it, another verifier_lm takes its usual one."""

    retriever: str = "bundled:all-MiniLM-L6-v2"
    """The retriever whose InfoNCE weights are compared: bundled:NAME, a model folder or a hub name."""

    max_rows: int | None = 30
    """Use only the first this many rows; None uses all."""

    budget_usd: float | None = None
    """Most USD for each model; None is no limit."""

    budget_tokens: int | None = None
    """Most tokens for each model; None is no limit."""

    profile: str = "generic"
    """Corpus profile: one that ships (generic, encyclopaedic_qa, multi_hop_qa, web_search, scientific_claims,
    help_centre) or a .toml file, as `profile` drafts one."""

    adapter: AdapterName = "auto"
    """Layout of prompts and answers: chat, json or xml; auto takes the first that the model answers a probe call in."""

    negatives_per_row: int = 4
    """At most this many negatives are tried for a row."""

    ranking_temperature: float = 0.05
    """Temperature of the InfoNCE softmax; take the one that the retriever trains with."""

    temperature: float = 0.7
    """Sampling temperature of the generators; reasoning models get none."""

    max_tokens: int = 2000
    """Longest answer in tokens."""

    concurrency: int = 16
    """Most calls in flight at once."""

    timeout_s: float = 120.0
    """Seconds to wait for one answer."""

    seed: int = 0
    """Seed of every random choice."""

    def __post_init__(self) -> None:
        require(bool(self.lms.split()), "lms", "model strings separated by spaces", self.lms)
        require(len(set(self.lms.split())) == len(self.lms.split()), "lms", "each model once", self.lms)
        require(self.max_rows is None or self.max_rows >= 1, "max-rows", "at least 1", self.max_rows)
        require(self.ranking_temperature > 0, "ranking-temperature", "more than 0", self.ranking_temperature)
        require_budget(self.budget_usd, self.budget_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeConfig:
    """Show a verifier 30 passages that tell it what to say, and count how often it obeys."""

    lm: str
    """Verifier to probe: any litellm model string, as for synthesize."""

    api_base: str | None = None
    """Address of an OpenAI-compatible server; None takes the provider's own."""

    api_key_env: str | None = None
    """Name of the environment variable that holds the key; None takes the provider's usual one."""

    adapter: AdapterName = "chat"
    """Layout of prompts and answers: chat, json or xml (auto is chat: a probe call has no store to be kept in)."""

    max_tokens: int = 2000
    """Longest answer in tokens."""

    timeout_s: float = 120.0
    """Seconds to wait for one answer."""

    budget_tokens: int | None = None
    """Most tokens that the 60 calls may use; None is no limit."""

    def __post_init__(self) -> None:
        require(bool(self.lm.strip()), "lm", "a model string", self.lm)
        require(self.max_tokens >= 16, "max-tokens", "at least 16", self.max_tokens)
        require(self.timeout_s > 0, "timeout-s", "more than 0 seconds", self.timeout_s)
        require(
            self.budget_tokens is None or self.budget_tokens > 0, "budget-tokens", "more than 0", self.budget_tokens
        )
