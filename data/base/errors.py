"""The one exception for faults that a user can mend: what, where, what was expected, in one line."""

from pathlib import Path


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


def require(right: bool, flag: str, expected: str, got: object) -> None:
    """Raise InputError that names a config's flag (`max_length` or `max-length`) unless `right` holds."""
    if not right:
        shown = repr(got) if isinstance(got, str) else str(got)
        raise InputError(f"--{flag.replace('_', '-')}: expected {expected}, got {shown}")
