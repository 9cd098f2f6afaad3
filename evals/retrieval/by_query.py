"""Wins and losses of a model against a baseline, query by query: what each ranked first, and what was relevant."""

import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.retrieval_set import RetrievalSet
from evals.retrieval.measures import LABELS, RetrievalScores, Run, first_ranked, ranked, score
from trainer.encoder import Encoder

# Queries that are kept for the report, and shown of the gains and the losses on a terminal; characters of a passage.
_KEPT, _SHOWN, _LETTERS = 100, 3, 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """An encoder under the name that it is shown by, with what it ranked and how that scores."""

    name: str
    run: Run
    scores: RetrievalScores

    @classmethod
    def of(cls, name: str, encoder: Encoder, retrieval_set: RetrievalSet, *, progress: bool = False) -> "Evaluated":
        """Encode, rank and score, as `measures.evaluate` does."""
        run = ranked(encoder, retrieval_set, progress=progress)
        return cls(name=name, run=run, scores=score(run, retrieval_set))


def wins_and_losses(retrieval_set: RetrievalSet, baseline: Evaluated, model: Evaluated, measure: str) -> dict[str, Any]:
    """Counts, and the queries that differ most, the largest difference first.

    Lists of two hold the baseline's and then the model's: the values of the measure, the passages ranked first, and the
    ranks of the best graded relevant passage (None: below what was retrieved), which is one of `num_relevant`.
    """
    runs = baseline.run, model.run
    old, new = baseline.scores.per_query[measure], model.scores.per_query[measure]
    differences = {query_id: value - old[query_id] for query_id, value in new.items()}
    changed = sorted((q for q, gain in differences.items() if gain), key=lambda q: (-abs(differences[q]), q))
    return {
        "measure": measure,
        "names": [baseline.name, model.name],
        "better": sum(gain > 0 for gain in differences.values()),
        "worse": sum(gain < 0 for gain in differences.values()),
        "same": sum(gain == 0 for gain in differences.values()),
        "queries": [
            {
                "id": q,
                "query": retrieval_set.queries[q],
                "difference": differences[q],
                "values": [old[q], new[q]],
                "first": [_first(retrieval_set, q, run.get(q, {})) for run in runs],
                "relevant": _relevant(retrieval_set, q, runs),
            }
            for q in changed[:_KEPT]
        ],
    }


def _first(retrieval_set: RetrievalSet, query_id: str, found: Mapping[str, float]) -> dict[str, Any] | None:
    for passage_id in first_ranked(found, 1):
        text, relevant = retrieval_set.passages[passage_id], retrieval_set.qrels[query_id].get(passage_id, 0) > 0
        return {"id": passage_id, "text": _cut(text), "relevant": relevant}
    return None


def _relevant(retrieval_set: RetrievalSet, query_id: str, runs: Sequence[Run]) -> dict[str, Any] | None:
    positives = retrieval_set.positives(query_id)
    for passage_id, text in positives.items():
        ranked = [list(first_ranked(run.get(query_id, {}), None)) for run in runs]
        ranks = [ids.index(passage_id) + 1 if passage_id in ids else None for ids in ranked]
        return {"id": passage_id, "text": _cut(text), "ranks": ranks, "num_relevant": len(positives)}
    return None


def _cut(text: str) -> str:
    return text if len(text) <= _LETTERS else f"{text[:_LETTERS].rstrip()} …"


def summary(found: Mapping[str, Any], width: int | None = None) -> str:
    """The largest gains and losses in lines of at most `width` (None: the terminal's, 80 where there is none)."""
    width = width or shutil.get_terminal_size().columns
    label = LABELS.get(found["measure"], found["measure"])
    lines = [
        f"{label} by query: {found['better']} better, {found['worse']} worse, {found['same']} the same"
        + ("; the largest differences" if found["queries"] else "")
    ]

    def add(indent: int, head: str, text: str) -> None:
        start = " " * indent + head
        lines.append(start + textwrap.shorten(text, max(20, width - len(start)), placeholder=" …"))

    gains = [one for one in found["queries"] if one["difference"] > 0][:_SHOWN]
    for one in gains + [one for one in found["queries"] if one["difference"] < 0][:_SHOWN]:
        add(0, f"{one['difference']:+.3f}  ", one["query"])
        for when, first in zip(("baseline", "model"), one["first"], strict=True):
            if first is not None:
                add(8, f"{when:<8} first  {'' if first['relevant'] else 'not '}relevant: ", first["text"])
        relevant = one["relevant"]
        if relevant is not None and not any(first and first["relevant"] for first in one["first"]):
            ranks = " and ".join("none" if rank is None else str(rank) for rank in relevant["ranks"])
            add(8, f"relevant, ranked {ranks}: ", relevant["text"])
    return "\n".join(lines)
