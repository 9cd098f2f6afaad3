"""The corpus profile: what counts as relevant in a corpus and how its passages read. It is input, not prompt."""

import random
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from data.base.errors import InputError
from data.base.files import open_text
from data.base.text import clean_text
from data.records import Row

# Style passages are drawn from the first rows only, so that a file of any size starts at once.
STYLE_ROWS = 200
STYLE_CHARS = 800

PROFILE_FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusProfile:
    """`relevance` says when a passage is relevant; `style` holds passages to imitate (empty: take mined ones)."""

    name: str
    relevance: str
    style: tuple[str, ...] = ()


def load_profile(name: str) -> CorpusProfile:
    """Read a shipped profile by name, or a TOML file by path. Raises InputError naming file and field."""
    path = Path(name) if name.endswith(".toml") else PROFILE_FOLDER / f"{name}.toml"
    if not name.endswith(".toml") and not path.is_file():
        known = ", ".join(sorted(found.stem for found in PROFILE_FOLDER.glob("*.toml")))
        raise InputError(f"unknown profile {name!r}: expected one of {known}, or a .toml file", field="profile")
    with open_text(path) as file:
        try:
            value = tomllib.loads(file.read())
        except (ValueError, RecursionError) as error:
            raise InputError(f"not valid TOML ({error})", file=path) from error
    relevance, style = value.get("relevance"), value.get("style", [])
    if not isinstance(relevance, str) or not clean_text(relevance):
        raise InputError("expected a sentence that says when a passage is relevant", file=path, field="relevance")
    if not isinstance(style, list) or not all(isinstance(text, str) for text in style):
        raise InputError("expected a list of passages", file=path, field="style")
    unknown = sorted(value.keys() - {"relevance", "style"})
    if unknown:
        raise InputError("is not a field of a profile (relevance, style)", file=path, field=unknown[0])
    return CorpusProfile(
        name=path.stem, relevance=clean_text(relevance), style=tuple(clean_text(text) for text in style)
    )


def mined_passages(rows: Iterable[Row]) -> list[str]:
    """The different mined passages of the rows that style passages may come from."""
    return sorted({negative.text for row in islice(rows, STYLE_ROWS) for negative in row.of_source("mined")})


def mined_style(texts: Sequence[str], *, count: int, seed: int) -> tuple[str, ...]:
    """A seeded choice of mined passages: one for the whole run, so that prompts share a prefix."""
    chosen = random.Random(seed).sample(texts, min(count, len(texts)))
    return tuple(text[:STYLE_CHARS] for text in chosen)
