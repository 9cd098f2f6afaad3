"""The data behind the report's browser of negatives: compact JSON that is safe inside an HTML page."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from data.base.text import changed_ranges, content_id
from data.records import Negative, Row
from programs.modules.candidates import Candidate, Synthesis

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

    def written(passage: Negative | Candidate, fate: str) -> dict[str, Any]:
        """What there is to say of a passage that a language model wrote."""
        in_positive, in_passage, kept = changed_ranges(positive, passage.text)
        said = {
            "marks": [in_positive, in_passage],
            "kept": round(kept, 2),
            "fate": fate,
            "disruption": passage.disruption or "",
            "requirement": passage.requirement.statement if passage.requirement else "",
        }
        if (verdict := passage.verdict) is not None:
            said |= {"answers": verdict.answers_query, "satisfied": list(verdict.satisfied), "reason": verdict.reason}
        return said

    negatives = []
    for negative in row.negatives:
        seen = _scores_of(negative.text, scores)
        if negative.score is not None and not seen:
            seen = {"mining": round(negative.score, 4)}
        entry: dict[str, Any] = {"p": place(negative.text), "source": negative.source, "scores": seen}
        if negative.source == "generated":
            entry |= written(negative, "accepted") | {"generator": negative.generator or ""}
        negatives.append(entry)
    negatives += [
        {"p": place(candidate.text), "source": "refused", "scores": {}} | written(candidate, candidate.fate)
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
