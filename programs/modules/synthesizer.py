"""From one row to verified negatives: extract requirements, violate one at a time, verify each result blind."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

import dspy

from data.records import Disruption, Requirement, Verdict
from programs.lm.bridge import wait_for
from programs.lm.faults import CallError
from programs.modules.candidates import Candidate, Synthesis
from programs.modules.predictors import AskingModule, Predictor, Step, author
from programs.modules.row_program import Role, RowInputs, RowProgram, draft_candidate, is_recorded
from programs.modules.signatures import (
    DISRUPTIONS_IN_WORDS,
    MAX_REQUIREMENTS,
    ExtractRequirements,
    PlannedViolation,
    RequirementDraft,
    ViolateRequirement,
    ViolateRequirements,
    Way,
)
from programs.modules.verifier import (
    REPAIRABLE,
    VERIFY_SIGNATURES,
    Question,
    lineup_step,
    numbered,
    read_lineup,
    read_verdict,
    verify_step,
)
from programs.options import VerifyBy


class Verifier(AskingModule):
    """The verifier as a program of its own, to be compiled and probed with passages whose answer is known.

    Sub-predictor `verify` alone, on one passage or a line-up.
    """

    def __init__(self, *, verify: VerifyBy = "one-by-one", malformed_retries: int = 2):
        super().__init__(malformed_retries)
        self.verify_by = verify
        self.verify = dspy.Predict(VERIFY_SIGNATURES[verify])

    def use(self, lm: dspy.LM, adapter: dspy.Adapter) -> "Verifier":
        """Set the model and its adapter; returns self."""
        self.verify.lm, self.adapters = lm, {"verify": adapter}
        return self

    async def aforward(self, *, passages: Sequence[str], **question: Any) -> dspy.Prediction:
        """Judge passages in the order given; `question` has the signature's other inputs.

        The prediction holds `verdicts`, None where there was no usable one.
        """
        asked = Question(**question | {"requirements": tuple(question["requirements"])})
        if self.verify_by == "line-up":
            answer = await self.call(lineup_step(asked, passages), Counter())
            return dspy.Prediction(verdicts=read_lineup(answer, len(passages)))
        answers = await self.call_all([verify_step(asked, passage) for passage in passages], Counter())
        return dspy.Prediction(verdicts=[read_verdict(answer) for answer in answers])


class Synthesizer(RowProgram):
    """The program: sub-predictors `extract` and `violate` (role generator) and `verify` (role verifier).

    Args:
        negatives_per_row: at most this many violations are written for a row.
        repairs: how often a refused draft is written again, told what was wrong with it, in the next way planned for
            its requirement if there is one.
        malformed_retries: how often an answer that cannot be read is asked for again.
        batched: all violations of a row are written in one call instead of one call each.
        verify: all passages of a row are judged in one call (line-up) or each in one of its own (one-by-one).
        keep_at_least: the share of the requirements besides the broken one that an accepted draft must keep.

    With a `scorer` a draft that is accepted but too easy is written again like a refused one, told so; the harder of
    the accepted drafts stays. One that is suspiciously hard is judged a second time, and must be accepted twice.
    """

    verify_by: VerifyBy
    roles: ClassVar[Mapping[Predictor, Role]] = {"extract": "generator", "violate": "generator", "verify": "verifier"}

    def __init__(
        self,
        *,
        negatives_per_row: int = 4,
        repairs: int = 1,
        malformed_retries: int = 2,
        batched: bool = True,
        verify: VerifyBy = "line-up",
        keep_at_least: float = 0.0,
    ):
        signatures: dict[Predictor, type[dspy.Signature]] = {
            "extract": ExtractRequirements,
            "violate": ViolateRequirements if batched else ViolateRequirement,
            "verify": VERIFY_SIGNATURES[verify],
        }
        super().__init__(malformed_retries, signatures)
        self.batched, self.verify_by, self.keep_at_least = batched, verify, keep_at_least
        self.negatives_per_row, self.repairs = negatives_per_row, repairs

    def requirements_of(self, inputs: RowInputs) -> tuple[Requirement, ...]:
        """The requirements alone; none when the extraction fails or refuses the positive."""
        read, _ = wait_for(self.read_row(inputs, self.negatives_per_row, Counter()))
        return read.requirements

    async def run(self, row: RowInputs, faults: Counter[str]) -> Synthesis:
        """Extract, plan, then write and judge until every candidate is accepted or no repair is left."""
        read, drafts = await self.read_row(row, self.negatives_per_row, faults)
        if read.failure is not None:
            return read
        ways = plan_violations(drafts)
        if not ways:
            return replace(read, failure="no_violation_planned")
        candidates = [
            Candidate(requirement=read.requirements[place], disruption=way.disruption, direction=way.direction)
            for place, way in ways[: self.negatives_per_row]
        ]
        spare = [(read.requirements[place].id, way) for place, way in ways[self.negatives_per_row :]]

        known = row.known_keys()
        outcome = read
        pending = list(range(len(candidates)))
        for attempt in range(self.repairs + 1):
            planned = [candidates[number] for number in pending]
            if attempt:
                # One that was accepted stays in its way: only its wording is too far off.
                planned = [one if one.fate == "accepted" else _next_way(one, spare) for one in planned]
            fresh = await self._write(row, read, planned, known, faults)
            fresh, outcome = await self.judge_row(row, outcome, fresh, faults, first=attempt == 0)
            fresh, outcome = await self._score(row, outcome, fresh, faults)
            for number, candidate in zip(pending, fresh, strict=True):
                # A repair that came to nothing leaves the verdict on the first draft as the candidate's fate.
                if attempt == 0 or candidate.verdict is not None:
                    candidates[number] = _better(candidates[number], candidate)
                else:
                    faults["repair_failed"] += 1
            pending = [number for number, draft in zip(pending, fresh, strict=True) if self._needs_repair(draft)]
            if not pending or outcome.failure is not None:
                break
        return replace(outcome, candidates=tuple(candidates))

    async def _score(
        self, row: RowInputs, outcome: Synthesis, drafts: Sequence[Candidate], faults: Counter[str]
    ) -> tuple[list[Candidate], Synthesis]:
        """The drafts with the hardness of those that are accepted, and a second verdict on those that are above the
        band; as they are without a scorer."""
        fresh = list(drafts)
        places = [place for place, draft in enumerate(fresh) if draft.fate == "accepted"]
        if self.scorer is None or not places or outcome.failure is not None:
            return fresh, outcome
        # What turned out to answer is no negative to be compared with.
        judged = zip(row.mined, outcome.mined, strict=False)
        answering = {text for text, verdict in judged if verdict is not None and verdict.answers_query}
        mined = [text for text in row.negatives if text not in answering]
        texts = [fresh[place].text for place in places]
        found = await self.scorer.score(row.query, (row.passage, *row.other_positives), mined, texts)
        for place, hardness in zip(places, found, strict=True):
            first_place = fresh[place].first_place or hardness.place
            fresh[place] = replace(fresh[place], hardness=hardness, first_place=first_place)
        above = [place for place, hardness in zip(places, found, strict=True) if hardness.place == "above"]
        if above:
            doubtful = [replace(fresh[place], fate="not_verified") for place in above]
            again, outcome = await self.judge_row(row, outcome, doubtful, faults, first=False, look=1)
            for place, draft in zip(above, again, strict=True):
                doubted = draft.doubted + (draft.fate != "accepted")
                fresh[place] = replace(draft, judged_twice=draft.judged_twice + 1, doubted=doubted)
        return fresh, outcome

    def _needs_repair(self, draft: Candidate) -> bool:
        """Whether another draft may be better: it was refused, or is too easy and its writer can write another."""
        if draft.fate != "accepted":
            return draft.fate in REPAIRABLE
        return draft.hardness is not None and draft.hardness.place == "below" and not is_recorded(self.violate.lm)

    async def _write(
        self, row: RowInputs, read: Synthesis, planned: Sequence[Candidate], known: set[str], faults: Counter[str]
    ) -> list[Candidate]:
        """The planned candidates with new drafts; one that was refused before is told why and keeps its counts."""
        statements = list(numbered(read.requirements))
        shared = {
            "relevance": row.relevance,
            "style": list(row.style),
            "query": row.query,
            "passage": row.passage,
            "information_need": read.information_need,
            "answer_boundary": read.answer_boundary,
            "requirements": statements,
        }
        violations = [_violation(candidate, statements) for candidate in planned]
        if self.batched:
            asked = shared | {"disruptions": _in_words(violations), "violations": violations}
            steps = [Step("violate", asked, expected_length=("negatives", len(violations)))]
        else:
            steps = [Step("violate", shared | {"disruptions": _in_words([v])} | v.model_dump()) for v in violations]
        drafts: list[tuple[str, str] | None] = []
        for answer in await self.call_all(steps, faults):
            if isinstance(answer, CallError):
                drafts += [None] * (len(planned) if self.batched else 1)
                continue
            drafts += [(text, author(answer)) for text in (answer.negatives if self.batched else [answer.negative])]
        return [_drafted(candidate, draft, known, faults) for candidate, draft in zip(planned, drafts, strict=True)]


def plan_violations(drafts: Sequence[RequirementDraft]) -> list[tuple[int, Way]]:
    """The violations in the order in which they are written, as (position of the requirement, way): every requirement
    once before any twice, critical ones first. Those that are not written are kept for repairs."""
    order = sorted(range(min(len(drafts), MAX_REQUIREMENTS)), key=lambda position: not drafts[position].critical)
    deepest = max((len(draft.ways) for draft in drafts), default=0)
    plan: list[tuple[int, Way]] = []
    for depth in range(deepest):
        for position in order:
            ways = drafts[position].ways
            if depth < len(ways) and (position, ways[depth]) not in plan:
                plan.append((position, ways[depth]))
    return plan


def _next_way(candidate: Candidate, spare: list[tuple[int, Way]]) -> Candidate:
    """The refused candidate with the next way planned for its requirement, which is taken off `spare`; as it is when
    there is none left."""
    assert candidate.requirement is not None  # every violation is planned for one
    for place, (target, way) in enumerate(spare):
        if target == candidate.requirement.id:
            del spare[place]
            return replace(candidate, disruption=way.disruption, direction=way.direction)
    return candidate


def _better(before: Candidate, repair: Candidate) -> Candidate:
    """The repair, unless the draft before it was accepted and is harder, or the repair was not accepted; then that
    draft, with the counts of both."""
    if before.fate != "accepted" or before.hardness is None:
        return repair
    if repair.fate == "accepted" and repair.hardness is not None and repair.hardness.weight >= before.hardness.weight:
        return repair
    return replace(
        before,
        verdicts=repair.verdicts,
        verdicts_relevant=repair.verdicts_relevant,
        judged_twice=repair.judged_twice,
        doubted=repair.doubted,
    )


def _violation(candidate: Candidate, statements: Sequence[str]) -> PlannedViolation:
    assert candidate.requirement is not None  # every violation is planned for one
    return PlannedViolation(
        target=statements[candidate.requirement.id - 1],
        disruption=cast(Disruption, candidate.disruption),
        direction=candidate.direction,
        refused="" if candidate.verdict is None else _refusal(candidate, candidate.verdict, statements),
    )


def _refusal(candidate: Candidate, verdict: Verdict, statements: Sequence[str]) -> str:
    """What a repair is told: the draft, whether it answers, which requirement it still meets, and the reason."""
    assert candidate.requirement is not None  # every violation is planned for one
    target = candidate.requirement.id - 1
    kept = list(zip(statements, verdict.satisfied, strict=True))
    wrong = ["It answers the query, if only in part or by denying it."] if verdict.answers_query else []
    if verdict.satisfied[target]:
        wrong.append(f"It still meets the target: {statements[target]}")
    if broken := [statement for place, (statement, holds) in enumerate(kept) if place != target and not holds]:
        wrong.append(f"It breaks others, which must be kept: {'; '.join(broken)}")
    if candidate.fate == "accepted" and candidate.hardness is not None:
        wrong.append(f"It was accepted, but it is too easy. {candidate.hardness.words}")
    return "\n".join([f"Draft:\n{candidate.text}\n", *wrong, f"Reason: {verdict.reason}"])


def _in_words(violations: Sequence[PlannedViolation]) -> list[str]:
    """A line for each kind of violation that is used."""
    return [f"{name}: {DISRUPTIONS_IN_WORDS[name]}" for name in dict.fromkeys(v.disruption for v in violations)]


def _drafted(planned: Candidate, draft: tuple[str, str] | None, known: set[str], faults: Counter[str]) -> Candidate:
    """The candidate with its next draft (text, author), None when there is none. The verdicts on drafts
    before it still tell how many were relevant."""
    if planned.verdict is not None:
        planned = replace(
            planned, fate="not_written", text="", verdict=None, generator="", repaired=True, hardness=None
        )
    if draft is None:
        return planned
    text, generator = draft
    return draft_candidate(planned, text, generator=generator, step="violate", known=known, faults=faults)
