"""Cassettes: the answers of a run in a file, one JSON line a call, and the server that replays them (`recorded:FILE`).

A call is its input fields, as they stand in the prompt's last user message: instructions, demonstrations and layout may
change, and the answer is found again. A call that was answered several times (malformed, cut off, judged twice) has
several lines, which are replayed in their order, the last one for good.
"""

import fcntl
import json
import logging
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydantic
from aiohttp import web

from data.base.errors import InputError
from data.base.files import atomic_path, open_bytes, unpacking
from data.base.text import content_id
from programs.lm.servers.loopback import LoopbackServer, completion_response, error_response
from programs.lm.servers.recorded import Layout, last_user_text, read_inputs, render_answer

log = logging.getLogger(__name__)

PREFIX = "recorded:"
MODEL = "openai/recorded-cassette"


class _Line(pydantic.BaseModel, strict=True, extra="forbid"):
    """What each line has, in this order: the first is how a line that was cut off is known."""

    signature: str
    inputs: dict[str, str]
    outputs: dict[str, Any] | None
    answer: str | None
    finish_reason: str
    model: str
    prompt_tokens: pydantic.NonNegativeInt
    completion_tokens: pydantic.NonNegativeInt


_FIELDS = tuple(_Line.model_fields)
_BEGINS = b'{"signature": '


def asked(messages: Sequence[Any]) -> tuple[dict[str, str], Layout]:
    """The input fields of a request and the layout of its answer; a prompt without fields is one field, `prompt`."""
    text = last_user_text(messages)
    inputs, layout = read_inputs(text)
    return inputs or {"prompt": text}, layout


def cassette_line(
    *,
    signature: str,
    messages: Sequence[Mapping[str, str]],
    outputs: Mapping[str, Any] | None,
    answer: str,
    finish_reason: str,
    model: str,
    prompt_tokens: int,
    completion_tokens: int,
) -> str:
    """One answered call, without a line end. `outputs` are the fields that were read from the answer; the `answer` as
    it came is kept where none could be."""
    values = (
        signature, asked(messages)[0], outputs, answer if outputs is None else None, finish_reason, model,
        prompt_tokens, completion_tokens,
    )  # fmt: skip
    # An escape in a JSON answer may be half a character, which no file can hold.
    line = json.dumps(dict(zip(_FIELDS, values, strict=True)), ensure_ascii=False)
    return line.encode("utf-8", "replace").decode()


def read_cassette(path: Path) -> list[dict[str, Any]]:
    """The lines of a cassette; a last one that was cut off while it was written is left out, with a warning.

    Raises InputError when `path` is no readable file, or a line is none of a cassette's.
    """
    with open_bytes(path) as file, unpacking(path):
        content = file.read()
    lines = content.split(b"\n")
    if _is_torn(lines[-1]):
        log.warning("%s:%d: the last line was cut off while it was written, and is left out", path, len(lines))
        lines.pop()
    return [_read_line(line, path, number) for number, line in enumerate(lines, start=1) if line.strip()]


def _is_torn(last: bytes) -> bool:
    """Whether what follows the last line end is the beginning of a line, and no whole one."""
    if not last or not (last.startswith(_BEGINS) or _BEGINS.startswith(last)):
        return False
    try:
        json.loads(last)
    except (ValueError, RecursionError):
        return True
    return False


def _read_line(line: bytes, path: Path, number: int) -> dict[str, Any]:
    fault = InputError("expected a call as `record` writes them: this is no cassette", file=path, line=number)
    try:
        value: dict[str, Any] = json.loads(line)
        _Line.model_validate(value)
    except (ValueError, RecursionError):
        raise fault from None
    if tuple(value) != _FIELDS or (value["outputs"] is None and value["answer"] is None):
        raise fault
    return value


def call_key(inputs: Mapping[str, str]) -> str:
    """What a call is found by."""
    return content_id(json.dumps(inputs, sort_keys=True, ensure_ascii=False))


def _said(line: Mapping[str, Any]) -> str:
    """A short name for what was answered; whole answers of a long run would fill the memory."""
    return content_id(json.dumps([line["outputs"], line["answer"], line["finish_reason"]], sort_keys=True))


