"""What keeps a call cheap: the event loop does its small work itself, and garbage is looked for rarely.

litellm and dspy send the preparation and the pricing of every call through the loop's threads: three changes of thread
a call, each under a millisecond of Python, and each up to the interpreter's switch interval (5 ms) of waiting for a
loop that is busy with the other calls.
"""

import asyncio
import gc
import socket
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")
# What really waits: looking up host names.
_BLOCKING: tuple[object, ...] = (socket.getaddrinfo, socket.getnameinfo)
# New objects between two collections (a call makes some thousands), and collections between those of older objects.
_COLLECTIONS = (20_000, 20, 100)


class InlineExecutor(ThreadPoolExecutor):
    """Runs what it is given at once, in the thread that asks; look-ups of host names go to a thread."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """The finished future of `fn`, or an unfinished one of a look-up."""
        if fn in _BLOCKING:
            return super().submit(fn, *args, **kwargs)
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - a future carries whatever was raised to whoever awaits it
            future.set_exception(error)
        return future


async def inline(work: Awaitable[T], *, threads: bool = False) -> T:
    """Await `work` in a loop without threads; with `threads` as it is (a provider that fetches credentials)."""
    if not threads:
        asyncio.get_running_loop().set_default_executor(InlineExecutor(max_workers=4, thread_name_prefix="look-up"))
    return await work


@contextmanager
def rare_collections() -> Iterator[None]:
    """Keep the hundreds of thousands of objects of imported modules out of the garbage collections of a run.

    With Python's own settings a tenth of the time of every call went into looking at them.
    """
    usual = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTIONS)
    try:
        yield
    finally:
        gc.set_threshold(*usual)
        gc.unfreeze()
