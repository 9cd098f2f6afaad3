"""The row's logic: numbering, planning, judging."""

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.records import Requirement, Verdict
from programs.modules.candidates import Candidate
from programs.modules.row_program import RowInputs, number_requirements
from programs.modules.signatures import RequirementDraft, Way
from programs.modules.synthesizer import Synthesizer, plan_violations
from programs.modules.verifier import fate_of
from tests.fakes.fake_model import FakeModel


def draft(number: int, ways: int, *, critical: bool = True, evidence: str = "span") -> RequirementDraft:
    return RequirementDraft(
        kind="entity",
        statement=f"s{number}",
        evidence=evidence,
        critical=critical,
        ways=[Way(disruption="entity_shift", direction=f"d{number}.{way}") for way in range(ways)],
    )


def test_ids_are_positions_and_foreign_spans_are_counted() -> None:
    faults: Counter[str] = Counter()
    drafts = [draft(1, 1), draft(2, 1, evidence="not there"), draft(3, 1, evidence="A  SPAN"), draft(4, 1, evidence="")]
    found = number_requirements(drafts, "with a span in it", faults)
    assert [requirement.id for requirement in found] == [1, 2, 3, 4]
    assert faults == {"evidence_not_in_passage": 2}


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=8), st.integers(1, 12))
def test_every_requirement_is_broken_once_before_any_twice(shape: list[tuple[int, bool]], most: int) -> None:
    drafts = [draft(number, ways, critical=critical) for number, (ways, critical) in enumerate(shape)]
    plan = plan_violations(drafts)
    assert len(plan) == sum(ways for ways, _ in shape)
    plan = plan[:most]
    assert len(plan) == min(most, sum(ways for ways, _ in shape)) == len(set(plan))
    times = Counter(position for position, _ in plan)
    for position, (ways, critical) in enumerate(shape):
        for other, (other_ways, other_critical) in enumerate(shape):
            if times[other] > times[position] + 1:
                assert times[position] == ways
            if critical and not other_critical and times[other] > times[position]:
                assert times[position] == ways
            assert times[other] <= other_ways


@pytest.mark.parametrize(
    ("satisfied", "answers", "fate"),
    [((True, False), False, "accepted"), ((False, False), False, "accepted"), ((True, True), False, "target_kept"),
     ((True, False), True, "answers_query"), ((True, True), True, "answers_query")],
)  # fmt: skip
def test_the_acceptance_rule(satisfied: tuple[bool, ...], answers: bool, fate: str) -> None:
    target = Requirement(id=2, kind="attribute", statement="s")
    candidate = Candidate(requirement=target, disruption="entity_shift", direction="d", fate="not_verified", text="t")
    verdict = Verdict(satisfied=satisfied, answers_query=answers, reason="r")
    found = candidate.judged(verdict)
    assert (found.fate, found.verdicts, found.verdicts_relevant) == (fate, 1, int(answers))
    assert candidate.judged(None) == candidate


def test_a_share_of_the_other_requirements_must_hold() -> None:
    verdict = Verdict(satisfied=(True, False, False), answers_query=False)
    assert [fate_of(verdict, 2, share) for share in (0, 0.5, 0.51, 1)] == ["accepted"] * 2 + ["others_broken"] * 2
    assert fate_of(verdict, 1, 0) == "target_kept"
    # A row's only requirement has no others; what was to break none in particular has none to keep.
    assert fate_of(Verdict(satisfied=(False,), answers_query=False), 1, 1) == "accepted"
    assert fate_of(verdict, None, 1) == "accepted"


def test_signatures_put_the_profile_first_and_what_varies_last() -> None:
    single = Synthesizer(batched=False, verify="one-by-one")
    fields = {name: list(signature.input_fields) for name, signature in single.signatures.items()}
    assert fields["extract"] == ["relevance", "num_ways", "query", "passage"]
    assert fields["violate"][:2] == ["relevance", "style"]
    assert fields["violate"][-4:] == ["target", "disruption", "direction", "refused"]
    assert {"information_need", "answer_boundary", "requirements"} <= set(fields["violate"])
    # Blind: neither the target nor the origin of the passage is shown.
    assert fields["verify"] == ["relevance", "query", "requirements", "passage"]
    assert list(Synthesizer().signatures["verify"].input_fields) == ["relevance", "query", "requirements", "passages"]


def test_blocking_and_awaited_calls_tell_the_same() -> None:
    row = RowInputs(query="what is x", passage="X is the answer.", relevance="r", canary=True)
    with FakeModel() as server:
        program = Synthesizer(negatives_per_row=3).use(**server.roles())
        blocking = program(inputs=row).synthesis
        awaited = asyncio.run(program.acall(inputs=row)).synthesis
    assert blocking == awaited
    assert len(blocking.accepted) == 3
    assert blocking.canary is not None
    assert [name for name, _ in program.named_predictors()] == ["extract", "violate", "verify"]


def test_copies_are_not_negatives() -> None:
    row = RowInputs(query="q", passage="p", relevance="r")
    with FakeModel() as server:
        program = Synthesizer().use(**server.roles())
        first = program(inputs=row).synthesis
        texts = tuple(candidate.text.upper() for candidate in first.candidates[:2])
        again = program(inputs=RowInputs(query="q", passage="p", relevance="r", negatives=texts)).synthesis
    assert [candidate.fate for candidate in again.candidates] == ["copies_a_passage"] * 2 + ["accepted"] * 2


def test_a_refused_positive_has_no_requirements_although_the_answer_lists_some() -> None:
    with FakeModel() as server:
        program = Synthesizer().use(**server.roles())
        found = [
            program.requirements_of(RowInputs(query="q", passage=passage, relevance="r"))
            for passage in ("p", "It is NOT RELEVANT.")
        ]
    assert [len(requirements) for requirements in found] == [2, 0]
