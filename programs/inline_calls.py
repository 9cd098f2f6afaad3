"""The event loop of a run does the small work of each call itself instead of handing it to threads.

litellm and dspy send the preparation and the pricing of every call through the loop's threads: three changes of thread
a call, each under a millisecond of Python, and each up to the interpreter's switch interval (5 ms) of waiting for a
loop that is busy with the other calls.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")
# What really waits: looking up host names.
_BLOCKING: tuple[object, ...] = (socket.getaddrinfo, socket.getnameinfo)


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
