"""Whether it matters how passages are judged: in a line-up or one by one, and at which place of a line-up."""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.base.stats import wilson_interval
from data.base.text import content_id
from data.records import Negative, Row, Verdict
from programs.modules.candidates import Synthesis
from programs.options import VerifyBy
from programs.synthesis.config import SynthesizeConfig
from programs.synthesis.store import RunStore
from programs.synthesis.workers import RowWork

_RESAMPLES = 2_000
_ALL = 10_000
_THIRDS = ("first", "middle", "last")


@dataclass(frozen=True, slots=True)
class JudgedRow:
    """A row whose negatives are the passages that were judged with it, and the verdicts on them and on its positive."""

    row: Row
    verdicts: tuple[Verdict, ...]
    canary: Verdict | None


def other_way(config: SynthesizeConfig) -> SynthesizeConfig:
    """The run that judges the passages of some rows in the way that `config` does not."""
    by: VerifyBy = "line-up" if config.verify == "one-by-one" else "one-by-one"
    return replace(
        config, method="verify", verify=by, verify_mined=_ALL, canary_share=1.0, program=None, retriever=None,
        hardness=None, engine="local", accept_unusable_verifier=True,
    )  # fmt: skip


def judged_sample(config: SynthesizeConfig, rows: Iterable[Row], store: RunStore) -> list[JudgedRow]:
    """So many finished rows, drawn by the seed, with all that was judged of them."""

    def judged() -> Iterable[tuple[str, JudgedRow]]:
        seen = set[str]()
        for row in rows:
            work = RowWork.of(row, config)
            found = None if work.row_id in seen else store.load(work.row_id)
            seen.add(work.row_id)
            if found is not None and (one := _judged_row(work, found)) is not None:
                yield content_id(str(config.seed), "agreement", work.row_id), one

    chosen = heapq.nsmallest(config.agreement_sample, judged(), key=lambda one: one[0])
    return [row for _, row in chosen]


def _judged_row(work: RowWork, synthesis: Synthesis) -> JudgedRow | None:
    texts = [(one.text, one.verdict) for one in synthesis.candidates if one.verdict is not None]
    if synthesis.judged == work.judged:
        texts += [(text, one) for text, one in zip(work.texts, synthesis.mined, strict=False) if one is not None]
    if not texts:
        return None
    negatives = tuple(Negative(text=text, source="mined") for text, _ in texts)
    requirements = synthesis.requirements or work.row.requirements
    row = replace(work.row, negatives=negatives, requirements=requirements)
    return JudgedRow(row, tuple(verdict for _, verdict in texts), synthesis.canary)


def agreement(pairs_by_row: Sequence[Sequence[tuple[Verdict, Verdict]]]) -> dict[str, Any]:
    """Cohen's kappa of two judgements on the same passages, with a 95% interval that resamples rows: of whether the
    passage answers, and of whether it satisfies each requirement."""
    answers = [[(a.answers_query, b.answers_query) for a, b in pairs] for pairs in pairs_by_row]
    satisfied = [
        [both for a, b in pairs for both in zip(a.satisfied, b.satisfied, strict=False)] for pairs in pairs_by_row
    ]
    return {"rows": len(pairs_by_row), "answers_query": _kappa(answers), "satisfied": _kappa(satisfied)}


def _kappa(pairs_by_row: Sequence[Sequence[tuple[bool, bool]]]) -> dict[str, Any]:
    table_R4 = np.zeros((len(pairs_by_row), 4))
    for r, pairs in enumerate(pairs_by_row):
        for first, second in pairs:
            table_R4[r, 2 * first + second] += 1
    total_4 = table_R4.sum(axis=0)
    num = int(total_4.sum())
    found: dict[str, Any] = {"pairs": num, "agree": int(total_4[0] + total_4[3]), "kappa": None, "interval_95": None}
    if num:
        rows = len(table_R4)
        weights_BR = np.random.default_rng(0).multinomial(rows, np.full(rows, 1 / rows), _RESAMPLES)
        kappa = kappas(total_4[None])[0]
        resampled_B = kappas(weights_BR @ table_R4)
        resampled_B = resampled_B[np.isfinite(resampled_B)]
        # Undefined where both say the same of everything.
        if np.isfinite(kappa) and len(resampled_B):
            low, high = np.quantile(resampled_B, [0.025, 0.975])
            found |= {"kappa": float(kappa), "interval_95": [float(low), float(high)]}
    return found


def kappas(table_B4: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cohen's kappa (1960) of each table of counts [both no, second alone yes, first alone yes, both yes]."""
    with np.errstate(invalid="ignore", divide="ignore"):
        share_B4 = table_B4 / table_B4.sum(axis=1, keepdims=True)
        first_B, second_B = share_B4[:, 2] + share_B4[:, 3], share_B4[:, 1] + share_B4[:, 3]
        chance_B = first_B * second_B + (1 - first_B) * (1 - second_B)
        kappa_B: NDArray[np.float64] = (share_B4[:, 0] + share_B4[:, 3] - chance_B) / (1 - chance_B)
    return kappa_B


@dataclass(slots=True)
class PlaceEffect:
    """How many requirements passages satisfy by their verdicts, by the third of the line-up that they stood in.

    The order is random: what differs between the thirds by more than chance is the verifier's, not the passages'.
    """

    satisfied: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_THIRDS, 0))
    asked: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_THIRDS, 0))

    def add(self, synthesis: Synthesis) -> None:
        """Count the row's passages that stood in a line-up."""
        judged = [(one.place, one.verdict) for one in synthesis.candidates]
        judged += zip(synthesis.mined_places, synthesis.mined, strict=False)
        judged.append((synthesis.canary_place, synthesis.canary))
        last = max(place for place, _ in judged)
        for place, verdict in judged:
            if place and verdict is not None and last > 1:
                third = _THIRDS[min(2, 3 * (place - 1) // last)]
                self.satisfied[third] += sum(verdict.satisfied)
                self.asked[third] += len(verdict.satisfied)

    def as_dict(self) -> dict[str, Any]:
        """For summary.json: the share of requirements satisfied in each third, with its Wilson interval."""
        return {
            third: {
                "requirements": asked,
                "satisfied": self.satisfied[third] / asked,
                "interval_95": list(wilson_interval(self.satisfied[third], asked)),
            }
            for third, asked in self.asked.items()
            if asked
        }


def agreement_lines(found: dict[str, Any] | None, places: dict[str, Any]) -> list[str]:
    """What was found, in words; nothing where no sample was asked for."""
    if found is None:
        return []
    lines = [f"line-up and one by one on the same passages of {found['rows']} rows:"]
    for name, words in (("answers_query", "answers the query"), ("satisfied", "satisfies a requirement")):
        one = found[name]
        if one["kappa"] is None:
            kappa = "kappa undefined"
        else:
            kappa = "kappa {:.2f}, 95% interval {:.2f} to {:.2f}".format(one["kappa"], *one["interval_95"])
        lines.append(f"- {words}: {one['agree']} of {one['pairs']} agree ({kappa})")
    if places:
        shares = ", ".join(
            "{} third {:.1%} ({:.1%} to {:.1%})".format(third, one["satisfied"], *one["interval_95"])
            for third, one in places.items()
        )
        lines.append(f"- requirements satisfied by place in the line-up: {shares}")
    return lines
