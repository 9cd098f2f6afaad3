"""From model names on the command line to checked models, with the servers that some of them need."""

from contextlib import ExitStack
from pathlib import Path

from data.errors import InputError
from programs import recorded
from programs.lms import ModelSpec, hosted_model, loopback_model
from programs.local_server import PREFIX, LocalServer


class Models:
    """Resolves model names; servers are started once a name and stopped when `stack` closes."""

    def __init__(self, stack: ExitStack, *, max_tokens: int, timeout_s: float, api_key_env: str | None):
        self._stack = stack
        self._max_tokens, self._timeout_s, self._api_key_env = max_tokens, timeout_s, api_key_env
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
            api_key_env=self._api_key_env,
            temperature=temperature,
            max_tokens=self._max_tokens,
            timeout_s=self._timeout_s,
        )

    def _local(self, name: str, *, flag: str, temperature: float | None) -> ModelSpec:
        if name not in self._running:
            server = LocalServer(Path(name.removeprefix(PREFIX)), flag=flag)
            self._running[name] = self._stack.enter_context(server)
        server = self._running[name]
        return loopback_model(
            # Records of generated text name the model, not the place where it lies on this machine.
            f"{PREFIX}{server.path.name}",
            model=f"openai/local-{server.path.stem}",
            api_base=server.api_base,
            token=server.token,
            temperature=temperature,
            max_tokens=self._max_tokens,
            timeout_s=self._timeout_s,
            bounded=True,
        )
