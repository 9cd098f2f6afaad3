"""Scores by kind of query: how long it is, and which kinds of requirement make a passage relevant to it."""

from collections.abc import Iterable, Mapping

from data.base.text import same_text_key
from data.records import REQUIREMENT_KINDS, Row

# Upper bounds in words; web queries are mostly short, claims and questions longer.
_LENGTHS = ((5, "1 to 5 words"), (10, "6 to 10 words"), (20, "11 to 20 words"))
_LONGEST = "21 words and more"


def by_length(queries: Mapping[str, str]) -> dict[str, list[str]]:
    """Query ids by number of words; slices without a query are left out."""
    slices: dict[str, list[str]] = {name: [] for name in (*(name for _, name in _LENGTHS), _LONGEST)}
    for query_id, text in queries.items():
        words = len(text.split())
        slices[next((name for most, name in _LENGTHS if words <= most), _LONGEST)].append(query_id)
    return {name: found for name, found in slices.items() if found}


def by_requirement_kind(queries: Mapping[str, str], rows: Iterable[Row]) -> dict[str, list[str]]:
    """Query ids by the kinds of requirement that `rows` (matched by query text) list for them; a query that has
    several kinds is in several slices."""
    kinds: dict[str, set[str]] = {}
    for row in rows:
        kinds.setdefault(same_text_key(row.query), set()).update(r.kind for r in row.requirements)
    slices = {
        f"needs {kind}": [qid for qid, text in queries.items() if kind in kinds.get(same_text_key(text), ())]
        for kind in REQUIREMENT_KINDS
    }
    return {name: found for name, found in slices.items() if found}
