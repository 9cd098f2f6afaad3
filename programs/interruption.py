"""Ctrl-C while an optimiser works: the search is ended by its budget, so that the best so far can be saved."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from programs.lm.budget import Budget

log = logging.getLogger(__name__)

_Found = TypeVar("_Found")


@contextmanager
def stop_on_interrupt(budget: Budget) -> Iterator[threading.Event]:
    """Turn Ctrl-C into a closed budget: the search ends by itself with the best so far. Yields whether it came."""
    interrupted = threading.Event()

    def stop(number: int, frame: object) -> None:
        interrupted.set()
        budget.close("stopped by Ctrl-C")
        log.info("stopping: calls in flight are settled, then the best so far is saved, if there is one")

    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    before = signal.signal(signal.SIGINT, stop)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def in_background(work: Callable[[], _Found]) -> _Found:
    """Run `work` in a thread of its own, where DSPy leaves Ctrl-C alone; raises what it raised."""
    found: list[_Found] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            found.append(work())
        except BaseException as error:  # noqa: BLE001 - handed over to the waiting thread, whatever it is
            errors.append(error)

    thread = threading.Thread(target=run, name="optimise", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(timeout=0.2)
    if errors:
        raise errors[0]
    return found[0]
