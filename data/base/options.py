"""A command's options: one frozen dataclass, the bounds beside the fields, what several commands take inherited.

    @options
    class MineConfig(EncoderOptions):
        rank_from: Count = 1
        "First rank that may be taken."

A value out of bounds is an InputError that names the flag, from the command line and from Python alike. None is in
every bound. A rule over several options belongs into `__post_init__` of the class that has them all.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, dataclass_transform, get_args, get_type_hints

from data.base.errors import require

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Bound:
    """What an option, or each member of one that is a list, may be: in words, and as a test."""

    expected: str
    holds: Callable[[Any], bool]


def at_least(least: int) -> Bound:
    return Bound(f"at least {least}", lambda value: value >= least)


def between(least: int, most: int) -> Bound:
    return Bound(f"{least} to {most}", lambda value: least <= value <= most)


Count = Annotated[int, at_least(1)]
Natural = Annotated[int, at_least(0)]
# What every generator of random numbers takes.
Seed = Annotated[int, between(0, 2**32 - 1)]
Positive = Annotated[float, Bound("a number above 0", lambda value: 0 < value < math.inf)]
NotNegative = Annotated[float, Bound("a number of at least 0", lambda value: 0 <= value < math.inf)]
Finite = Annotated[float, Bound("a finite number", math.isfinite)]
Share = Annotated[float, Bound("a share from 0 to 1", lambda value: 0 <= value <= 1)]
OpenShare = Annotated[float, Bound("a share above 0 and below 1", lambda value: 0 < value < 1)]


@dataclass_transform(kw_only_default=True, frozen_default=True)
def options(cls: type[Made]) -> type[Made]:
    """A frozen dataclass with keywords alone, checked when it is made; its own options come before inherited ones."""
    # Under a name of its own, so that it holds for the classes that inherit from this one, too.
    cls._rules = cls.__dict__.get("__post_init__")  # type: ignore[attr-defined]

    def check(config: Any) -> None:
        for name, bounds in _bounds(config.__class__).items():
            value = getattr(config, name)
            if isinstance(value, str) and name in _paths(config.__class__):
                object.__setattr__(config, name, Path(value))
            for each in value if isinstance(value, tuple) else (value,):
                for bound in bounds:
                    require(each is None or bound.holds(each), name, bound.expected, value)
        for kind in reversed(config.__class__.__mro__):
            if (rules := kind.__dict__.get("_rules")) is not None:
                rules(config)

    cls.__post_init__ = check  # type: ignore[attr-defined]
    # One without a default has to be given, also where an inherited one of its name has a default.
    for name in cls.__annotations__.keys() - cls.__dict__.keys():
        setattr(cls, name, field())
    made = dataclass(frozen=True, kw_only=True)(cls)
    by_name = made.__dataclass_fields__  # type: ignore[attr-defined]
    inherited = [name for name in by_name if name not in cls.__annotations__]
    for name in [*cls.__annotations__, *inherited]:
        by_name[name] = by_name.pop(name)
    return made


def shared_options(config: Any, kind: type) -> dict[str, Any]:
    """Those of a command's options that it has from `kind`, to hand them on to another command."""
    return {field.name: getattr(config, field.name) for field in fields(kind)}


@cache
def _paths(kind: type) -> set[str]:
    """The options that are a path and nothing else; Python may give one as a text, as the command line does."""
    return {name for name, hint in get_type_hints(kind).items() if hint in (Path, Path | None)}


@cache
def _bounds(kind: type) -> dict[str, list[Bound]]:
    return {name: list(_find(hint)) for name, hint in get_type_hints(kind, include_extras=True).items()}


def _find(hint: Any) -> Iterator[Bound]:
    for part in (*get_args(hint), *getattr(hint, "__metadata__", ())):
        if isinstance(part, Bound):
            yield part
        else:
            yield from _find(part)
