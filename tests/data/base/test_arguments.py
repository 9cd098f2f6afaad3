from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from tyro.constructors import PrimitiveConstructorSpec

from data.base.arguments import MayBeEmpty, Split, assigned_texts, from_texts
from data.base.errors import InputError

Pairs = Annotated[
    Mapping[str, str],
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="K=V",
        instance_from_str=lambda words: dict([words[0].split("=")]),
        is_instance=lambda value: isinstance(value, Mapping),
        str_from_instance=lambda value: [str(value)],
    ),
]


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A plot."""

    sizes: tuple[int, ...] = (1,)
    """Sizes."""

    names: Annotated[tuple[str, ...], Split(r"[\s,]+")] = ()
    """Names."""

    places: tuple[Path, ...] = ()
    """Places."""

    max_depth: float | None = 1.0
    """Depth."""

    kind: Literal["clay", "sand"] | None = None
    """Kind."""

    note: Annotated[str, MayBeEmpty()] | None = None
    """Note."""

    licence: str = "mit"
    """Licence."""

    pairs: Pairs | None = None
    """Pairs."""

    sunny: bool = True
    """Sunny."""


def plot(words: list[str]) -> Plot:
    return from_texts(Plot, assigned_texts([Plot], words, "help"), "help")


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["sizes=1,2, 3"], {"sizes": (1, 2, 3)}),
        (["--sizes", "1", "2,3", "sunny=false"], {"sizes": (1, 2, 3), "sunny": False}),
        (["--sizes", "4", "--no-sunny"], {"sizes": (4,), "sunny": False}),
        (["sizes="], {"sizes": ()}),
        (["names=a b,c"], {"names": ("a", "b", "c")}),
        (["places=a b,c"], {"places": (Path("a b"), Path("c"))}),
        (["--max-depth", "-0.5"], {"max_depth": -0.5}),
        (["max_depth=none", "kind=None"], {"max_depth": None, "kind": None}),
        (["--kind", "sand", "note="], {"kind": "sand", "note": ""}),
        (["license=apache-2.0"], {"licence": "apache-2.0"}),
        (["pairs=a=b"], {"pairs": {"a": "b"}}),
        (["places=~/a", "note=~/b", "licence=a~b"], {"places": (Path("/me/a"),), "note": "/me/b", "licence": "a~b"}),
    ],
)
def test_words_become_values(words: list[str], values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/me")
    assert plot(words) == Plot(**values)


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["sizes=1,b"], "--sizes: expected a whole number, got 'b'"),
        (["max-depth=deep"], "--max-depth: expected a number, got 'deep'"),
        (["kind=loam"], "--kind: expected one of clay, sand, got 'loam'"),
        (["sunny=maybe"], "--sunny: expected true or false, got 'maybe'"),
        (["licence="], "--licence: expected a value, got ''"),
        (["--licence"], "--licence: expected a value, got nothing"),
        (["--licence", "--kind", "clay"], "--licence: expected a value, got nothing"),
        (["sizes=" + "9" * 5000], r"--sizes: expected a whole number, got '9{79}... \(5002 characters\)"),
        (["sizes=9999999999999999"], "--sizes: expected a whole number, got '9999999999999999'"),
        (["sizes=\u0663"], "--sizes: expected a whole number, got '\u0663'"),
        (["max-depth=\uff11"], "--max-depth: expected a number, got '\uff11'"),
        (["licence=\udcff"], r"--licence: expected text in UTF-8 without NUL, got '\\udcff'"),
        (["licence=a\0"], r"--licence: expected text in UTF-8 without NUL, got 'a\\x00'"),
        (["lisence=mit"], r"--lisence: no such option; the nearest is licence \(help\)"),
        (["clay"], r"'clay': expected name=value or --name value \(help\)"),
    ],
)
def test_what_is_no_value_is_said_in_one_line(words: list[str], fault: str) -> None:
    with pytest.raises(InputError, match=f"^{fault}$"):
        plot(words)
