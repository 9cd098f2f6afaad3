"""`local:/path/to/model.gguf`: llama.cpp's OpenAI-compatible server as a child process, with constrained decoding."""

import contextlib
import hashlib
import importlib.util
import json
import os
import secrets
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from data.base.errors import InputError

PREFIX = "local:"
_GGUF_MAGIC = b"GGUF"
_CONTEXT_TOKENS = 16_384
_PARALLEL = 2
# A large model takes minutes to be read from a slow disk.
_START_S = 600.0
_STOP_S = 5.0
# So much of a file's beginning and end tells it from another one: the metadata stand first, the last tensors end it.
_HASHED_BYTES = 1 << 20


class LocalServer:
    """Runs one GGUF model on a free loopback port with a random key. Use it as a context manager.

    The child ends with this process, also when that is killed. Raises InputError when the extra is not installed, the
    file is no GGUF model or the runtime cannot load it.
    """

    def __init__(self, path: Path, *, flag: str):
        self.path, self._flag = path, flag
        self.token = f"loopback-{secrets.token_urlsafe(24)}"
        self.api_base = ""
        _check(path, flag)

    def __enter__(self) -> Self:
        self._child = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.local_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Threads that spin while they wait would take the cores from the rest of the run.
            env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"},
            # Ctrl-C is for this process alone: answers in flight are still wanted for a moment.
            start_new_session=True,
            text=True,
        )
        order = {
            "model": str(self.path.resolve()),
            "key": self.token,
            "context": _CONTEXT_TOKENS,
            "parallel": _PARALLEL,
        }
        watchdog = threading.Timer(_START_S, self._child.kill)
        watchdog.start()
        try:
            assert self._child.stdin is not None
            assert self._child.stdout is not None
            self._child.stdin.write(json.dumps(order) + "\n")
            self._child.stdin.flush()
            line = self._child.stdout.readline()
            found = json.loads(line) if line else {"error": "it ended without a word"}
        except (OSError, ValueError) as error:
            found = {"error": str(error)}
        finally:
            watchdog.cancel()
        if "error" in found:
            self._end()
            raise InputError(f"llama.cpp cannot load {self.path}: {found['error']}", field=self._flag)
        self.api_base = f"{found['address']}/v1"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        with contextlib.suppress(OSError):
            if self._child.stdin is not None:
                self._child.stdin.close()
        try:
            self._child.wait(timeout=_STOP_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        if self._child.stdout is not None:
            self._child.stdout.close()


def _check(path: Path, flag: str) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise InputError(f"cannot read the model {path}: {error.strerror}", field=flag) from error
    if magic != _GGUF_MAGIC:
        raise InputError(f"{path} is not a GGUF model", field=flag)
    if importlib.util.find_spec("xllamacpp") is None:
        raise InputError("local models need the runtime: pip install 'causalneg[local]'", field=flag)


def file_id(path: Path) -> str:
    """Eight hex digits that differ for model files of one name: from the size and both ends, not a whole read."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        digest = hashlib.blake2b(str(size).encode(), digest_size=4)
        for start in (0, max(0, size - _HASHED_BYTES)):
            file.seek(start)
            digest.update(file.read(_HASHED_BYTES))
    return digest.hexdigest()
