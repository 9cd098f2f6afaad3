"""How far the verifier can be trusted: known positives, verified blind like everything else, show what it misses.

A verdict "does not answer the query" on a known positive is a miss. The miss rate is reported with its 95% Wilson
interval. The verifier is unusable when there are 20 canaries or more and even the lower end of that interval is above
the highest tolerated miss rate: that is, when chance does not explain how many positives it missed.

A miss has one of three causes: a wrong label, a profile that says something else than the labels, a bad verifier. The
missed positives are kept with the verifier's reasons, so that a person can tell which.
"""

import textwrap
from dataclasses import dataclass, field
from typing import Any

from data.base.stats import wilson_interval
from data.records import Row
from programs.modules.candidates import Synthesis
from programs.modules.verifier import POSITIVE_REFUSED

# With fewer canaries the two shares are too rough to be compared.
_COMPARED_CANARIES = 10
# Fewer are no evidence, however bad they look.
MIN_CANARIES = 20
_MOST_SHOWN = 5
_SHOWN_CHARS = 220
_CAUSES = (
    ("the label is wrong", "the passage does not answer its query: mend or remove such rows"),
    ("the profile is wrong", "the labels follow another notion of relevance: say theirs in a profile (`just profile`)"),
    ("the verifier is wrong", "the passage does answer: name a better verifier_lm"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The verifier's record on known positives and what follows for the accepted negatives.

    canaries: known positives with a verdict; missed: those called "does not answer"; unread: those that no usable
    verdict came on. judged: drafts of negatives with a verdict, those that were written again included;
    called_relevant: those called "answers the query"; accepted: the negatives that came of them.
    """

    canaries: int
    missed: int
    unread: int = 0
    judged: int
    called_relevant: int
    accepted: int
    max_miss_rate: float

    @property
    def miss_interval(self) -> tuple[float, float]:
        """The 95% interval of the share of relevant passages that the verifier misses."""
        return wilson_interval(self.missed, self.canaries)

    @property
    def unusable(self) -> bool:
        """Whether the canaries show that this verifier's verdicts must not be used."""
        return self.canaries >= MIN_CANARIES and self.miss_interval[0] > self.max_miss_rate

    @property
    def undiscerning(self) -> bool:
        """Whether it calls known positives irrelevant at least as often as drafts: its verdicts may be chance."""
        if self.canaries < _COMPARED_CANARIES or not self.missed or not self.judged:
            return False
        return self.missed * self.judged >= (self.judged - self.called_relevant) * self.canaries

    @property
    def false_negative_bound(self) -> float:
        """An upper bound on the share of accepted negatives that are relevant after all; 1 where nothing can be said.

        With miss rate at most m (upper end) and a share of at most a judged relevant (upper end), at most a / (1 - m)
        of the drafts were relevant and at most m times that many were let through. A draft that was refused and written
        again counts like any other: the verifier could have missed it. It assumes that the verifier misses relevant
        drafts as often as known positives; borderline ones may be missed more often.
        """
        miss = self.miss_interval[1]
        if self.canaries == 0 or self.accepted == 0 or miss >= 1:
            return 1.0
        relevant = wilson_interval(self.called_relevant, self.judged)[1] / (1 - miss)
        return min(1.0, miss * relevant * self.judged / self.accepted)

    def sentence(self) -> str:
        """The finding in words."""
        low, high = self.miss_interval
        if self.canaries == 0 and self.unread:
            return f"this verifier gave no usable verdict on any of {self.unread} known positives"
        if self.canaries == 0:
            return "the verifier was not calibrated: no known positive went through it"
        found = (
            f"this verifier misses {self.missed} of {self.canaries} known positives "
            f"(95% interval {low:.1%} to {high:.1%})"
        )
        if self.undiscerning:
            found += f" and calls no larger share of the {self.judged} drafts irrelevant"
        if self.unusable:
            return f"{found}; its verdicts are not usable"
        if low > self.max_miss_rate:
            found += f"; fewer than {MIN_CANARIES} are no evidence against it"
        if self.accepted == 0:
            return found
        return f"{found}; at most {self.false_negative_bound:.2%} of the accepted negatives are relevant after all"

    def as_dict(self) -> dict[str, Any]:
        """For summary.json."""
        return {
            "canaries": self.canaries,
            "missed": self.missed,
            "miss_rate": None if self.canaries == 0 else self.missed / self.canaries,
            "miss_rate_interval_95": list(self.miss_interval),
            "max_miss_rate": self.max_miss_rate,
            "usable": not self.unusable,
            "false_negative_upper_bound": self.false_negative_bound,
            "in_words": self.sentence(),
        }


def positive_refused(synthesis: Synthesis) -> bool:
    """Whether the row's own positive was said not to meet its query, by the extraction or as a canary."""
    if synthesis.failure == POSITIVE_REFUSED:
        return True
    return synthesis.canary is not None and not synthesis.canary.answers_query


@dataclass(slots=True)
class MissedPositives:
    """How many known positives of a run were said not to meet their query, and the first of them with the reasons."""

    count: int = 0
    shown: list[dict[str, str]] = field(default_factory=list)

    def add(self, row: Row, synthesis: Synthesis) -> None:
        """Keep the row's positive if it was refused."""
        if not positive_refused(synthesis):
            return
        self.count += 1
        if len(self.shown) < _MOST_SHOWN:
            canary = synthesis.canary
            reason = synthesis.failure_detail if canary is None or canary.answers_query else canary.reason
            self.shown.append(
                {"query_id": row.query_id, "query": row.query, "passage": row.positives[0].text, "reason": reason}
            )


def missed_lines(missed: dict[str, Any]) -> list[str]:
    """`MissedPositives` as a dict in words, with what may be the cause and what to do about each; nothing for none."""
    if not missed["count"]:
        return []
    lines = [f"known positives that were said not to answer: {missed['count']}, of which the first"]
    for one in missed["shown"]:
        lines += [f"- {one['query_id']}: {_shown(one['query'])}", f"    passage: {_shown(one['passage'])}"]
        lines.append(f"    reason: {_shown(one['reason']) or 'none was given'}")
    return [*lines, "look at them: one of three things is wrong", *(f"- {what}: {advice}" for what, advice in _CAUSES)]


def _shown(text: str) -> str:
    return textwrap.shorten(text, _SHOWN_CHARS, placeholder=" ...")
