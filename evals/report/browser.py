"""The data behind the report's browser of negatives: compact JSON that is safe inside an HTML page."""

import json
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from markupsafe import Markup

from data.base.text import content_id, tokens
from data.records import Row, Verdict
from programs.modules.candidates import Synthesis

# Beyond this the comparison takes seconds and so many marks say nothing.
_MOST_WORDS = 3000
# From this share of words kept on, a text is an edit of the other; below, it is a rewrite.
LIGHT_EDIT = 0.5
_REWRITE_PIECE = 4
Range = tuple[int, int]

# Everything else of the page is well under 0.3 MB.
MOST_BYTES = 4_400_000
# What could end a script element, start a comment or break a line of JavaScript is written as an escape.
_UNSAFE = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}


def safe_json(value: Any) -> Markup:
    """JSON that may stand inside <script type="application/json">, whatever texts it holds."""
    return Markup(json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).translate(_UNSAFE))


def browser_data(
    rows: Sequence[Row],
    syntheses: Mapping[str, Synthesis],
    scores: Mapping[str, Mapping[str, Mapping[str, float]]],
    *,
    most_bytes: int = MOST_BYTES,
) -> dict[str, Any]:
    """Passages once each, and for every query its positives and all negatives with marks, verdict and scores.

    `scores` are those of RunFolder. Refused candidates of `syntheses` come after a row's own negatives. When the whole
    would not fit into `most_bytes`, the last queries are left out; `num_rows` says how many there were.
    """
    passages: dict[str, int] = {}
    queries: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        known = len(passages)
        query = _query(row, syntheses.get(row.query_id), scores.get(content_id(row.query), {}), passages)
        new = list(passages)[known:] if len(passages) > known else []
        size += len(safe_json([query, new]).encode())
        if size > most_bytes:
            for text in new:
                del passages[text]
            break
        queries.append(query)
    return {"passages": list(passages), "queries": queries, "num_rows": len(rows)}


def _query(
    row: Row, synthesis: Synthesis | None, scores: Mapping[str, Mapping[str, float]], passages: dict[str, int]
) -> dict[str, Any]:
    def place(text: str) -> int:
        return passages.setdefault(text, len(passages))

    positive = row.positives[0].text
    negatives = []
    for negative in row.negatives:
        entry: dict[str, Any] = {"p": place(negative.text), "source": negative.source}
        seen = _scores_of(negative.text, scores)
        if negative.score is not None and not seen:
            seen = {"mining": round(negative.score, 4)}
        entry["scores"] = seen
        if negative.source == "generated":
            entry |= _marks(positive, negative.text) | _verdict(negative.verdict)
            entry |= {
                "fate": "accepted",
                "disruption": negative.disruption or "",
                "requirement": negative.requirement.statement if negative.requirement else "",
                "generator": negative.generator or "",
            }
        negatives.append(entry)
    negatives += [
        {
            "p": place(candidate.text),
            "source": "refused",
            "scores": {},
            "fate": candidate.fate,
            "disruption": candidate.disruption,
            "requirement": candidate.requirement.statement if candidate.requirement else "",
        }
        | _marks(positive, candidate.text)
        | _verdict(candidate.verdict)
        for candidate in (synthesis.candidates if synthesis else ())
        if candidate.fate != "accepted" and candidate.text
    ]
    return {
        "id": row.query_id,
        "query": row.query,
        "positive": place(positive),
        "scores": _scores_of(positive, scores),
        "requirements": [requirement.statement for requirement in row.requirements],
        "negatives": negatives,
    }


def _scores_of(text: str, scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    key = content_id(text)
    return {when: found[key] for when, found in scores.items() if key in found}


def _marks(positive: str, negative: str) -> dict[str, Any]:
    in_positive, in_negative, kept = changed_ranges(positive, negative)
    return {"marks": [in_positive, in_negative], "kept": round(kept, 2)}


def _verdict(verdict: Verdict | None) -> dict[str, Any]:
    if verdict is None:
        return {}
    return {"answers": verdict.answers_query, "satisfied": list(verdict.satisfied), "reason": verdict.reason}


def changed_ranges(first: str, second: str) -> tuple[list[Range], list[Range], float]:
    """(ranges only in the first text, ranges only in the second, share of words kept from 0 to 1).

    Ranges are [start, end) in characters, in order, without overlap; neighbouring changed words make one range, and so
    do those of a rewrite with fewer than four kept words between them. Case does not count. Texts of more than 3000
    words are not compared: no ranges, share 0. Without a kept piece there are no ranges either.
    """
    words = [list(tokens(text)) for text in (first, second)]
    if not words[0] or not words[1] or max(map(len, words)) > _MOST_WORDS:
        return [], [], 0.0
    folded = [[match[0].casefold() for match in found] for found in words]
    matcher = SequenceMatcher(None, folded[0], folded[1], autojunk=False)
    kept = matcher.ratio()
    # Of a rewrite only what is kept in a longer piece is left unmarked: single words in common mean nothing.
    shortest = 1 if kept >= LIGHT_EDIT else _REWRITE_PIECE
    ranges: tuple[list[Range], list[Range]] = ([], [])
    blocks = [block for block in matcher.get_matching_blocks() if block.size >= shortest or not block.size]
    if len(blocks) == 1:  # the end alone: another text, in which everything would be marked
        return [], [], kept
    place = [0, 0]
    for *starts, length in blocks:
        for side, (start, end) in enumerate(zip(place, starts, strict=True)):
            if start < end:
                ranges[side].append((words[side][start].start(), words[side][end - 1].end()))
        place = [start + length for start in starts]
    return ranges[0], ranges[1], kept
