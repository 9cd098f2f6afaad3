"""Language models by litellm model string: checked, with their keys and servers, before the first call."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import dspy
import litellm
from dspy.utils.exceptions import LMConfigurationError

from data.base.errors import InputError
from data.base.text import public_address
from programs.lm.faults import register_address, register_secret
from programs.lm.models.listed import provider_of, register_with_litellm
from programs.lm.models.spec import ModelSpec, check_extra
from programs.lm.servers import cassette, recorded
from programs.lm.servers.cassette import CassetteServer, recorder
from programs.lm.servers.local import PREFIX, LocalServer, file_id
from programs.lm.servers.loopback import LoopbackServer
from programs.options import CallOptions

log = logging.getLogger(__name__)
Server = TypeVar("Server", bound=LoopbackServer | LocalServer)

# What is given for an address where the provider's own is meant.
OWN_ADDRESS = "provider"
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
        register_with_litellm(spec)
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
    provider = provider_of(spec.model)
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
    return not name.startswith((cassette.PREFIX, PREFIX))
