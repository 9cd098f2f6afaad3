"""The one exception for faults that a user can mend: what, where, what was expected, in one line."""

import logging
from pathlib import Path

log = logging.getLogger(__name__)


class InputError(Exception):
    """Bad input: its text is one line that a user can act on.

    Not a ValueError: libraries catch those on the way up and wrap them in words of their own.

    Args:
        what: the fault and what was expected instead.
        file: the file it was found in, if any.
        line: its 1-based line, if any.
        field: the record's field or the config's flag, if any.
    """

    def __init__(self, what: str, *, file: str | Path | None = None, line: int | None = None, field: str | None = None):
        self.what, self.file, self.line, self.field = what, file, line, field
        where = "".join(
            [
                "" if file is None else str(file),
                "" if line is None else f":{line}",
                "" if file is None else ": ",
                "" if field is None else f"field {field!r}: ",
            ]
        )
        super().__init__(" ".join(f"{where}{what}".split()))


class NotYetError(InputError):
    """No fault: what a run has asked for goes on without it, as its text says; the same command goes on later."""


def first_line(error: BaseException) -> str:
    """The first line of a library's message, or the error's type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def require(right: bool, flag: str, expected: str, got: object) -> None:
    """Raise InputError that names a config's flag (`max_length` or `max-length`) unless `right` holds."""
    if not right:
        raise InputError(f"--{flag.replace('_', '-')}: expected {expected}, got {shown(got)}")


def shown(value: object) -> str:
    """A value as a message repeats it: text in quotes, and no more of it than says which one it is."""
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 120 else f"{text[:80]}... ({len(text)} characters)"


class BadRows:
    """What becomes of bad rows: the first one ends the reading, or all are skipped and counted (`--skip-bad-rows`)."""

    def __init__(self, skip: bool = True) -> None:
        self.skip = skip
        self.count = 0
        self.examples: list[str] = []

    def catch(self) -> "BadRows":
        """A context whose InputError is a bad row."""
        return self

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not self.skip or not isinstance(error, InputError):
            return False
        self.add(error)
        return True

    def add(self, error: InputError) -> None:
        """Count one bad row, or raise it."""
        if not self.skip:
            raise error
        self.count += 1
        if len(self.examples) < 5:
            self.examples.append(str(error))

    def warn(self) -> None:
        """Log the summary if there is something to tell."""
        if self.count:
            log.warning("warning: %s", self.summary())

    def summary(self) -> str:
        """One line a reader of the log can act on."""
        shown = "; ".join(self.examples)
        return f"skipped {self.count} bad rows" + (f" (first: {shown})" if shown else "")


STRICT = BadRows(skip=False)