class Recorder:
    """Appends calls to a cassette, each line at once. Get one by `recorder`.

    An answer that repeats the one before it is written when another one follows: the last line stands for all that come
    after it, so that it says nothing at the end. Raises InputError when the file holds anything but a cassette, or
    cannot be written.
    """

    def __init__(self, path: Path):
        self._path, self._lock = path, threading.Lock()
        # By call: what was answered, in order, and the repeats at the end that are not written yet.
        self._answers: defaultdict[str, list[str]] = defaultdict(list)
        self._repeats: defaultdict[str, list[str]] = defaultdict(list)
        self.num_calls = 0
        if path.exists():
            # A pipe or a folder is refused before it is opened for writing.
            open_bytes(path).close()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        except OSError as error:
            raise self._fault(error) from error
        try:
            with self._alone():
                found = read_cassette(path)
                self._mend_end()
        except BaseException:
            self.close()
            raise
        for line in found:
            self._answers[call_key(line["inputs"])].append(_said(line))
            self.num_calls += 1

    def _mend_end(self) -> None:
        """Cut off a torn last line, end a whole one."""
        content = self._path.read_bytes()
        if content and not content.startswith(_BEGINS) and not _is_torn(content):
            raise InputError("is packed: unpack it to add to it", file=self._path)
        last = content.rpartition(b"\n")[2]
        if _is_torn(last):
            os.ftruncate(self._file, len(content) - len(last))
        elif last:
            os.write(self._file, b"\n")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes' recorders from this file. Raises InputError when the block cannot write it."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)
        except OSError as error:
            raise self._fault(error) from error

    def _fault(self, error: OSError) -> InputError:
        return InputError(f"cannot be written ({error.strerror})", file=self._path)

    def is_there(self) -> bool:
        """Whether the file still is the one that is written, neither removed nor replaced."""
        try:
            return os.path.samestat(os.fstat(self._file), self._path.stat())
        except OSError:
            return False

    def close(self) -> None:
        """Add no more."""
        os.close(self._file)

    def add(self, line: str) -> None:
        """Append a call."""
        value = json.loads(line)
        with self._lock:
            self._add(line, call_key(value["inputs"]), _said(value))

    def complete(self, lines: Iterable[str]) -> None:
        """Append those of a run's calls, in their order, that are not there already."""
        seen: Counter[tuple[str, str]] = Counter()
        for line in lines:
            value = json.loads(line)
            key, said = call_key(value["inputs"]), _said(value)
            seen[key, said] += 1
            with self._lock:
                if self._answers[key].count(said) < seen[key, said]:
                    self._add(line, key, said)

    def _add(self, line: str, key: str, said: str) -> None:
        known, repeats = self._answers[key], self._repeats[key]
        if known[-1:] == [said]:
            repeats.append(line)
        else:
            self._write([*repeats, line])
            repeats.clear()
        known.append(said)

    def _write(self, lines: Sequence[str]) -> None:
        content = "".join(f"{line}\n" for line in lines).encode()
        with self._alone():
            before = os.fstat(self._file).st_size
            try:
                # A disk that fills up takes a part.
                while content:
                    content = content[os.write(self._file, content) :]
            except OSError:
                os.ftruncate(self._file, before)
                raise
        self.num_calls += len(lines)


_recorders: dict[Path, Recorder] = {}
_opening = threading.Lock()


def recorder(path: Path) -> Recorder:
    """The one recorder of a file in this process; a new one where the file was removed or replaced."""
    path = path.expanduser().absolute()
    with _opening:
        found = _recorders.get(path)
        if found is None or not found.is_there():
            if found is not None:
                found.close()
            _recorders[path] = found = Recorder(path)
        return found


def write_lines(path: Path, lines: Iterable[str]) -> int:
    """Make `path` a cassette of these calls, in their order; returns how many it holds. Raises InputError."""
    with atomic_path(path) as new:
        recorded = Recorder(new)
        try:
            recorded.complete(lines)
        finally:
            recorded.close()
    return recorded.num_calls


class CassetteServer(LoopbackServer):
    """Serves the answers of one cassette. Raises InputError when there is none at `path`."""

    def __init__(self, path: Path):
        super().__init__()
        self._name = f"{PREFIX}{path.name}"
        self._lines: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        for line in read_cassette(path):
            self._lines[call_key(line["inputs"])].append(line)
        self.models = {line["model"] for lines in self._lines.values() for line in lines}
        if not self._lines:
            raise InputError("holds no recorded call", file=path)
        self._given = Counter[str]()

    async def answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        inputs, layout = asked(body["messages"])
        key = call_key(inputs)
        lines = self._lines.get(key)
        if lines is None:
            missing = f"{self._name} has no such answer: {self._what_is_missing(inputs)}"
            return error_response(422, missing, "not_recorded")
        line = lines[min(self._given[key], len(lines) - 1)]
        self._given[key] += 1
        text = line["answer"] if line["outputs"] is None else render_answer(line["outputs"], layout)
        counts = {name: line[name] for name in ("prompt_tokens", "completion_tokens")}
        usage = counts | {"total_tokens": sum(counts.values())}
        return completion_response(body, text, finish_reason=line["finish_reason"], usage=usage)

    def _what_is_missing(self, inputs: Mapping[str, str]) -> str:
        """The row, the step and the field in which no recorded call is like this one."""
        lines = [line for same in self._lines.values() for line in same if line["inputs"].keys() == inputs.keys()]
        query = f"{inputs.get('query', '')!r:.80}"
        row = f" for the query {query}" if "query" in inputs else ""
        if not lines:
            return f"nothing was recorded of a step with the fields {', '.join(inputs)}{row}"
        step = lines[0]["signature"] or "a prompt"
        nearest = max(lines, key=lambda line: _likeness(line["inputs"], inputs))
        differing = [name for name, value in inputs.items() if nearest["inputs"][name] != value]
        if "query" in differing:
            return f"{step} was recorded for other queries than {query}"
        return f"{step}{row} was recorded with another {' and another '.join(differing)}"


def _likeness(recorded: Mapping[str, str], inputs: Mapping[str, str]) -> tuple[bool, int]:
    equal = [name for name, value in inputs.items() if recorded[name] == value]
    return "query" in equal, len(equal)
