"""The corpus profile: what counts as relevant in a corpus and how its passages read. It is input, not prompt."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

from data.base.errors import InputError
from data.base.files import open_text
from data.base.text import clean_text

PROFILE_FOLDER = Path(__file__).parent / "profiles"


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
