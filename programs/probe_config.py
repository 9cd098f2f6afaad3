"""The settings of the probe of prompt injections."""

from dataclasses import dataclass

from data.base.errors import require
from programs.config import AdapterName


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
