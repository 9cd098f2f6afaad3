"""The one event loop of callers who block: DSPy's optimisers, probes and scripts reach the asynchronous path by it."""

import asyncio
import concurrent.futures
import functools
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

_Found = TypeVar("_Found")
_starting = threading.Lock()


def wait_for(work: Coroutine[Any, Any, _Found]) -> _Found:
    """Run `work` on the loop's thread, in the caller's context, and wait for what it returns or raises."""
    with _starting:
        loop = _running_loop()
    future = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        return future.result()
    except concurrent.futures.CancelledError:
        # An Exception, which would be taken for a fault of the call.
        raise asyncio.CancelledError from None
    except BaseException:
        # Whoever stops waiting (Ctrl-C) wants no answer any more.
        future.cancel()
        raise


@functools.cache
def _running_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="blocking calls", daemon=True).start()
    return loop
