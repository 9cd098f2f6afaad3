"""From one row to verified negatives: extract requirements, violate one at a time, verify each result blind."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

import dspy

from data.base.text import clean_text, same_text_key
from data.records import Disruption, Requirement, Verdict
from programs.lm.bridge import wait_for
from programs.lm.faults import CallError
from programs.modules.candidates import Candidate, Synthesis
from programs.modules.predictors import AskingModule, Predictor, Step, author
from programs.modules.row_program import Role, RowInputs, RowProgram, draft_candidate
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
from programs.modules.verifier import REPAIRABLE, numbered, read_verdict, verify_step


class Verifier(AskingModule):
    """The verifier as a program of its own, to be compiled against passages whose answer is known.

    Sub-predictor `verify` alone; the prediction holds a `verdict`, None when there was no usable one.
    """

    def __init__(self, malformed_retries: int = 2):
        super().__init__(malformed_retries)
        self.verify = dspy.Predict(VerifyIrrelevance)

    def use(self, lm: dspy.LM, adapter: dspy.Adapter) -> "Verifier":
        """Set the model and its adapter; returns self."""
        self.verify.lm, self.adapters = lm, {"verify": adapter}
        return self

    async def aforward(self, **inputs: Any) -> dspy.Prediction:
        """Judge one passage; `inputs` are the signature's."""
        return dspy.Prediction(verdict=read_verdict(await self.call(verify_step(**inputs), Counter())))


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
        found = wait_for(self._extract(inputs, faults))
        return () if isinstance(found, CallError) else number_requirements(found.requirements, inputs.passage, faults)

    async def _extract(self, row: RowInputs, faults: Counter[str]) -> "dspy.Prediction | CallError":
        asked = {"relevance": row.relevance, "query": row.query, "passage": row.passage}
        return await self.call(Step("extract", asked), faults)

    async def run(self, row: RowInputs, faults: Counter[str]) -> Synthesis:
        """Extract, plan, then write and verify until every candidate is accepted or no repair is left."""
        found = await self._extract(row, faults)
        if isinstance(found, CallError):
            return Synthesis(failure=f"extract_{found.loss}", failure_detail=found.detail)
        requirements = number_requirements(found.requirements, row.passage, faults)
        plan = plan_violations(found.requirements, self.negatives_per_row)
        if not plan:
            return Synthesis(requirements=requirements, failure="no_violation_planned")

        known = {same_text_key(text) for text in (row.passage, *row.known_texts)}
        candidates = [
            Candidate(
                requirement=requirements[place], disruption=way.disruption, direction=way.direction, fate="not_written"
            )
            for place, way in plan
        ]
        canary: Verdict | None = None
        pending = list(range(len(plan)))
        for attempt in range(self.repairs + 1):
            planned = [candidates[number] for number in pending]
            fresh = await self._write(row, requirements, planned, known, faults)
            to_verify = [place for place, draft in enumerate(fresh) if draft.fate == "not_verified"]
            with_canary = [row.passage] if row.canary and attempt == 0 else []
            passages = [*(fresh[place].text for place in to_verify), *with_canary]
            verdicts = await self._verify(row, requirements, passages, faults)
            canary = verdicts.pop() if with_canary else canary
            for place, verdict in zip(to_verify, verdicts, strict=True):
                fresh[place] = fresh[place].judged(verdict)
            for number, candidate in zip(pending, fresh, strict=True):
                # A repair that came to nothing leaves the verdict on the first draft as the candidate's fate.
                if attempt == 0 or candidate.verdict is not None:
                    candidates[number] = candidate
                else:
                    faults["repair_failed"] += 1
            pending = [number for number, draft in zip(pending, fresh, strict=True) if draft.fate in REPAIRABLE]
            if not pending:
                break
        return Synthesis(
            requirements=requirements,
            information_need=clean_text(found.information_need)[:MAX_REMARK_CHARS],
            candidates=tuple(candidates),
            canary=canary,
            canary_asked=row.canary,
        )

    async def _write(
        self,
        row: RowInputs,
        requirements: Sequence[Requirement],
        planned: Sequence[Candidate],
        known: set[str],
        faults: Counter[str],
    ) -> list[Candidate]:
        """The planned candidates with new drafts; one that was refused before is told why and keeps its counts."""
        statements = list(numbered(requirements))
        shared = {"style": list(row.style), "query": row.query, "passage": row.passage, "requirements": statements}
        violations = [_violation(candidate, statements) for candidate in planned]
        if self.batched:
            steps = [
                Step("violate", shared | {"violations": violations}, expected_length=("negatives", len(violations)))
            ]
        else:
            steps = [Step("violate", shared | violation.model_dump()) for violation in violations]
        drafts: list[tuple[str, str, str] | None] = []
        for answer in await self.call_all(steps, faults):
            if isinstance(answer, CallError):
                drafts += [None] * (len(planned) if self.batched else 1)
                continue
            written = answer.negatives if self.batched else [answer]
            drafts += [(one.negative, one.explanation, author(answer)) for one in written]
        return [_drafted(candidate, draft, known, faults) for candidate, draft in zip(planned, drafts, strict=True)]

    async def _verify(
        self, row: RowInputs, requirements: Sequence[Requirement], passages: Sequence[str], faults: Counter[str]
    ) -> list[Verdict | None]:
        """The verifier's verdict on each passage, None where it gave none of use."""
        steps = [
            verify_step(relevance=row.relevance, query=row.query, requirements=numbered(requirements), passage=passage)
            for passage in passages
        ]
        return [read_verdict(answer) for answer in await self.call_all(steps, faults)]


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


def _violation(candidate: Candidate, statements: Sequence[str]) -> PlannedViolation:
    assert candidate.requirement is not None  # every violation is planned for one
    refused = ""
    if candidate.verdict is not None:
        refused = f"Draft:\n{candidate.text}\n\nRefused because: {candidate.verdict.reason}"
    return PlannedViolation(
        target=statements[candidate.requirement.id - 1],
        disruption=cast(Disruption, candidate.disruption),
        direction=candidate.direction,
        refused=refused,
    )


def _drafted(
    planned: Candidate, draft: tuple[str, str, str] | None, known: set[str], faults: Counter[str]
) -> Candidate:
    """The candidate with its next draft (text, explanation, author), None when there is none. The verdicts on drafts
    before it still tell how many were relevant."""
    if planned.verdict is not None:
        planned = replace(
            planned, fate="not_written", text="", explanation="", verdict=None, generator="", repaired=True
        )
    if draft is None:
        return planned
    text, explanation, generator = draft
    return draft_candidate(
        planned, text, explanation=explanation, generator=generator, step="violate", known=known, faults=faults
    )
