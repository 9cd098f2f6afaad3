"""The settings of prompt optimisation."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data.base.errors import InputError, require
from programs.options import AdapterName, require_budget

OptimizerName = Literal["gepa", "mipro", "bootstrap"]
PartName = Literal["verifier", "generator", "both"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizeConfig:
    """Compile the prompts against the retriever that is being trained: first the verifier's, then the generator's."""

    rows: Path
    """Training rows with mined negatives in JSONL, as `mine` writes them."""

    out: Path = Path("runs/optimize")
    """Run folder: program/ (the compiled program), store.sqlite, config.json, summary.json. The same command on it goes
    on where it ended: answers that were already paid for are not asked for again."""

    lm: str = "recorded:demo"
    """Generator: any litellm model string, or recorded:demo."""

    verifier_lm: str | None = None
    """Verifier's model string; None takes the generator's."""

    reflection_lm: str | None = None
    """Model that reads the feedback and writes new instructions. gepa needs one; mipro without one searches only over
    demonstrations; bootstrap uses none."""

    api_base: str | None = None
    """Address of an OpenAI-compatible server for lm; None takes the provider's own or its environment variable's."""

    verifier_api_base: str | None = None
    """Address for verifier_lm; None takes api_base where verifier_lm is not given, else the provider's own."""

    reflection_api_base: str | None = None
    """Address for reflection_lm; None takes the provider's own."""

    api_key_env: str | None = None
    """Name of the environment variable that holds the key; None takes the provider's usual one. The key goes to lm's
    server alone (api_base or, without that, lm's provider): other models take their providers' usual ones."""

    optimizer: OptimizerName = "bootstrap"
    """gepa rewrites instructions from the feedback's words; mipro searches instructions and demonstrations by score;
    bootstrap collects demonstrations that score well."""

    parts: PartName = "both"
    """Which prompts to compile."""

    retriever: str = "bundled:all-MiniLM-L6-v2"
    """The retriever whose feedback is the score: bundled:NAME, a model folder or a hub name."""

    rollouts: int = 150
    """How often the search may run a program on an example, for each part."""

    demos: int = 3
    """At most this many demonstrations in a prompt (bootstrap and mipro)."""

    budget_usd: float | None = None
    """Most USD over generator, verifier and reflector together, restarts included; None is no limit."""

    budget_tokens: int | None = None
    """Most tokens over generator, verifier and reflector together, restarts included; None is no limit."""

    max_rows: int | None = None
    """Use only the first this many rows; None uses all."""

    dev_share: float = 0.25
    """Share of the rows (0 to 1) on which candidates are compared."""

    held_out_share: float = 0.25
    """Share of the rows (0 to 1) that the search never sees; before and after are measured on them."""

    profile: str = "generic"
    """Corpus profile: one that ships (generic, encyclopaedic_qa, multi_hop_qa, web_search, scientific_claims,
    help_centre) or a .toml file, as `profile` drafts one."""

    adapter: AdapterName = "auto"
    """Layout of prompts and answers: chat, json or xml; auto takes the first that the model answers a probe call in."""

    negatives_per_row: int = 4
    """At most this many negatives are tried for a row."""

    ranking_temperature: float = 0.05
    """Temperature of the InfoNCE softmax whose weights are the signal; take the one that the retriever trains with."""

    temperature: float = 0.7
    """Sampling temperature of the generator; the verifier's is 0, the reflector's 1."""

    max_tokens: int = 2000
    """Longest answer of generator and verifier in tokens; the reflector's is four times that."""

    concurrency: int = 4
    """How many examples are run at once."""

    retries: int = 5
    """How often a call is repeated after a rate limit, a server error, a timeout or a lost connection."""

    timeout_s: float = 120.0
    """Seconds to wait for one answer."""

    style_passages: int = 3
    """How many mined passages show the generator how the corpus reads, when the profile names none."""

    seed: int = 0
    """Seed of the split and the search."""

    def __post_init__(self) -> None:
        require(bool(self.lm.strip()), "lm", "a model string", self.lm)
        require(self.rollouts >= 1, "rollouts", "at least 1", self.rollouts)
        require(self.demos >= 1, "demos", "at least 1", self.demos)
        require_budget(self.budget_usd, self.budget_tokens)
        require(self.max_rows is None or self.max_rows >= 1, "max-rows", "at least 1", self.max_rows)
        require(0 < self.dev_share < 1, "dev-share", "a share above 0 and below 1", self.dev_share)
        require(0 < self.held_out_share < 1, "held-out-share", "a share above 0 and below 1", self.held_out_share)
        both = self.dev_share + self.held_out_share
        require(both < 1, "dev-share", "less than 1 together with held-out-share", both)
        require(self.negatives_per_row >= 1, "negatives-per-row", "at least 1", self.negatives_per_row)
        require(self.ranking_temperature > 0, "ranking-temperature", "more than 0", self.ranking_temperature)
        require(0 <= self.temperature <= 2, "temperature", "0 to 2", self.temperature)
        require(self.max_tokens >= 16, "max-tokens", "at least 16", self.max_tokens)
        require(1 <= self.concurrency <= 64, "concurrency", "1 to 64", self.concurrency)
        require(self.retries >= 0, "retries", "0 or more", self.retries)
        require(self.timeout_s > 0, "timeout-s", "more than 0 seconds", self.timeout_s)
        if self.optimizer == "gepa" and self.reflection_lm is None:
            raise InputError("gepa needs a model that writes new instructions", field="reflection-lm")
        if self.optimizer == "bootstrap" and self.reflection_lm is not None:
            raise InputError("bootstrap uses no reflection model; leave it out", field="reflection-lm")
