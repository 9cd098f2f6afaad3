"""The corpus profile: what counts as relevant in a corpus and how its passages read. It is input, not prompt."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from data.base.errors import InputError
from data.base.files import read_toml
from data.base.text import clean_text
from data.records import Row, row_content_id

# Style passages are drawn from the first rows only, so that a file of any size starts at once.
STYLE_ROWS = 200
STYLE_CHARS = 800
# So few that they can be kept with a run, so many that any row finds some that are not its own.
POOL_PASSAGES = 64

PROFILE_FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusProfile:
    """`relevance` says when a passage is relevant; `style` holds passages to imitate.

    Without any, each row is shown `shown_of_pool` passages of `pool`, mined ones of the corpus.
    """

    name: str
    relevance: str
    style: tuple[str, ...] = ()
    pool: tuple[str, ...] = ()
    shown_of_pool: int = 0

    def style_for(self, row: Row) -> tuple[str, ...]:
        """The passages that show how the corpus reads: the profile's, or some of other rows, so that they carry none of
        this row's facts. The same for every call of the row."""
        if self.style:
            return self.style
        own = [passage.text for passage in row.positives] + [negative.text for negative in row.negatives]
        others = [text for text in self.pool if not any(one.startswith(text) for one in own)]
        return tuple(random.Random(row_content_id(row)).sample(others, min(self.shown_of_pool, len(others))))


def load_profile(name: str) -> CorpusProfile:
    """Read a shipped profile by name, or a TOML file by path. Raises InputError naming file and field."""
    path = Path(name) if name.endswith(".toml") else PROFILE_FOLDER / f"{name}.toml"
    if not name.endswith(".toml") and not path.is_file():
        known = ", ".join(sorted(found.stem for found in PROFILE_FOLDER.glob("*.toml")))
        raise InputError(f"unknown profile {name!r}: expected one of {known}, or a .toml file", field="profile")
    value = read_toml(path)
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


def style_texts(texts: Iterable[str]) -> list[str]:
    """The passages short enough to be shown whole; where there are none, all of them up to the last whole word."""
    texts = list(texts)
    return [text for text in texts if len(text) <= STYLE_CHARS] or [
        text[: STYLE_CHARS + 1].rsplit(maxsplit=1)[0] for text in texts
    ]


def style_pool(texts: Sequence[str], *, seed: int) -> tuple[str, ...]:
    """A seeded choice of the passages that rows take their style from."""
    whole = style_texts(texts)
    return tuple(random.Random(seed).sample(whole, min(POOL_PASSAGES, len(whole))))
