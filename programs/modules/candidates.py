"""What the synthesis of one row came to: requirements, candidate negatives with their fates, and every loss by name."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from data.records import Negative, Requirement, Row, Verdict
from programs.modules.verifier import Fate, fate_of

# Where the weight of an accepted draft lies, seen from the band that was asked for.
BandPlace = Literal["below", "within", "above"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardness:
    """What a retriever makes of a draft.

    `weight`: its InfoNCE weight beside the row's positives and mined negatives, 0 to 1. `similarity`: to the query;
    `positive`: that of the nearest positive. `place`: where it lies, seen from the band that was asked for. `words`:
    what this means, and what to change.
    """

    weight: float
    similarity: float
    positive: float
    place: BandPlace
    words: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One planned violation and its fate; `verdict` is the last draft's, `generator` the model that wrote it.

    `place` is where the draft stood in its line-up, from 1; 0 when it was not judged in one.

    `verdicts` counts the verdicts on all its drafts, refused ones included, `verdicts_relevant` those of them that said
    "answers the query".
    `requirement` is None for the naive baseline, which plans nothing.
    Where a retriever scores what is accepted: `hardness` is this draft's, `first_place` where the first draft lay that
    was accepted; `judged_twice` counts the drafts that were, `doubted` those of them that the second verdict refused.
    """

    requirement: Requirement | None = None
    disruption: str = ""
    direction: str = ""
    fate: Fate = "not_written"
    text: str = ""
    verdict: Verdict | None = None
    place: int = 0
    verdicts: int = 0
    verdicts_relevant: int = 0
    repaired: bool = False
    generator: str = ""
    hardness: Hardness | None = None
    first_place: BandPlace | None = None
    judged_twice: int = 0
    doubted: int = 0

    @property
    def others_kept(self) -> tuple[int, int]:
        """How many of the other requirements still hold, of how many."""
        if self.verdict is None or self.requirement is None:
            return 0, 0
        target = self.requirement.id
        others = [kept for number, kept in enumerate(self.verdict.satisfied, start=1) if number != target]
        return sum(others), len(others)

    def judged(self, verdict: Verdict | None, keep_at_least: float = 0.0) -> "Candidate":
        """The candidate with this verdict on its draft, and the fate that the acceptance rule gives it; as it is when
        there was no usable one."""
        if verdict is None:
            return self
        return replace(
            self,
            verdict=verdict,
            fate=fate_of(verdict, None if self.requirement is None else self.requirement.id, keep_at_least),
            verdicts=self.verdicts + 1,
            verdicts_relevant=self.verdicts_relevant + verdict.answers_query,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Synthesis:
    """One row's outcome.

    `failure` names the loss of the whole row, else None: nothing could be planned, or "positive_refused" (the reason is
    `failure_detail`) when the extraction or the verifier said that the known positive does not meet the query.
    `canary` is the verdict on the known positive where it was asked for, one that refuses it if there were several.
    `mined` are the verdicts on RowInputs.mined, in their order, None where there is none. The places are those in the
    line-up, from 1; 0 for what was not judged in one.
    `judged` names the texts that `mined` is about. `faults` counts what went wrong on the way, mended or not.
    """

    requirements: tuple[Requirement, ...] = ()
    information_need: str = ""
    answer_boundary: str = ""
    candidates: tuple[Candidate, ...] = ()
    canary: Verdict | None = None
    canary_asked: bool = False
    canary_place: int = 0
    mined: tuple[Verdict | None, ...] = ()
    mined_places: tuple[int, ...] = ()
    judged: str = ""
    failure: str | None = None
    failure_detail: str = ""
    faults: Mapping[str, int] = field(default_factory=Counter)

    @property
    def accepted(self) -> tuple[Candidate, ...]:
        """The candidates that became negatives."""
        return tuple(candidate for candidate in self.candidates if candidate.fate == "accepted")


def negative_of(candidate: Candidate, *, program: str) -> Negative:
    """The training record of an accepted candidate."""
    return Negative(
        text=candidate.text,
        source="generated",
        requirement=candidate.requirement,
        disruption=candidate.disruption or None,
        verdict=candidate.verdict,
        generator=candidate.generator or None,
        program=program,
    )


def synthesis_of_row(row: Row) -> Synthesis:
    """The accepted part of a row's synthesis, from the row as it was written."""
    candidates = tuple(
        Candidate(
            requirement=negative.requirement,
            disruption=negative.disruption or "",
            fate="accepted",
            text=negative.text,
            verdict=negative.verdict,
            generator=negative.generator or "",
        )
        for negative in row.of_source("generated")
        if negative.requirement is not None
    )
    return Synthesis(requirements=row.requirements, candidates=candidates)


def synthesis_to_dict(synthesis: Synthesis) -> dict[str, Any]:
    """The JSON form, as the run store keeps it."""
    return asdict(synthesis) | {"faults": dict(synthesis.faults)}


def synthesis_from_dict(value: Mapping[str, Any]) -> Synthesis:
    """Read back what `synthesis_to_dict` wrote."""
    candidates = tuple(
        Candidate(
            **{
                **candidate,
                "requirement": Requirement(**candidate["requirement"]) if candidate["requirement"] else None,
                "verdict": _verdict(candidate["verdict"]),
                "hardness": Hardness(**candidate["hardness"]) if candidate.get("hardness") else None,
            }
        )
        for candidate in value["candidates"]
    )
    return Synthesis(
        **{
            **value,
            "requirements": tuple(Requirement(**requirement) for requirement in value["requirements"]),
            "candidates": candidates,
            "canary": _verdict(value["canary"]),
            "mined": tuple(_verdict(verdict) for verdict in value["mined"]),
            "mined_places": tuple(value["mined_places"]),
            "faults": Counter(value["faults"]),
        }
    )


def _verdict(value: Mapping[str, Any] | None) -> Verdict | None:
    if value is None:
        return None
    return Verdict(satisfied=tuple(value["satisfied"]), answers_query=value["answers_query"], reason=value["reason"])
