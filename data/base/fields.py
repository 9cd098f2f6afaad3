"""Decoded JSON read into annotated dataclasses: every field cleaned and checked, a fault names file, line and field."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

from data.base.errors import InputError
from data.base.text import clean_text

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from pydantic_core import CoreSchema, ErrorDetails

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Read:
    """An annotation: `by` turns the JSON value into the field's, or raises ValueError with what was expected.

    pydantic's BeforeValidator, which would cost every command the 40 ms of importing pydantic.
    """

    by: Callable[[Any], Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: "Callable[[Any], CoreSchema]") -> "CoreSchema":
        from pydantic_core import core_schema

        return core_schema.no_info_before_validator_function(self.by, handler(source))


def _text(value: Any) -> str:
    if not isinstance(value, str) and type(value) is not int:
        raise ValueError(f"expected text, got {type(value).__name__}")
    cleaned = clean_text(str(value))
    if not cleaned:
        raise ValueError("is empty")
    return cleaned


def _text_or_none(value: Any) -> str | None:
    return None if value is None or (isinstance(value, str) and not clean_text(value)) else _text(value)


# JSON's whole numbers are exact up to here in every format; scores and positions are far below.
_LARGEST_NUMBER = 2**53


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"expected a number, got {value!r:.40}")
    if not -_LARGEST_NUMBER <= value <= _LARGEST_NUMBER:
        # JSON's 1e999 is read as infinity, which no writer takes, and NaN is larger than nothing.
        raise ValueError(f"expected a number of ordinary size, got {value!s:.40}")
    return value


def _whole(value: Any) -> int:
    try:
        if isinstance(value, str) or (type(value) in (int, float) and int(value) == value):
            return int(value)
    except (ValueError, OverflowError):
        pass
    raise ValueError(f"expected a whole number, got {value!r:.40}")


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, got {value!r:.40}")
    return value


def _flags(value: Any) -> Any:
    if not isinstance(value or [], list) or not all(isinstance(flag, bool) for flag in value or ()):
        raise ValueError("expected a list of true and false")
    return value or ()


def _positives(value: Any) -> Any:
    if value == []:
        raise ValueError("expected at least one positive")
    return value


Text = Annotated[str, Read(_text)]
"""Cleaned text that is not empty; whole numbers are taken, as ids are often numbers."""

OptionalText = Annotated[str | None, Read(_text_or_none)]
"""The same, or None where there is none, null or nothing but white space."""

BlankText = Annotated[str, Read(lambda value: _text_or_none(value) or "")]
"""The same, or the empty string."""

OptionalNumber = Annotated[float | None, Read(lambda value: None if value is None else _number(value))]
"""A number of ordinary size, or None."""

Whole = Annotated[int, Read(_whole)]
"""A whole number, also as text."""

Flag = Annotated[bool, Read(_flag)]
"""true or false, nothing that only looks like it."""

FlagOrTrue = Annotated[bool, Read(lambda value: True if value is None else _flag(value))]
"""The same; null means true."""

Flags = Annotated[tuple[bool, ...], Read(_flags)]
"""A list of true and false; null means none."""

List = Annotated[tuple[T, ...], Read(lambda value: () if value is None else value)]
"""A list; null means none."""

Positives = Annotated[tuple[T, ...], Read(_positives)]
"""A list of at least one positive."""


@cache
def _adapter(kind: Any) -> "TypeAdapter[Any]":
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def checked(kind: type[T], value: Any, *, file: str | None = None, line: int | None = None, path: str = "") -> T:
    """Build a `kind` from a decoded JSON value. Raises InputError that names file, line and field.

    `path` stands in front of the field's name, for a value that is a part of the line.
    """
    from pydantic import ValidationError

    try:
        return cast(T, _adapter(kind).validate_python(value))  # type: ignore[arg-type]
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        field = _field(part for part in (path, *found["loc"]) if part != "")
        raise InputError(_words(found), file=file, line=line, field=field or None) from None


def _field(location: Iterable[int | str]) -> str:
    """`negatives[0].verdict.satisfied`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")


def _words(found: "ErrorDetails") -> str:
    """What was expected, in the words of a JSON file."""
    kind, context, got = found["type"], found.get("ctx", {}), found["input"]
    if got is None:
        return "is null"
    if kind == "value_error":
        return str(context["error"])
    if kind == "missing":
        return "is missing"
    if kind in ("tuple_type", "list_type"):
        return f"expected a list, got {type(got).__name__}"
    if kind in ("dataclass_type", "dict_type"):
        return f"expected a JSON object, got {type(got).__name__}"
    if kind == "literal_error":
        return f"expected one of {context['expected'].replace(' or ', ', ').replace(chr(39), '')}, got {got!r:.40}"
    return f"{found['msg']}, got {got!r:.40}"


@dataclass(frozen=True, slots=True)
class Line:
    """One decoded JSON value of a file and where it stands (`number` is 1-based)."""

    value: Any
    file: str
    number: int

    def read(self, kind: type[T]) -> T:
        """The value as a `kind`. Raises InputError."""
        return checked(kind, self.value, file=self.file, line=self.number)

    def part(self, kind: Any, name: str) -> Any:
        """One of the value's fields as a `kind`. Raises InputError."""
        return checked(kind, self.value.get(name), file=self.file, line=self.number, path=name)

    def fault(self, what: str, field: str | None = None) -> InputError:
        """The error to raise about this line."""
        return InputError(what, file=self.file, line=self.number, field=field)
