"""A model as a role uses it, and the parameters that may go to it with every call."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.base.errors import InputError
from data.base.text import content_id
from programs.lm.faults import redact

# Parameters of a call that are the run's own, or have an option of their own.
_OWN_PARAMETERS = frozenset(
    {"model", "messages", "prompt", "n", "stream", "temperature", "max_tokens", "timeout", "api_base", "base_url",
     "num_retries", "max_retries", "fallbacks", "cache", "caching", "response_format", "rollout_id", "engine",
     "callbacks", "no-log", "mock_response"}
)  # fmt: skip
_SECRET_PARAMETER = re.compile(
    r"(api|access|secret).?key|token$|secret|password|authorization|credential", re.IGNORECASE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One model as a role uses it.

    `name` is what users and records call it; `model` is litellm's string. `key_env` names the environment variable that
    the key came from, where that was chosen. Models that are `is_local` run on this machine and cost nothing; of any
    other model the price is what litellm's list says, or unknown. `schema_constrained` models are decoded under the
    JSON schema, lengths included, so that they cannot run on. A model that `judges_only_known` replays recorded
    verdicts: it has none on passages that it did not write. `in_batches` takes the price of batches. `record` is
    the cassette that its answers go to. `extra` goes to
    litellm with every call, as it is (reasoning_effort, extra_body, num_ctx, api_version): JSON values, and part of
    what makes an answer this model's.
    """

    name: str
    model: str
    api_base: str | None = None
    api_key: str | None = None
    key_env: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    timeout_s: float = 120.0
    is_local: bool = False
    in_batches: bool = False
    record: Path | None = None
    schema_constrained: bool = False
    judges_only_known: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def key(self) -> str:
        """The name, with a hash of `extra` where there is any: the same request to the same key has one answer."""
        return self.name if not self.extra else f"{self.name} {content_id(json.dumps(self.extra, sort_keys=True))}"

    def __repr__(self) -> str:
        # A key must not reach a log or a traceback.
        return f"ModelSpec({self.name!r})"


def check_extra(extra: Mapping[str, Any], *, flag: str) -> None:
    """Raise InputError when a parameter is one that the run sets itself, or could be a secret: what a run is given is
    written into its folder, and keys come from the environment alone."""
    for name, value in extra.items():
        if name in _OWN_PARAMETERS:
            raise InputError(f"{name!r} is set by the run itself or has an option of its own", field=flag)
        if _is_secret(name, value):
            raise InputError(f"{name!r} looks like a secret: keys come from the environment (api-key-env)", field=flag)
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InputError(f"{name!r} is not a JSON value ({error})", field=flag) from None


def _is_secret(name: str, value: Any) -> bool:
    if _SECRET_PARAMETER.search(name):
        return True
    if isinstance(value, Mapping):
        return any(_is_secret(str(each), one) for each, one in value.items())
    if isinstance(value, (list, tuple)):
        return any(_is_secret("", one) for one in value)
    return isinstance(value, str) and "[secret]" in redact(value, limit=len(value))
