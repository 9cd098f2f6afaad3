"""The yield funnel: what went in, what came out, and every loss between by name."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from programs.calibration import Calibration
from programs.modules.candidates import FATES, Synthesis


@dataclass(slots=True)
class Funnel:
    """Counts over rows."""

    rows: int = 0
    rows_failed: Counter[str] = field(default_factory=Counter)
    rows_with_accepted: int = 0
    requirements: int = 0
    fates: Counter[str] = field(default_factory=Counter)
    disruptions: Counter[str] = field(default_factory=Counter)
    repaired: int = 0
    surgical: int = 0
    judged: int = 0
    judged_relevant: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    canaries_asked: int = 0
    canaries: int = 0
    canaries_missed: int = 0

    def add(self, synthesis: Synthesis) -> None:
        """Count one row's outcome."""
        self.rows += 1
        self.faults.update(synthesis.faults)
        self.requirements += len(synthesis.requirements)
        if synthesis.failure is not None:
            self.rows_failed[synthesis.failure] += 1
        self.rows_with_accepted += bool(synthesis.accepted)
        for candidate in synthesis.candidates:
            self.fates[candidate.fate] += 1
            self.judged += candidate.verdicts
            self.judged_relevant += candidate.verdicts_relevant
            if candidate.fate == "accepted":
                kept, others = candidate.others_kept
                self.disruptions[candidate.disruption] += 1
                self.repaired += candidate.repaired
                self.surgical += kept == others
        self.canaries_asked += synthesis.canary_asked
        if synthesis.canary is not None:
            self.canaries += 1
            self.canaries_missed += not synthesis.canary.answers_query

    @property
    def accepted(self) -> int:
        """Negatives that passed."""
        return self.fates["accepted"]

    def calibration(self, max_miss_rate: float) -> Calibration:
        """What the canaries among these rows say about the verifier."""
        return Calibration(
            canaries=self.canaries,
            missed=self.canaries_missed,
            unread=self.canaries_asked - self.canaries,
            judged=self.judged,
            called_relevant=self.judged_relevant,
            accepted=self.accepted,
            max_miss_rate=max_miss_rate,
        )

    def as_dict(self) -> dict[str, Any]:
        """For summary.json: the funnel from rows to accepted negatives, then what the accepted ones are like."""
        planned = sum(self.fates.values())
        return {
            "rows": self.rows,
            "rows_failed": dict(sorted(self.rows_failed.items())),
            "rows_with_accepted": self.rows_with_accepted,
            "requirements": self.requirements,
            "violations_planned": planned,
            "lost": {fate: self.fates[fate] for fate in FATES if fate != "accepted"},
            "accepted": self.accepted,
            "acceptance_rate": self.accepted / planned if planned else None,
            "accepted_surgical": self.surgical,
            "accepted_after_repair": self.repaired,
            "accepted_by_disruption": dict(sorted(self.disruptions.items())),
            "faults": dict(sorted(self.faults.items())),
            "canaries_without_verdict": self.canaries_asked - self.canaries,
        }
