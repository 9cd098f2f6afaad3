"""Answers are read as they come, before they are kept: what no parser takes is malformed, not an answer.

Parsers of what models write are slow on some texts (tens of seconds for 64 KB of brackets). A simple text is read at
once; any other one in a thread of its own, so that other calls go on, and only for a while.
"""

import asyncio
import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from typing import Any
from weakref import WeakKeyDictionary

from dspy.utils.exceptions import AdapterParseError
from pydantic_core import to_jsonable_python

from programs.lm.faults import CallError

# No answer of these programs is near this long.
LONGEST_ANSWER_CHARS = 200_000
# What makes the parsers of broken JSON slow: each of these costs up to a millisecond or two. An answer of several
# requirements has two hundred of them.
_SLOW_MARKS, _MARKS_READ_AT_ONCE = '{["', 300
_LONGEST_READING_S = 3.0


class _TimeIsUp(BaseException):  # not an Exception, which a parser might catch
    """Raised in the thread that reads, when its time is up."""


class Reader:
    """Reads the answer to one prompt with the parser of its layout, and keeps what it read for the adapter."""

    def __init__(self, parse: Callable[[str], dict[str, Any]], signature: str = ""):
        self._parse, self.signature = parse, signature
        self._found: tuple[str, dict[str, Any]] | None = None

    async def read(self, text: str) -> None:
        """Raises CallError ("malformed") when the parser raises anything, or takes too long."""
        try:
            at_once = sum(map(text.count, _SLOW_MARKS)) <= _MARKS_READ_AT_ONCE
            if at_once:
                found = self._parse(text)
            else:
                async with _turn():
                    found = await _read_aside(self._parse, text)
        except Exception as error:  # noqa: BLE001 - whatever a parser makes of such a text, it is no answer
            words = getattr(error, "message", None) or f"{type(error).__name__} {error}"
            raise CallError("malformed", str(words)) from None
        self._found = (text, found)

    def outputs(self, text: str) -> dict[str, Any] | None:
        """The fields that were read from this very text, as JSON values; None if it could not be read."""
        if self._found is None or self._found[0] != text:
            return None
        return dict(to_jsonable_python(self._found[1]))

    def take(self, text: str) -> dict[str, Any]:
        """What was read from this very text; it is read now if it was not. Raises AdapterParseError alone."""
        found, self._found = self._found, None
        return found[1] if found is not None and found[0] == text else self._parse(text)


_reader: ContextVar[Reader | None] = ContextVar("reader", default=None)


def current_reader() -> Reader | None:
    """How the answer to the prompt in this context is read; None where any text is an answer."""
    return _reader.get()


class CheckedAnswers:
    """For DSPy's adapters: the answer is parsed where it arrives, once, and every fault of parsing is of one kind."""

    async def acall(self, lm: Any, lm_kwargs: Any, signature: Any, demos: Any, inputs: Any) -> Any:
        """Ask, and read the answer."""
        with self._reading(signature):
            return await super().acall(lm, lm_kwargs, signature, demos, inputs)  # type: ignore[misc]

    def __call__(self, lm: Any, lm_kwargs: Any, signature: Any, demos: Any, inputs: Any) -> Any:
        with self._reading(signature):
            return super().__call__(lm, lm_kwargs, signature, demos, inputs)  # type: ignore[misc]

    def parse(self, signature: Any, completion: str) -> dict[str, Any]:
        """The fields of an answer. Raises AdapterParseError, whatever the parser raised."""
        reader = _reader.get()
        if reader is not None:
            return reader.take(completion)
        return self._parse_anything(signature, completion)

    @contextmanager
    def _reading(self, signature: Any) -> Iterator[None]:
        token = _reader.set(Reader(lambda text: self._parse_anything(signature, text), signature.__name__))
        try:
            yield
        finally:
            _reader.reset(token)

    def _parse_anything(self, signature: Any, completion: str) -> dict[str, Any]:
        try:
            found: dict[str, Any] = super().parse(signature, completion)  # type: ignore[misc]
        except AdapterParseError:
            raise
        except Exception as error:
            raise AdapterParseError(
                adapter_name=type(self).__name__,
                signature=signature,
                lm_response=completion[:1000],
                message=f"the parser ended in {type(error).__name__}",
            ) from error
        return found


# Of a loop: one slow answer is read at a time. Thirty threads of parsing would leave the loop no time for its calls.
_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()


def _turn() -> asyncio.Lock:
    return _turns.setdefault(asyncio.get_running_loop(), asyncio.Lock())


async def _read_aside(parse: Callable[[str], dict[str, Any]], text: str) -> dict[str, Any]:
    """`parse(text)` in a thread of its own, which is stopped when its time is up."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[dict[str, Any]] = loop.create_future()
    # Whoever holds it decides whether the thread is still reading.
    ending = threading.Lock()
    reading = True

    def settle(found: dict[str, Any], error: Exception | None) -> None:
        if not done.done():
            done.set_result(found) if error is None else done.set_exception(error)

    def work() -> None:
        nonlocal reading
        found: dict[str, Any] = {}
        fault: Exception | None = None
        try:
            found = parse(text)
            with ending:
                reading = False
        except BaseException as error:  # noqa: BLE001 - it is raised where the answer is awaited
            with ending:
                reading = False
            fault = error if isinstance(error, Exception) else RuntimeError(repr(error))
        # The loop may have ended meanwhile: nobody waits for the answer any more.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, found, fault)

    def stop() -> None:
        with ending:
            if reading and thread.ident is not None:
                # The parsers are Python code: the thread raises it at its next instruction.
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(_TimeIsUp))
        settle({}, TimeoutError(f"it took longer than {_LONGEST_READING_S:g} s to read"))

    context = copy_context()
    thread = threading.Thread(target=lambda: context.run(work), name="reading an answer", daemon=True)
    thread.start()
    timer = loop.call_later(_LONGEST_READING_S, stop)
    try:
        return await done
    finally:
        timer.cancel()
