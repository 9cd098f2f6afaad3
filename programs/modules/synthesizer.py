"""From one row to verified negatives: extract requirements, violate one at a time, verify each result blind."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import dspy

from data.base.text import clean_text, same_text_key
from data.records import Requirement, Verdict
from programs.lm.faults import CallError
from programs.modules.candidates import Candidate, Synthesis
from programs.modules.predictors import Predictor, Role, RowInputs, RowProgram, Step, Steps, author, written
from programs.modules.signatures import (
    MAX_REMARK_CHARS,
    MAX_REQUIREMENTS,
    ExtractRequirements,
    PlannedViolation,
    RequirementDraft,
    VerifyIrrelevance,
    ViolateRequirement,
    ViolateRequirements,
    Way,
)
from programs.modules.verifier import _verify_step, judged, read_verdict


@dataclass(frozen=True, slots=True)
class Draft:
    """A passage as a model wrote it."""

    text: str
    explanation: str
    author: str


class Synthesizer(RowProgram):
    """The program: sub-predictors `extract` and `violate` (role generator) and `verify` (role verifier).

    Args:
        negatives_per_row: at most this many violations are planned for a row.
        repairs: how often a refused draft is written again with the verifier's reason.
        malformed_retries: how often an answer that cannot be read is asked for again.
        batched: all violations of a row are written in one call instead of one call each.
    """

    roles: ClassVar[Mapping[Predictor, Role]] = {"extract": "generator", "violate": "generator", "verify": "verifier"}

    def __init__(
        self, *, negatives_per_row: int = 4, repairs: int = 1, malformed_retries: int = 2, batched: bool = False
    ):
        super().__init__(malformed_retries)
        self.batched = batched
        self.signatures: dict[Predictor, type[dspy.Signature]] = {
            "extract": ExtractRequirements,
            "violate": ViolateRequirements if batched else ViolateRequirement,
            "verify": VerifyIrrelevance,
        }
        self.extract = dspy.Predict(self.signatures["extract"])
        self.violate = dspy.Predict(self.signatures["violate"])
        self.verify = dspy.Predict(self.signatures["verify"])
        self.negatives_per_row, self.repairs = negatives_per_row, repairs

    def requirements_of(self, inputs: RowInputs) -> tuple[Requirement, ...]:
        """The requirements alone; none when the extraction fails."""
        faults: Counter[str] = Counter()
        asked = {"relevance": inputs.relevance, "query": inputs.query, "passage": inputs.passage}
        found = self.ask(Step("extract", asked), faults)
        if isinstance(found, CallError):
            return ()
        return number_requirements(found.requirements, inputs.passage, faults)

    def _steps(self, row: RowInputs, faults: Counter[str]) -> Steps:
        first = Step("extract", {"relevance": row.relevance, "query": row.query, "passage": row.passage})
        (found,) = yield [first]
        if isinstance(found, CallError):
            return Synthesis(failure=f"extract_{found.loss}", failure_detail=found.detail)
        requirements = number_requirements(found.requirements, row.passage, faults)
        plan = plan_violations(found.requirements, self.negatives_per_row)
        if not plan:
            return Synthesis(requirements=requirements, failure="no_violation_planned")

        statements = [f"{requirement.id}. {requirement.statement}" for requirement in requirements]
        known = {same_text_key(text) for text in (row.passage, *row.known_texts)}
        candidates: dict[int, Candidate] = {}
        canary = _verify_step(row, statements, row.passage)
        canary_verdict: Verdict | None = None
        pending = dict(enumerate(plan))
        for attempt in range(self.repairs + 1):
            planned = [
                _planned(statements, requirements[position], way, candidates.get(number))
                for number, (position, way) in pending.items()
            ]
            drafts = read_drafts((yield _violate_steps(row, statements, planned, self.batched)), len(planned))
            fresh: dict[int, Candidate] = {}
            for (number, (position, way)), draft in zip(pending.items(), drafts, strict=True):
                candidate = _drafted(requirements[position], way, draft, known, faults)
                fresh[number] = candidate if attempt == 0 else _repair(candidate, candidates[number])
            to_verify = [number for number, candidate in fresh.items() if candidate.fate == "not_verified"]
            asks = [_verify_step(row, statements, fresh[number].text) for number in to_verify]
            with_canary = row.canary and attempt == 0
            verdicts = (yield asks + [canary] * with_canary) if asks or with_canary else []
            if with_canary:
                canary_verdict = read_verdict(verdicts[-1])
            for number, answer in zip(to_verify, verdicts, strict=False):
                fresh[number] = judged(fresh[number], read_verdict(answer))
            for number, candidate in fresh.items():
                # A repair that came to nothing leaves the verdict on the first draft as the candidate's fate.
                if number not in candidates or candidate.verdict is not None:
                    candidates[number] = candidate
                else:
                    faults["repair_failed"] += 1
            pending = {n: pending[n] for n, c in fresh.items() if c.fate in ("answers_query", "target_kept")}
            if not pending:
                break
        return Synthesis(
            requirements=requirements,
            information_need=clean_text(found.information_need)[:MAX_REMARK_CHARS],
            candidates=tuple(candidates[number] for number in sorted(candidates)),
            canary=canary_verdict,
            canary_asked=row.canary,
        )


def number_requirements(
    drafts: Sequence[RequirementDraft], passage: str, faults: Counter[str]
) -> tuple[Requirement, ...]:
    """Give the extracted requirements their positions as ids; an evidence span not in the passage is a fault."""
    text = same_text_key(passage)
    requirements = []
    for position, draft in enumerate(drafts[:MAX_REQUIREMENTS], start=1):
        evidence = clean_text(draft.evidence)
        if not evidence or same_text_key(evidence) not in text:
            faults["evidence_not_in_passage"] += 1
        requirements.append(
            Requirement(
                id=position,
                kind=draft.kind,
                statement=" ".join(clean_text(draft.statement).split()),
                evidence=evidence,
                critical=draft.critical,
            )
        )
    return tuple(requirements)


def plan_violations(drafts: Sequence[RequirementDraft], most: int) -> list[tuple[int, Way]]:
    """Which violations to write, as (position of the requirement, way): every requirement once before any twice,
    critical ones first."""
    order = sorted(range(min(len(drafts), MAX_REQUIREMENTS)), key=lambda position: not drafts[position].critical)
    deepest = max((len(draft.ways) for draft in drafts), default=0)
    plan: list[tuple[int, Way]] = []
    for depth in range(deepest):
        for position in order:
            ways = drafts[position].ways
            if depth < len(ways) and (position, ways[depth]) not in plan:
                plan.append((position, ways[depth]))
    return plan[:most]


def _drafted(
    requirement: Requirement,
    way: Way,
    draft: "Draft | CallError",
    known: set[str],
    faults: Counter[str],
) -> Candidate:
    planned = Candidate(requirement=requirement, disruption=way.disruption, direction=way.direction, fate="not_written")
    if isinstance(draft, CallError):
        return planned
    return written(
        planned, draft.text, explanation=draft.explanation, generator=draft.author, step="violate", known=known,
        faults=faults,
    )  # fmt: skip


def _repair(candidate: Candidate, refused: Candidate) -> Candidate:
    """The next draft of a refused candidate. The verdicts before it still tell how many drafts were relevant."""
    return replace(candidate, repaired=True, verdicts=refused.verdicts, verdicts_relevant=refused.verdicts_relevant)


def _planned(
    statements: Sequence[str], requirement: Requirement, way: Way, refused: Candidate | None
) -> PlannedViolation:
    remark = ""
    if refused is not None and refused.verdict is not None:
        remark = f"Draft:\n{refused.text}\n\nRefused because: {refused.verdict.reason}"
    return PlannedViolation(
        target=statements[requirement.id - 1], disruption=way.disruption, direction=way.direction, refused=remark
    )


def _violate_steps(
    row: RowInputs, statements: Sequence[str], planned: Sequence[PlannedViolation], batched: bool
) -> list[Step]:
    shared = {
        "style": list(row.style),
        "query": row.query,
        "passage": row.passage,
        "requirements": list(statements),
    }
    if batched:
        return [Step("violate", shared | {"violations": list(planned)}, counted=("negatives", len(planned)))]
    return [Step("violate", shared | violation.model_dump()) for violation in planned]


def read_drafts(answers: Sequence["dspy.Prediction | CallError"], count: int) -> list["Draft | CallError"]:
    """One draft (or the fault that it was lost by) for each of `count` planned violations."""
    drafts: list[Draft | CallError] = []
    for answer in answers:
        if isinstance(answer, CallError):
            drafts += [answer] * (count if len(answers) < count else 1)
        elif "negatives" in answer:
            drafts += [Draft(one.negative, one.explanation, author(answer)) for one in answer.negatives]
        else:
            drafts.append(Draft(answer.negative, answer.explanation, author(answer)))
    return drafts
