"""The data behind the report's browser of negatives: compact JSON that is safe inside an HTML page."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from data.base.text import changed_ranges, content_id
from data.records import Row, Verdict
from programs.modules.candidates import Synthesis

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
