"""What the verdicts on a row's nearest mined negatives make of the row, and how many mined negatives are false ones."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from data.base.stats import wilson_interval
from data.records import Passage, Row, Verdict
from programs.options import MinedRelevant

_FATES = ("promoted", "dropped", "kept")


def nearest_mined(row: Row, count: int) -> tuple[int, ...]:
    """Where the `count` mined negatives nearest to the query stand among the row's negatives, nearest first.

    They are ordered by their scores; those without one come last, as they stand.
    """
    mined = [place for place, negative in enumerate(row.negatives) if negative.source == "mined"]

    def farness(place: int) -> float:
        score = row.negatives[place].score
        return float("inf") if score is None else -score

    return tuple(sorted(mined, key=farness)[:count])


def without_old_verdicts(row: Row, renewed: Collection[int]) -> Row:
    """The row whose requirements are about to be replaced: what the verdicts on its passages said of each requirement
    goes, and what a negative was worth by it stays as its grade. Negatives at the places `renewed` get a verdict anew.
    """

    def forget(verdict: Verdict | None) -> Verdict | None:
        return None if verdict is None else replace(verdict, satisfied=())

    return replace(
        row,
        positives=tuple(replace(one, verdict=forget(one.verdict)) for one in row.positives),
        negatives=tuple(
            one if place in renewed else replace(one, grade=one.relevance, verdict=forget(one.verdict))
            for place, one in enumerate(row.negatives)
        ),
    )


def with_verdicts(
    row: Row, places: Sequence[int], verdicts: Sequence[Verdict | None], relevant: MinedRelevant
) -> tuple[Row, Counter[str]]:
    """The row with the verdicts on its negatives at these places, and what became of those that answer the query.

    Such a negative becomes one more positive (promote), is left out (drop), or stays with its verdict (keep). What is
    not mined is never promoted: it is left out instead.
    """
    done: Counter[str] = Counter()
    promoted, negatives = [], list(row.negatives)
    leave: set[int] = set()
    for place, verdict in zip(places, verdicts, strict=True):
        if verdict is None:
            continue
        found = negatives[place] = replace(negatives[place], verdict=verdict)
        if not verdict.answers_query:
            continue
        if relevant == "keep":
            done["kept"] += 1
            continue
        leave.add(place)
        if found.source == "generated":
            done["generated_dropped"] += 1
        elif relevant == "promote":
            promoted.append(Passage(id=found.id or "", text=found.text, verdict=verdict, source="mined"))
            done["promoted"] += 1
        else:
            done["dropped"] += 1
    kept = tuple(negative for place, negative in enumerate(negatives) if place not in leave)
    return replace(row, positives=(*row.positives, *promoted), negatives=kept), done


@dataclass(slots=True)
class FalseNegatives:
    """How many mined negatives answer their query after all, by rank from 1, and what was done with them."""

    asked: int = 0
    judged: Counter[int] = field(default_factory=Counter)
    answering: Counter[int] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)

    def add(self, verdicts: Iterable[Verdict | None], done: Counter[str] | None = None) -> None:
        """Count the verdicts on one row's mined negatives, nearest first, and what became of those that answer."""
        self.done.update(done or {})
        for rank, verdict in enumerate(verdicts, start=1):
            self.asked += 1
            if verdict is not None:
                self.judged[rank] += 1
                self.answering[rank] += verdict.answers_query

    def as_dict(self) -> dict[str, Any]:
        """For summary.json and the report."""
        ranks = [{"rank": rank} | _rate(self.answering[rank], judged) for rank, judged in sorted(self.judged.items())]
        return {
            "asked": self.asked,
            **_rate(self.answering.total(), self.judged.total()),
            "by_rank": ranks,
            **{name: self.done[name] for name in (*_FATES, "generated_dropped")},
        }


def _rate(answering: int, judged: int) -> dict[str, Any]:
    rate = answering / judged if judged else None
    return {
        "judged": judged,
        "answering": answering,
        "rate": rate,
        "interval_95": list(wilson_interval(answering, judged)),
    }


def mined_lines(mined: dict[str, Any], verifier: str) -> list[str]:
    """`FalseNegatives.as_dict` in words; nothing where no mined negative was to be judged."""
    lines = []
    if mined["judged"]:
        fates = ", ".join(f"{name} {mined[name]}" for name in _FATES if mined[name])
        lines.append(f"false ones among the mined negatives: {_words(mined)}" + (f"; {fates}" if fates else ""))
        lines += [f"- rank {one['rank']}: {_words(one)}" for one in mined["by_rank"]]
    if mined["generated_dropped"]:
        lines.append(f"generated negatives that answer their query, left out: {mined['generated_dropped']}")
    if unjudged := mined["asked"] - mined["judged"]:
        why = "has no verdicts for them" if verifier.startswith("recorded:") else "gave no usable verdict"
        lines.append(f"mined negatives not judged: {unjudged} ({verifier} {why})")
    return lines


def _words(one: dict[str, Any]) -> str:
    low, high = one["interval_95"]
    return f"{one['answering']} of {one['judged']} ({one['rate']:.1%}, 95% interval {low:.1%} to {high:.1%})"
