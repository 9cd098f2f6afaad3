"""Cassettes: the answers of a run in a file, one JSON line a call, and the server that replays them (`recorded:FILE`).

A call is its input fields, as they stand in the prompt's last user message: instructions, demonstrations and layout may
change, and the answer is found again. A call that was answered several times (malformed, cut off, judged twice) has
several lines, which are replayed in their order, the last one for good.
"""

import fcntl
import functools
import json
import os
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aiohttp import web

from data.base.errors import InputError
from data.base.files import open_bytes
from data.base.text import content_id
from programs.lm.servers.loopback import LoopbackServer, completion_response, error_response
from programs.lm.servers.recorded import Layout, read_inputs, render_answer
from programs.lm.usage import message_text

PREFIX = "recorded:"
MODEL = "openai/recorded-cassette"
# What each line has, in this order: the first is how a line that was cut off is known.
_FIELDS = ("signature", "inputs", "outputs", "answer", "finish_reason", "model", "prompt_tokens", "completion_tokens")
_BEGINS = b'{"signature": '


def asked(messages: Sequence[Any]) -> tuple[dict[str, str], Layout]:
    """The input fields of a request and the layout of its answer; a prompt without fields is one field, `prompt`."""
    users = [message for message in messages if isinstance(message, dict) and message.get("role") == "user"]
    text = message_text(users[-1]) if users else ""
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
    """The lines of a cassette; a last one that was cut off while it was written is left out.

    Raises InputError when `path` is no readable file, or a line is none of a cassette's.
    """
    with open_bytes(path) as file:
        content = file.read()
    *whole, rest = content.split(b"\n")
    if rest and not rest.startswith(_BEGINS):
        whole.append(rest)
    return [_read_line(line, path, number) for number, line in enumerate(whole, start=1) if line.strip()]


def _read_line(line: bytes, path: Path, number: int) -> dict[str, Any]:
    fault = InputError("expected a call as `record` writes them: this is no cassette", file=path, line=number)
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise fault from None
    if not isinstance(value, dict) or tuple(value) != _FIELDS:
        raise fault
    texts = [value["signature"], value["finish_reason"], value["model"]]
    counts = [value["prompt_tokens"], value["completion_tokens"]]
    answered = isinstance(value["outputs"], dict) if value["answer"] is None else isinstance(value["answer"], str)
    inputs = value["inputs"]
    if (
        not all(isinstance(text, str) for text in texts)
        or not all(type(count) is int and count >= 0 for count in counts)
        or not answered
        or not isinstance(inputs, dict)
        or not all(isinstance(text, str) for text in inputs.values())
    ):
        raise fault
    return value


def call_key(inputs: Mapping[str, str]) -> str:
    """What a call is found by."""
    return content_id(json.dumps(inputs, sort_keys=True, ensure_ascii=False))


def _said(line: Mapping[str, Any]) -> str:
    return json.dumps([line["outputs"], line["answer"], line["finish_reason"]], sort_keys=True)


class Recorder:
    """Appends calls to a cassette, each line in one write. Get one by `recorder`.

    An answer that only repeats the one before it is not written again. Raises InputError when the file holds anything
    but a cassette, or cannot be written.
    """

    def __init__(self, path: Path):
        self._path, self._lock = path, threading.Lock()
        self._answers: dict[str, list[str]] = {}
        if path.exists():
            for line in read_cassette(path):
                self._answers.setdefault(call_key(line["inputs"]), []).append(_said(line))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
            self._cut_torn_line()
        except OSError as error:
            raise InputError(f"cannot be written ({error.strerror})", file=path) from error

    def _cut_torn_line(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            content = self._path.read_bytes()
            if content and not content.startswith(_BEGINS):
                raise InputError("is packed: unpack it to add to it", file=self._path)
            os.ftruncate(self._file, content.rfind(b"\n") + 1)
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    @property
    def num_calls(self) -> int:
        """Calls that the cassette holds."""
        return sum(map(len, self._answers.values()))

    def close(self) -> None:
        """Add no more."""
        os.close(self._file)

    def add(self, line: str, *, again: bool = False) -> None:
        """Append a call. `again`: it may have been recorded when it was answered, and is only added if it was not."""
        value = json.loads(line)
        said = _said(value)
        with self._lock:
            known = self._answers.setdefault(call_key(value["inputs"]), [])
            if said in (known if again else known[-1:]):
                return
            try:
                os.write(self._file, line.encode() + b"\n")
            except OSError as error:
                raise InputError(f"cannot be written ({error.strerror})", file=self._path) from error
            known.append(said)


@functools.cache
def recorder(path: Path) -> Recorder:
    """The one recorder of a file in this process."""
    return Recorder(path)


def write_lines(path: Path, lines: Iterable[str]) -> int:
    """Make `path` a cassette of these calls, in their order; returns how many it holds. Raises InputError."""
    path.unlink(missing_ok=True)
    recorded = Recorder(path)
    try:
        for line in lines:
            recorded.add(line)
        return recorded.num_calls
    finally:
        recorded.close()


class CassetteServer(LoopbackServer):
    """Serves the answers of one cassette. Raises InputError when there is none at `path`."""

    def __init__(self, path: Path):
        super().__init__()
        self._name = f"{PREFIX}{path.name}"
        self._lines: dict[str, list[dict[str, Any]]] = {}
        for line in read_cassette(path):
            self._lines.setdefault(call_key(line["inputs"]), []).append(line)
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
