"""Words of a command line into a command's options: name=value, --name value or --name=value, lists by comma."""

import difflib
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from data.base.errors import InputError, require, shown

Made = TypeVar("Made")

_ASSIGNMENT = re.compile(r"(?:--)?([A-Za-z][\w.-]*)=(.*)", re.DOTALL)
_SWITCH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_MOST_DIGITS = 15
# Names that others give to options of ours.
_ALSO = {"license": "licence"}


@dataclass(frozen=True, slots=True)
class Split:
    """In the annotation of a list: the pattern that separates its members, where a comma alone is not what does."""

    pattern: str


@dataclass(frozen=True, slots=True)
class MayBeEmpty:
    """In the annotation of an option: a text of no characters means something."""


def from_texts(kind: type[Made], texts: Mapping[str, list[str]], help_command: str) -> Made:
    """The options of these texts. Raises InputError for a value that is none of the option's, and for options that are
    missing: it names them all.
    """
    missing = [
        f"--{field.name.replace('_', '-')}"
        for field in fields(kind)  # type: ignore[arg-type]
        if field.name not in texts and field.default is MISSING and field.default_factory is MISSING
    ]
    values = {name: read_value(kind, name, found) for name, found in texts.items()}
    if missing:
        raise InputError(f"expected {in_words(missing)} ({help_command})")
    return kind(**values)


def in_words(names: Sequence[str], last: str = "and") -> str:
    """a, b and c"""
    return f" {last} ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def nearest(name: str, known: Iterable[str]) -> str:
    """ "; the nearest is X", or nothing where none of the known names is near."""
    by_letters = {each.replace("_", "-"): each for each in known}
    # A name that begins as the given one does is meant more often than one with as many letters in common.
    begun = [each for each in by_letters if each.startswith(name) or name.startswith(each)]
    begun.sort(key=lambda each: abs(len(each) - len(name)))
    found = (begun if len(name) > 2 else []) or difflib.get_close_matches(name, by_letters, n=1, cutoff=0.5)
    return f"; the nearest is {found[0]}" if found else ""


def assigned_texts(kinds: Sequence[type], words: Sequence[str], help_command: str) -> dict[str, list[str]]:
    """The texts that the words give to options of these classes. The last one holds of an option that is given twice.

    Raises InputError for a word that is no option (with the nearest one) and for an option without a value.
    """
    hints = {name: hint for kind in kinds for name, hint in option_types(kind).items()}
    refused = {name: why for kind in kinds for name, why in getattr(kind, "refused", ())}
    assigned: dict[str, list[str]] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        found = _ASSIGNMENT.fullmatch(word)
        spelled = found[1] if found else word.removeprefix("--") if word.startswith("--") else None
        if spelled is None:
            raise InputError(f"{shown(word)}: expected name=value or --name value ({help_command})")
        name = known_name(hints, spelled)
        if found and name is not None:
            assigned[name] = [found[2]]
        elif found and "." in spelled and "step_options" in hints:
            assigned.setdefault("step_options", []).append(word)
        elif name is None:
            off = None if found else known_name(hints, re.sub("^no[-_]", "", spelled))
            if off is None or bool not in _alternatives(hints[off]):
                # A command may say why it has not what others have.
                dashed = spelled.replace("_", "-")
                if why := refused.get(dashed):
                    raise InputError(f"--{spelled}: {why} ({help_command})")
                raise InputError(f"--{dashed}: no such option{nearest(dashed, hints)} ({help_command})")
            assigned[off] = ["false"]
        elif bool in _alternatives(hints[name]):
            assigned[name] = ["true"]
        else:
            many = is_list(hints[name])
            taken: list[str] = []
            while rest and (many or not taken) and not _is_option(hints, rest[0]):
                taken.append(rest.pop(0))
            if not taken:
                raise InputError(f"--{name.replace('_', '-')}: expected a value, got nothing")
            assigned[name] = taken
    return assigned


def known_name(known: Iterable[str], spelled: str) -> str | None:
    """The option that is meant by a name with dashes or underscores."""
    name = spelled.replace("-", "_")
    names = set(known)
    return next((each for each in (name, _ALSO.get(name)) if each in names), None)


def _is_option(hints: Mapping[str, Any], word: str) -> bool:
    found = _ASSIGNMENT.fullmatch(word)
    name = found[1] if found else word.removeprefix("--")
    return (word.startswith("--") and len(word) > 2) or (found is not None and known_name(hints, name) is not None)


@cache
def option_types(kind: type) -> dict[str, Any]:
    """The annotated type of each option."""
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in fields(kind)}


def read_value(kind: type, name: str, texts: Sequence[str]) -> Any:
    """The value that the words (one, or several of a list) give to an option. Raises InputError that names it."""
    hint = option_types(kind)[name]
    if is_list(hint):
        pattern = next((part.pattern for part in _parts(hint) if isinstance(part, Split)), ",")
        members = [member.strip() for text in texts for member in re.split(pattern, text)]
        return tuple(_read(get_args(_plain(hint))[0], name, member) for member in members if member)
    return _read(hint, name, texts[0])


def _read(hint: Any, name: str, text: str) -> Any:
    for part in _parts(hint):
        if hasattr(part, "instance_from_str"):
            return part.instance_from_str([text])
    types_of = _alternatives(hint)
    if type(None) in types_of and (text == "None" or (str not in types_of and text.lower() == "none")):
        return None
    if not text and not any(isinstance(part, MayBeEmpty) for part in _parts(hint)):
        require(False, name, "a value", text)
    # What neither a file nor a name of one can hold: half a character (bytes that are no UTF-8), and NUL.
    require(not re.search("[\ud800-\udfff\0]", text), name, "text in UTF-8 without NUL", text)
    if text == "~" or text.startswith("~/"):
        text = str(Path(text).expanduser())
    choices = [choice for each in types_of if get_origin(each) is Literal for choice in get_args(each)]
    if choices:
        require(text in choices, name, f"one of {', '.join(map(str, choices))}", text)
        return text
    for converted, convert, expected in _CONVERTED:
        if converted in types_of:
            try:
                return convert(text)
            except (ValueError, KeyError):
                require(False, name, expected, text)
    return text


def _number(kind: type[int] | type[float], text: str) -> int | float:
    """Raises ValueError also for digits of other scripts, and for whole numbers that libraries cannot count to."""
    if not text.isascii() or (kind is int and len(text.strip().lstrip("+-")) > _MOST_DIGITS):
        raise ValueError
    return kind(text)


_CONVERTED: list[tuple[type, Callable[[str], Any], str]] = [
    (bool, lambda text: _SWITCH[text.lower()], "true or false"),
    (int, lambda text: _number(int, text), "a whole number"),
    (float, lambda text: _number(float, text), "a number"),
    (Path, Path, "a path"),
]


def is_list(hint: Any) -> bool:
    """Whether an option of this type takes several values."""
    return get_origin(_plain(hint)) is tuple


def takes_table(hint: Any) -> bool:
    """Whether an option of this type takes names with values."""
    return any(get_origin(each) is Mapping for each in _alternatives(hint))


def _parts(hint: Any) -> Iterable[Any]:
    for part in (*get_args(hint), *getattr(hint, "__metadata__", ())):
        yield part
        yield from _parts(part)


def _plain(hint: Any) -> Any:
    return _plain(get_args(hint)[0]) if get_origin(hint) is Annotated else hint


def _alternatives(hint: Any) -> list[Any]:
    plain = _plain(hint)
    if get_origin(plain) in (Union, types.UnionType):
        return [each for part in get_args(plain) for each in _alternatives(part)]
    return [plain]
