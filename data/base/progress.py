"""Progress on stderr: a bar on a terminal, a plain line now and then in a log file."""

import logging
import sys
import time
from typing import Any

from tqdm import tqdm

log = logging.getLogger(__name__)
_SECONDS_BETWEEN_LINES = 15.0


class PlainProgress:
    """The bar's stand-in where stderr is no terminal: logs a line every fifteen seconds, nothing for short work."""

    def __init__(self, total: int, unit: str, desc: str, enabled: bool, done: int):
        self.total, self.unit, self.desc, self.enabled = total, unit, desc, enabled
        self._done, self._note = done, ""
        self._done_before = done
        self._start = self._last = time.monotonic()

    def __enter__(self) -> "PlainProgress":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def set_postfix_str(self, note: str, refresh: bool = False) -> None:
        self._note = note

    def refresh(self) -> None:
        """Nothing: a line that is due is logged by `update`."""

    def update(self, count: int = 1) -> None:
        self._done += count
        now = time.monotonic()
        if self.enabled and now - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = now
            rate = (self._done - self._done_before) / (now - self._start)
            left = f", {rate:.1f}/s, {(self.total - self._done) / rate:.0f} s left" if rate else ""
            note = f", {self._note}" if self._note else ""
            log.info("%s: %d of %d %ss%s%s", self.desc, self._done, self.total, self.unit, left, note)


def progress_bar(*, total: int, unit: str, desc: str, enabled: bool = True, done: int = 0) -> Any:
    """A context manager with `update(n)` and `set_postfix_str(text)`: tqdm on a terminal, PlainProgress elsewhere.

    `done` is what an earlier run has finished already.
    """
    # quiet=true lets nothing through below a warning
    heard = any(handler.level <= logging.INFO for handler in logging.getLogger().handlers)
    if enabled and heard and sys.stderr.isatty():
        return tqdm(total=total, unit=unit, desc=desc, initial=done, file=sys.stderr, leave=False)
    return PlainProgress(total, unit, desc, enabled, done)
