"""The measures by which generators are compared, each with a 95% interval where it has one."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict

from data.base.stats import wilson_interval
from data.records import Row
from programs.row_feedback import RowFeedback

_RESAMPLES = 500
_FOLDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A value with its 95% interval; None where it cannot be known."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def text(self, digits: int = 3) -> str:
        """As a cell of the table."""
        if self.value is None:
            return "unknown"
        span = "" if self.low is None or self.high is None else f" [{self.low:.{digits}f}, {self.high:.{digits}f}]"
        return f"{self.value:.{digits}f}{span}"


def measures(summary: Mapping[str, Any], feedback: Sequence[RowFeedback], rows: Sequence[Row]) -> dict[str, Measure]:
    """Everything the leaderboard shows of one model. `rows` are the enriched ones."""
    funnel, usage = summary["funnel"], summary["usage"]
    accepted, planned = funnel["accepted"], funnel["violations_planned"]
    roles = usage["roles"].values()
    answered = sum(role["answered"] for role in roles)
    unread = sum(count for name, count in funnel["faults"].items() if name.endswith(("_malformed", "_truncated")))
    weights = [[one.parts.signal for one in row.assessed if one.parts and one.parts.validity] for row in feedback]
    return {
        "acceptance_rate": _share(accepted, planned),
        "infonce_weight": _row_mean(weights),
        "surgical_rate": _share(funnel["accepted_surgical"], accepted),
        "source_leak_auc": source_leak(rows),
        "parse_failure_rate": _share(unread, answered),
        "tokens_per_accepted": _per_accepted(usage["tokens"], [len(group) for group in weights]),
        "usd_per_accepted": _per_accepted(usage["cost_usd"], [len(group) for group in weights]),
        "seconds_per_accepted": Measure(value=summary["seconds_all_runs"] / accepted if accepted else None),
    }


def source_leak(rows: Sequence[Row]) -> Measure:
    """AUC of telling generated from mined negatives by their words alone (logistic regression on a bag of words,
    cross-validated with whole rows held out). 0.5 is what should be: the words give the origin away no better than
    chance. Unknown without both kinds in at least five rows.
    """
    kept = [row for row in rows if row.of_source("mined") and row.of_source("generated")]
    if len(kept) < _FOLDS:
        return Measure(value=None)
    texts = [negative.text for row in kept for negative in row.negatives]
    labels = np.array([negative.source == "generated" for row in kept for negative in row.negatives])
    groups = np.array([number for number, row in enumerate(kept) for _ in row.negatives])
    counts = CountVectorizer(binary=True).fit_transform(texts)
    scores = cross_val_predict(
        LogisticRegression(max_iter=1000, class_weight="balanced"),
        counts,
        labels,
        groups=groups,
        cv=GroupKFold(_FOLDS),
        method="decision_function",
    )

    def auc(chosen: Sequence[int]) -> float | None:
        members = np.concatenate([np.flatnonzero(groups == number) for number in chosen])
        return float(roc_auc_score(labels[members], scores[members]))

    return _bootstrap(len(kept), auc)


def _share(hits: int, trials: int) -> Measure:
    if not trials:
        return Measure(value=None)
    # Several attempts at one answer can each fail to be read; the share then reaches past the answers it is of.
    low, high = wilson_interval(min(hits, trials), trials)
    return Measure(value=hits / trials, low=low, high=high)


def _row_mean(groups: Sequence[Sequence[float]]) -> Measure:
    """The mean over all values, with an interval over whole rows, whose values belong together."""

    def mean(chosen: Sequence[int]) -> float | None:
        values = [value for number in chosen for value in groups[number]]
        return sum(values) / len(values) if values else None

    return _bootstrap(len(groups), mean)


def _per_accepted(total: float | None, accepted_by_row: Sequence[int]) -> Measure:
    """`total` divided by the accepted negatives; the interval is that of their number, over rows."""
    if total is None:
        return Measure(value=None)
    per_row = total / len(accepted_by_row) if accepted_by_row else 0.0

    def rate(chosen: Sequence[int]) -> float | None:
        accepted = sum(accepted_by_row[number] for number in chosen)
        return per_row * len(chosen) / accepted if accepted else None

    return _bootstrap(len(accepted_by_row), rate)


def _bootstrap(size: int, statistic: Callable[[Sequence[int]], float | None]) -> Measure:
    value = statistic(range(size)) if size else None
    if value is None:
        return Measure(value=None)
    rng = random.Random(0)
    found = [statistic(rng.choices(range(size), k=size)) for _ in range(_RESAMPLES)]
    known = sorted(one for one in found if one is not None)
    return Measure(value=value, low=known[int(0.025 * len(known))], high=known[int(0.975 * (len(known) - 1))])
