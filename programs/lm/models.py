"""Language models by litellm model string: what a role runs on, checked before the first call."""

import json
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import dspy
import litellm
from dspy.utils.exceptions import LMConfigurationError

from data.base.errors import InputError
from data.base.text import content_id, public_address
from programs.lm.faults import redact, register_address, register_secret
from programs.lm.servers import cassette, recorded
from programs.lm.servers.cassette import CassetteServer, recorder
from programs.lm.servers.local import PREFIX, LocalServer, file_id
from programs.lm.servers.loopback import LoopbackServer
from programs.options import CallOptions

log = logging.getLogger(__name__)
Server = TypeVar("Server", bound=LoopbackServer | LocalServer)

# What is given for an address where the provider's own is meant.
OWN_ADDRESS = "provider"

# Without this litellm prints a banner to stdout on every error.
litellm.suppress_debug_info = True

# Providers whose servers take a JSON schema for any model they run, which litellm's model list cannot know.
_SCHEMA_PROVIDERS = frozenset({"hosted_vllm", "vllm", "ollama_chat", "lm_studio", "llamafile"})
# Providers whose credentials litellm may fetch over the network while it prepares a call.
_FETCH_CREDENTIALS = frozenset(
    {"vertex_ai", "vertex_ai_beta", "gemini", "bedrock", "sagemaker", "sagemaker_chat", "azure", "azure_ai", "watsonx",
     "oci", "sap", "gigachat", "github_copilot", "databricks", "snowflake", "predibase"}
)  # fmt: skip
# The OpenAI client wants some key even for a server that asks for none.
_NO_KEY = "none"
# What litellm 1.106 takes besides keys, by provider; its validate_environment calls keys missing beside each of them.
_AWS = ("AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
_OTHER_CREDENTIALS = {
    "bedrock": ("AWS_BEARER_TOKEN_BEDROCK", *_AWS),
    "sagemaker": _AWS,
    "sagemaker_chat": _AWS,
    "azure": ("AZURE_AD_TOKEN", "AZURE_OPENAI_AD_TOKEN", "AZURE_CLIENT_SECRET", "AZURE_FEDERATED_TOKEN_FILE"),
    "vertex_ai": ("GOOGLE_APPLICATION_CREDENTIALS",),
}
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


def _register_with_litellm(spec: ModelSpec) -> None:
    """Put a model on litellm's list, without a price, where the list says too little of it.

    A server of one's own that speaks OpenAI's protocol has models that nobody lists; for each call to one litellm goes
    through all its rules for unknown names, several times.
    """
    provider = str(litellm.get_llm_provider(spec.model)[1])
    entry: dict[str, Any] = {"litellm_provider": provider, "mode": "chat"}
    if spec.is_local or provider in _SCHEMA_PROVIDERS:
        entry["supports_response_schema"] = True
        listed = litellm.supports_response_schema(spec.model, custom_llm_provider=provider)
    else:
        listed = provider != "openai" or _is_listed(spec.model)
    if not listed:
        litellm.register_model({spec.model: entry})


def _is_listed(name: str) -> bool:
    try:
        litellm.get_model_info(name)
    except litellm.exceptions.ModelNotMappedError:
        return False
    return True


def call_settings(spec: ModelSpec) -> dict[str, Any]:
    """The keyword arguments of every call to this model. Retries are ours: litellm's and the client's own are off."""
    _register_with_litellm(spec)
    settings = {
        "model": spec.model,
        "api_base": spec.api_base,
        "api_key": spec.api_key,
        "temperature": spec.temperature,
        "max_tokens": spec.max_tokens,
        "timeout": spec.timeout_s,
        "num_retries": 0,
        "max_retries": 0,
    }
    return {name: value for name, value in settings.items() if value is not None} | dict(spec.extra)


def reads_schema(spec: ModelSpec) -> bool:
    """Whether the provider shows the model the JSON schema of a request, and counts its tokens. A server of one's own
    decodes under it at most, so that the model knows the schema from the prompt alone."""
    provider = str(litellm.get_llm_provider(spec.model)[1])
    if spec.is_local or spec.schema_constrained or provider in _SCHEMA_PROVIDERS:
        return False
    return bool(litellm.supports_response_schema(spec.model, custom_llm_provider=provider))


def abilities(spec: ModelSpec) -> dict[str, Any]:
    """What litellm's list says that this model takes, in DSPy's names."""
    provider = str(litellm.get_llm_provider(spec.model)[1])
    return {
        "supports_function_calling": litellm.supports_function_calling(spec.model),
        "supports_reasoning": litellm.supports_reasoning(spec.model),
        "supports_response_schema": litellm.supports_response_schema(spec.model, custom_llm_provider=provider),
        "supported_params": litellm.get_supported_openai_params(spec.model, custom_llm_provider=provider) or [],
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """USD a token; `cached` is that of prompt tokens that the provider had in its cache."""

    prompt: float
    completion: float
    cached: float | None = None


def known_price(spec: ModelSpec) -> Price | None:
    """The model's price as it is called, or None when nobody has said what that costs (litellm itself would call it
    zero). Batches have a price of their own."""
    if spec.is_local:
        return Price(prompt=0.0, completion=0.0)
    provider, _, bare = spec.model.partition("/")
    named, listed = litellm.model_cost.get(spec.model) or {}, litellm.model_cost.get(bare) or {}
    # A bare name on the list is one provider's model (gpt-4o is OpenAI's); another server that runs a model of that
    # name takes its own price. Some providers are listed in parts: vertex_ai-language-models, bedrock_converse.
    bare_entries = [listed] if str(listed.get("litellm_provider")).startswith(provider) else []
    for entry in (named, *bare_entries):
        kind = "_batches" if spec.in_batches else ""
        prompt, completion = entry.get(f"input_cost_per_token{kind}"), entry.get(f"output_cost_per_token{kind}")
        if prompt is not None and completion is not None and min(prompt, completion) >= 0:
            cached = entry.get(f"cache_read_input_token_cost{kind}")
            return Price(
                prompt=float(prompt), completion=float(completion), cached=None if cached is None else float(cached)
            )
    return None


def needs_no_auth_call(spec: ModelSpec) -> bool:
    """Whether a call to this model is prepared without waiting for anything."""
    return spec.model.partition("/")[0] not in _FETCH_CREDENTIALS


def provider_of(name: str, flag: str) -> str:
    """The provider of a litellm model string. Raises InputError that names `flag` when litellm knows none."""
    try:
        return str(litellm.get_llm_provider(name)[1])
    except (litellm.BadRequestError, ValueError) as error:
        raise InputError(
            f"unknown model {name!r}: expected provider/model as litellm names them, such as openai/gpt-4.1-mini, "
            "ollama_chat/qwen3:8b or hosted_vllm/NAME with an api_base, or recorded:demo",
            field=flag,
        ) from error


def _key(name: str, provider: str, *, flag: str, api_base: str | None, api_key_env: str | None) -> str | None:
    if api_key_env is not None:
        key = os.environ.get(api_key_env)
        if not key:
            raise InputError(f"the environment variable {api_key_env} that should hold the key is not set", field=flag)
        return register_secret(key)
    # An address and a version of an API have defaults or options of their own; where one of several variables is not
    # set, litellm calls all of them missing.
    asked = litellm.validate_environment(name)["missing_keys"]
    missing = [key for key in asked if not key.endswith(("_BASE", "_VERSION")) and not os.environ.get(key)]
    others = [other for other in _OTHER_CREDENTIALS.get(provider, ()) if os.environ.get(other)]
    if missing and "AZURE_AD_TOKEN" in others:
        # litellm reads it and does not hand it on; this is the name that its client takes it from.
        os.environ.setdefault("AZURE_OPENAI_AD_TOKEN", os.environ["AZURE_AD_TOKEN"])
    if others or not missing:
        return None
    if api_base is not None:
        return _NO_KEY
    raise InputError(f"{name} needs {' and '.join(missing)} in the environment", field=flag)


class Models:
    """Resolves model names; servers are started once a name and stopped when `stack` closes.

    The first hosted model that is resolved is at the options' `api_base` (None: the provider's own address), and so are
    further ones of its provider, which get `extra` with every call as it does. The key in the variable `api_key_env`
    goes to its server alone. Raises InputError when `extra` cannot be sent (see `check_extra`) or `api_base` is no
    address.
    """

    def __init__(self, stack: ExitStack, options: CallOptions):
        self._stack, self._options = stack, options
        self._extra = dict(options.extra or {})
        check_extra(self._extra, flag="extra")
        self._first_provider = ""
        self._keyed_server: str | None = None
        self._record = options.record
        if self._record is not None:
            recorder(self._record)
        self._servers: dict[str, Any] = {}

    def resolve(self, name: str, *, flag: str, temperature: float | None, api_base: str | None = None) -> ModelSpec:
        """The checked model called `name`: recorded answers, a model file, or one that litellm knows, with its key.

        `api_base` is an address, "provider" for the provider's own, or None for the one that the class says.
        Raises InputError that names `flag`. Reasoning models get no temperature and no token limit, which they refuse.
        """
        shared: dict[str, Any] = {
            "temperature": temperature,
            "max_tokens": self._options.max_tokens,
            "timeout_s": self._options.timeout_s,
            "record": self._record,
        }
        if name in recorded.CORPORA:
            served = _served_by(self._started(name, lambda: recorded.RecordedServer(name)))
            model = f"openai/{name.replace(':', '-')}"
            return ModelSpec(name=name, model=model, judges_only_known=True, **served, **shared)
        if name.startswith(cassette.PREFIX):
            path = Path(name.removeprefix(cassette.PREFIX)).expanduser()
            if not path.is_file():
                raise InputError(
                    f"there are no recorded answers called {name!r}: expected {' or '.join(recorded.CORPORA)}, or "
                    f"{cassette.PREFIX}FILE of a cassette that `record` wrote",
                    field=flag,
                )
            if self._record is not None and path.samefile(self._record.expanduser()):
                raise InputError(f"is what {flag} replays: record into another file", file=path, field="record")
            tape = self._started(name, lambda: CassetteServer(path))
            return ModelSpec(
                name=f"{cassette.PREFIX}{path.name}",
                model=cassette.MODEL,
                # What was recorded of the demo's answers has no other verdicts either.
                judges_only_known=tape.models <= recorded.CORPORA.keys(),
                **_served_by(tape),
                **shared,
            )
        if name.startswith(PREFIX):
            server = self._started(name, lambda: LocalServer(Path(name.removeprefix(PREFIX)), flag=flag))
            return ModelSpec(
                # Records of generated text name the model, not the place where it lies on this machine.
                name=f"{PREFIX}{server.path.name}@{file_id(server.path)}",
                model=f"openai/local-{server.path.stem}",
                schema_constrained=True,
                **_served_by(server),
                **shared,
            )
        provider = provider_of(name, flag)
        self._first_provider = self._first_provider or provider
        same = provider == self._first_provider
        if api_base is None and same:
            api_base = self._options.api_base
        api_base = None if api_base == OWN_ADDRESS else api_base and _checked_address(api_base, flag)
        key_env = self._key_env(provider, api_base)
        key = _key(name, provider, flag=flag, api_base=api_base, api_key_env=key_env)
        spec = ModelSpec(
            name=name,
            model=name,
            api_base=api_base,
            api_key=key,
            key_env=key_env,
            extra=self._extra if same else {},
            **shared,
        )
        _register_with_litellm(spec)
        if litellm.supports_reasoning(name) or _refuses_sampling(name):
            spec = replace(spec, temperature=None, max_tokens=None)
        return spec

    def _started(self, name: str, make: Callable[[], Server]) -> Server:
        """The one server of that name, started when it is first asked for."""
        if name not in self._servers:
            self._servers[name] = self._stack.enter_context(make())
        server: Server = self._servers[name]
        return server

    def _key_env(self, provider: str, api_base: str | None) -> str | None:
        """The chosen variable for a model at the server that its key is for, None for any other."""
        if self._options.api_key_env is None:
            return None
        server = provider if api_base is None else api_base.rstrip("/")
        self._keyed_server = self._keyed_server or server
        return self._options.api_key_env if server == self._keyed_server else None


def _checked_address(address: str, flag: str) -> str:
    try:
        parts = urlsplit(address)
        # A port that is none is found when it is asked for.
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and not parts.fragment
    except ValueError:
        usable = False
    if not usable:
        raise InputError(
            f"{public_address(address)!r} is no address: expected http://... or https://..., or {OWN_ADDRESS} for the "
            "provider's own",
            field=flag.replace("lm", "api-base"),
        )
    return register_address(address)


def log_roles(specs: Mapping[str, Sequence[ModelSpec]]) -> None:
    """Say which model answers in which role and where it is, before anything is sent there."""
    for role, models in specs.items():
        log.info("%s: %s", role, ", then ".join(f"{spec.name} {place_of(spec)}" for spec in models))


def place_of(spec: ModelSpec) -> str:
    """Where a model is, in words and without secrets."""
    if spec.is_local:
        return "on this machine"
    provider = str(litellm.get_llm_provider(spec.model)[1])
    named = (f"{provider.upper()}_BASE_URL", f"{provider.upper()}_API_BASE")
    address = spec.api_base or next((os.environ[name] for name in named if os.environ.get(name)), None)
    return f"at {public_address(address)}" if address else f"at {provider}'s own address"


def _served_by(server: LoopbackServer | LocalServer) -> dict[str, Any]:
    return {"api_base": server.api_base, "api_key": server.token, "is_local": True}


def _refuses_sampling(name: str) -> bool:
    """Whether DSPy knows this for a reasoning model, though litellm's list may not yet."""
    try:
        dspy.LM(name, temperature=0.5, max_tokens=1)
    except LMConfigurationError:
        return True
    return False


def is_hosted(name: str) -> bool:
    """Whether the model is called elsewhere: neither recorded nor run on this machine by us."""
    return not name.startswith(("recorded:", PREFIX))
