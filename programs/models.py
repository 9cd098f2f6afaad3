"""From model names on the command line to checked models, with the servers that some of them need."""

import hashlib
import os
from contextlib import ExitStack
from pathlib import Path

from data.base.errors import InputError
from programs import recorded
from programs.lms import ModelSpec, hosted_model, loopback_model, provider_of
from programs.local_server import PREFIX, LocalServer

# So much of a file's beginning and end tells it from another one: the metadata stand first, the last tensors end it.
_HASHED_BYTES = 1 << 20


class Models:
    """Resolves model names; servers are started once a name and stopped when `stack` closes.

    The key in the variable `api_key_env` goes to one server alone: that of the first hosted model that is resolved.
    """

    def __init__(self, stack: ExitStack, *, max_tokens: int, timeout_s: float, api_key_env: str | None):
        self._stack = stack
        self._max_tokens, self._timeout_s, self._api_key_env = max_tokens, timeout_s, api_key_env
        self._keyed_server: str | None = None
        self._recorded: recorded.RecordedServer | None = None
        self._running: dict[str, LocalServer] = {}

    def resolve(self, name: str, *, flag: str, temperature: float | None, api_base: str | None = None) -> ModelSpec:
        """The checked model called `name`. Raises InputError that names `flag`."""
        if name.startswith("recorded:"):
            if name != recorded.NAME:
                raise InputError(f"there are no recorded answers called {name!r}: expected {recorded.NAME}", field=flag)
            if self._recorded is None:
                self._recorded = self._stack.enter_context(recorded.RecordedServer())
            return loopback_model(
                name,
                model=recorded.MODEL,
                api_base=self._recorded.api_base,
                token=self._recorded.token,
                temperature=temperature,
                max_tokens=self._max_tokens,
                timeout_s=self._timeout_s,
            )
        if name.startswith(PREFIX):
            return self._local(name, flag=flag, temperature=temperature)
        return hosted_model(
            name,
            flag=flag,
            api_base=api_base,
            api_key_env=self._key_env(name, flag, api_base),
            temperature=temperature,
            max_tokens=self._max_tokens,
            timeout_s=self._timeout_s,
        )

    def _key_env(self, name: str, flag: str, api_base: str | None) -> str | None:
        """The chosen variable for a model at the server that its key is for, None for any other."""
        if self._api_key_env is None:
            return None
        server = provider_of(name, flag) if api_base is None else api_base.rstrip("/")
        self._keyed_server = self._keyed_server or server
        return self._api_key_env if server == self._keyed_server else None

    def _local(self, name: str, *, flag: str, temperature: float | None) -> ModelSpec:
        if name not in self._running:
            server = LocalServer(Path(name.removeprefix(PREFIX)), flag=flag)
            self._running[name] = self._stack.enter_context(server)
        server = self._running[name]
        return loopback_model(
            # Records of generated text name the model, not the place where it lies on this machine.
            f"{PREFIX}{server.path.name}@{file_id(server.path)}",
            model=f"openai/local-{server.path.stem}",
            api_base=server.api_base,
            token=server.token,
            temperature=temperature,
            max_tokens=self._max_tokens,
            timeout_s=self._timeout_s,
            bounded=True,
        )


def is_hosted(name: str) -> bool:
    """Whether the model is called elsewhere: neither recorded nor run on this machine by us."""
    return not name.startswith(("recorded:", PREFIX))


def file_id(path: Path) -> str:
    """Eight hex digits that differ for model files of one name: from the size and both ends, not a whole read."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        digest = hashlib.blake2b(str(size).encode(), digest_size=4)
        for start in (0, max(0, size - _HASHED_BYTES)):
            file.seek(start)
            digest.update(file.read(_HASHED_BYTES))
    return digest.hexdigest()
