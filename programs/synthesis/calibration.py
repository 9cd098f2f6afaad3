"""How far the verifier can be trusted: known positives, verified blind like everything else, show what it misses.

A verdict "does not answer the query" on a known positive is a miss. The miss rate is reported with its 95% Wilson
interval. The verifier is unusable when even the lower end of that interval is above the highest tolerated miss rate:
that is, when chance does not explain how many positives it missed. A few canaries can therefore condemn a verifier that
is far off (2 misses of 2), while a good one is never condemned by a single miss among many.

It is unusable as well when it does not tell the two apart: when, with ten canaries or more and at least one miss, it
calls known positives irrelevant as often as the drafts. Such verdicts are chance or habit, whatever their number.
"""

from dataclasses import dataclass
from typing import Any

from data.base.stats import wilson_interval

# With fewer canaries the two shares are too rough to be compared.
_COMPARED_CANARIES = 10
# With fewer canaries than this a run goes on even if they look bad; its end decides with all of them.
_EARLY_CANARIES = 20


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
        return self.canaries > 0 and (self.miss_interval[0] > self.max_miss_rate or self.undiscerning)

    @property
    def unusable_early(self) -> bool:
        """Whether that is so clear that a run should not go on and pay for negatives that it cannot accept."""
        return self.unusable and self.canaries >= _EARLY_CANARIES

    @property
    def undiscerning(self) -> bool:
        """Whether it calls known positives irrelevant at least as often as drafts."""
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
