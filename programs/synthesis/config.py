"""The settings of the synthesis run: command line, saved config.json and test fixture in one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data.base.errors import require
from programs.options import AdapterName, require_budget

Engine = Literal["local", "ray"]
Method = Literal["counterfactual", "naive"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthesizeConfig:
    """Write and verify counterfactual negatives for the rows of a JSONL file."""

    rows: Path
    """Training rows in JSONL, as `mine` writes them, without generated negatives (mined ones are kept; some of those of
    the first rows are shown to the model as style)."""

    out: Path = Path("runs/synthesize")
    """Run folder: rows.jsonl, store.sqlite, config.json, summary.json. The same command goes on where it ended."""

    method: Method = "counterfactual"
    """counterfactual: extract, violate, verify. naive: the baseline of `ablate`, one plain prompt and no verifier."""

    lm: str = "recorded:demo"
    """Generator: any litellm model string (openai/gpt-4.1-mini, ollama_chat/qwen3:8b, hosted_vllm/NAME), with its key
    in the environment, or recorded:demo, which replays the answers recorded for the demo queries."""

    verifier_lm: str | None = None
    """Verifier's model string; None takes the generator's."""

    lm_fallbacks: str | None = None
    """Model strings, separated by commas, that get a call which lm gave up on, in this order; None for none."""

    verifier_fallbacks: str | None = None
    """The same for the verifier; None for none."""

    api_base: str | None = None
    """Address of an OpenAI-compatible server for lm; None takes the provider's own or its environment variable's."""

    verifier_api_base: str | None = None
    """Address for verifier_lm; None takes api_base where verifier_lm is not given, else the provider's own."""

    api_key_env: str | None = None
    """Name of the environment variable that holds the key; None takes the provider's usual one. The key goes to lm's
    server alone (api_base or, without that, lm's provider): other models take their providers' usual ones."""

    program: Path | None = None
    """Folder of a compiled program, as `optimize` writes them; None uses the prompts as they stand in the code."""

    profile: str = "generic"
    """Corpus profile (what counts as relevant, how passages read): one that ships (generic, encyclopaedic_qa,
    multi_hop_qa, web_search, scientific_claims, help_centre) or a .toml file, as `profile` drafts one."""

    adapter: AdapterName = "auto"
    """Layout of prompts and answers: chat (marked sections), json (with a schema where the server takes one), xml; auto
    takes the first one that the model answers a probe call in."""

    negatives_per_row: int = 4
    """At most this many generated negatives are tried for a row."""

    batched: bool = False
    """Write all violations of a row in one call: fewer and cheaper requests, but one bad answer loses them all, and a
    program must have been compiled for it."""

    repairs: int = 1
    """How often a draft that the verifier refused is written again with its reason; 0 drops it at once."""

    max_rows: int | None = None
    """Use only the first this many rows; None uses all, and finished ones are kept when it is raised."""

    canary_share: float = 0.25
    """Share of the rows (0 to 1) whose known positive is verified blind too, to measure what the verifier misses."""

    max_miss_rate: float = 0.2
    """The verifier is unusable when the 95% interval of its miss rate on known positives lies above this share."""

    accept_unusable_verifier: bool = False
    """Keep the negatives even when the canaries show that the verifier is unusable."""

    budget_usd: float | None = None
    """Most USD that the calls of this run folder may cost, all roles and restarts together; None is no limit. Each call
    is reserved before it is made. A model of unknown price is refused."""

    budget_tokens: int | None = None
    """Most tokens that the calls of this run folder may use, all roles and restarts together; None is no limit."""

    temperature: float = 0.7
    """Sampling temperature of the generator; the verifier's is 0. Reasoning models get none."""

    max_tokens: int = 2000
    """Longest answer in tokens; an answer that is cut off is asked for once more with twice as many."""

    concurrency: int = 16
    """Most calls in flight at once; fewer while the server says that it is too many."""

    engine: Engine = "local"
    """Where rows are worked on: local (this process) or ray (actors on a Ray cluster; extra `ray`)."""

    ray_actors: int = 2
    """Actors that work on rows with engine=ray; `concurrency` and the budgets hold over all of them."""

    ray_address: str | None = None
    """Address of a running Ray cluster, as ray.init takes it; None makes one on this machine for the run."""

    retries: int = 5
    """How often a call is repeated after a rate limit, a server error, a timeout or a lost connection."""

    malformed_retries: int = 2
    """How often an answer that cannot be read is asked for again."""

    timeout_s: float = 120.0
    """Seconds to wait for one answer."""

    style_passages: int = 3
    """How many mined passages show the generator how the corpus reads, when the profile names none."""

    seed: int = 0
    """Seed of every random choice (style passages, canaries, the jitter of retries)."""

    def __post_init__(self) -> None:
        require(bool(self.lm.strip()), "lm", "a model string", self.lm)
        if self.method == "naive":
            recorded = self.lm == "recorded:demo"
            require(not recorded, "lm", "a model with --method naive, which recorded:demo has no answers for", self.lm)
            require(self.program is None, "program", "none with --method naive, which is never compiled", self.program)
        require(self.negatives_per_row >= 1, "negatives-per-row", "at least 1", self.negatives_per_row)
        require(self.repairs >= 0, "repairs", "0 or more", self.repairs)
        require(self.max_rows is None or self.max_rows >= 1, "max-rows", "at least 1", self.max_rows)
        require(0 <= self.canary_share <= 1, "canary-share", "a share from 0 to 1", self.canary_share)
        require(0 <= self.max_miss_rate <= 1, "max-miss-rate", "a share from 0 to 1", self.max_miss_rate)
        require_budget(self.budget_usd, self.budget_tokens)
        require(0 <= self.temperature <= 2, "temperature", "0 to 2", self.temperature)
        require(self.max_tokens >= 16, "max-tokens", "at least 16", self.max_tokens)
        require(1 <= self.concurrency <= 1024, "concurrency", "1 to 1024", self.concurrency)
        require(self.ray_actors >= 1, "ray-actors", "at least 1", self.ray_actors)
        require(self.retries >= 0, "retries", "0 or more", self.retries)
        require(self.malformed_retries >= 0, "malformed-retries", "0 or more", self.malformed_retries)
        require(self.timeout_s > 0, "timeout-s", "more than 0 seconds", self.timeout_s)
        require(self.style_passages >= 0, "style-passages", "0 or more", self.style_passages)
