"""The yield funnel: what went in, what came out, and every loss between by name."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.base.errors import InputError
from data.base.files import read_json_object
from programs.modules.candidates import Synthesis
from programs.modules.verifier import FATES, POSITIVE_REFUSED
from programs.synthesis.calibration import Calibration, positive_refused
from programs.synthesis.config import SynthesizeConfig

CALIBRATION_FIELDS = (
    "canaries", "missed", "miss_rate", "miss_rate_interval_95", "usable", "false_negative_upper_bound", "in_words"
)  # fmt: skip


@dataclass(slots=True)
class Funnel:
    """Counts over distinct rows."""

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
        refused = positive_refused(synthesis)
        failure = POSITIVE_REFUSED if refused else synthesis.failure
        if failure is not None:
            self.rows_failed[failure] += 1
        self.rows_with_accepted += bool(synthesis.accepted) and not refused
        for candidate in synthesis.candidates:
            fate = POSITIVE_REFUSED if refused and candidate.fate == "accepted" else candidate.fate
            self.fates[fate] += 1
            self.judged += candidate.verdicts
            self.judged_relevant += candidate.verdicts_relevant
            if fate == "accepted":
                kept, others = candidate.others_kept
                self.disruptions[candidate.disruption] += 1
                self.repaired += candidate.repaired
                self.surgical += candidate.requirement is not None and kept == others
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

    def condemns_verifier(self, config: SynthesizeConfig) -> bool:
        """Whether the canaries show that the verdicts must not be used, and the user has not accepted that."""
        return self.calibration(config.max_miss_rate).unusable and not config.accept_unusable_verifier

    def as_dict(self) -> dict[str, Any]:
        """For summary.json: the funnel from rows to accepted negatives, then what the accepted ones are like."""
        planned = sum(self.fates.values())
        return {
            "rows": self.rows,
            "rows_failed": dict(sorted(self.rows_failed.items())),
            "rows_left_out": self.rows_failed[POSITIVE_REFUSED],
            "rows_with_accepted": self.rows_with_accepted,
            "requirements": self.requirements,
            "violations_planned": planned,
            "lost": {fate: self.fates[fate] for fate in (*FATES, POSITIVE_REFUSED) if fate != "accepted"},
            "accepted": self.accepted,
            "acceptance_rate": self.accepted / planned if planned else None,
            "accepted_surgical": self.surgical,
            "accepted_after_repair": self.repaired,
            "accepted_by_disruption": dict(sorted(self.disruptions.items())),
            "faults": dict(sorted(self.faults.items())),
            "canaries_without_verdict": self.canaries_asked - self.canaries,
        }


def read_funnel(run: str | Path, num_used: int | None = None) -> dict[str, Any]:
    """`shown_funnel` of a synthesis run folder. Raises InputError when it holds no finished synthesis, an empty one, or
    another format."""
    return shown_funnel(read_json_object(Path(run) / "summary.json"), Path(run) / "summary.json", num_used)


def shown_funnel(
    summary: Mapping[str, Any], file: str | Path | None = None, num_used: int | None = None
) -> dict[str, Any]:
    """What a synthesis summary says, for tables and reports: `steps`, `failed_rows`, `faults`, `calibration`.

    A step has a `name`, the `count` that reached it, how many were `lost` after it by reason. `num_used`: how many
    generated negatives training drew on, where that is known. `calibration` has the CALIBRATION_FIELDS, `mined` the
    false ones among the mined negatives, None where none were judged; `hardness` how hard the accepted ones are, None
    where no retriever scored them.
    """
    if "refused" in summary:
        raise InputError(f"the synthesis accepted nothing: {summary['refused']}", file=file)
    try:
        counts, verifier = summary["funnel"], summary["verifier"]
        lost = {str(name): int(count) for name, count in counts["lost"].items() if count}
        failed = {str(name): int(count) for name, count in counts["rows_failed"].items()}
        faults = {str(name): int(count) for name, count in counts["faults"].items()}
        calibration = {name: verifier[name] for name in CALIBRATION_FIELDS}
        if not isinstance(calibration["in_words"], str):
            raise TypeError("verifier.in_words")
        steps: list[dict[str, Any]] = [
            {"name": "rows", "count": int(counts["rows"]), "lost": failed},
            {"name": "requirements", "count": int(counts["requirements"]), "lost": {}},
            {"name": "violations planned", "count": int(counts["violations_planned"]), "lost": lost},
            {"name": "accepted", "count": int(counts["accepted"]), "lost": {}},
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"not the summary of a synthesis that this version knows (at {error}): run `synthesize` again", file=file
        ) from error
    if steps[0]["count"] == 0:
        raise InputError("the synthesis had no rows", file=file)
    if num_used is not None:
        if num_used < steps[-1]["count"]:
            steps[-1]["lost"] = {"not_used": steps[-1]["count"] - num_used}
        steps.append({"name": "used in training", "count": num_used, "lost": {}})
    return {"steps": steps, "failed_rows": failed, "faults": faults, "calibration": calibration} | {
        "mined": summary["mined"] if summary.get("mined", {}).get("judged") else None,
        "hardness": summary.get("hardness"),
    }
