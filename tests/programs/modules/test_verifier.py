"""The line-up: how it is built, what of an answer is malformed, and what becomes of a refused positive."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from programs.modules.row_program import RowInputs
from programs.modules.synthesizer import Synthesizer
from programs.modules.verifier import LINEUP_TOKENS, line_up
from tests.fakes.fake_model import FakeModel, Kind

ROW = RowInputs(query="what is x", passage="X is the answer.", relevance="r", mined=("Y is near.", "Z too."))


def test_a_line_up_is_shuffled_by_its_row_and_split_with_the_canary_in_each_part() -> None:
    passages = [f"passage {number}" for number in range(9)]
    (part,) = line_up(passages, "positive", "row 1")
    assert sorted(part, key=str) == [*range(9), None]
    assert line_up(passages, "positive", "row 1") == [part]
    assert line_up(passages, "positive", "row 2") != [part]
    # The canary stands anywhere.
    assert len({line_up(passages, "positive", str(seed))[0].index(None) for seed in range(200)}) == 10
    long = ["x" * LINEUP_TOKENS * 2] * 5
    parts = line_up(long, "positive", "row 1")
    assert [part.count(None) for part in parts] == [1] * len(parts)
    assert sorted(place for part in parts for place in part if place is not None) == list(range(5))
    assert len(parts) == 5
    assert line_up([], "positive", "row 1") == [[None]]


class Answering(FakeModel):
    """Answers line-ups with what `edit` makes of the verdicts."""

    def __init__(self, edit: Callable[[list[dict[str, Any]]], list[dict[str, Any]]] = list, **settings: Any):
        super().__init__(**settings)
        self._edit, self.shown = edit, [[""]]

    def _outputs(self, kind: Kind, inputs: dict[str, str]) -> dict[str, Any]:
        found = super()._outputs(kind, inputs)
        if "passages" in inputs:
            self.shown.append(json.loads(inputs["passages"]))
            found["verdicts"] = self._edit(found["verdicts"])
        return found


def synthesis_of(server: FakeModel, row: RowInputs = ROW, **settings: Any) -> Any:
    program = Synthesizer(**{"negatives_per_row": 3, "malformed_retries": 1} | settings).use(**server.roles())
    return program(inputs=row).synthesis


def mined_answers(passage: str) -> bool:
    return "breaks requirement" not in passage and "too" not in passage


def test_one_call_judges_generated_mined_and_known_positive() -> None:
    with Answering(says_relevant=mined_answers) as server:
        found = synthesis_of(server)
        shown = server.shown[-1]
        alone = synthesis_of(server, replace(ROW, canary=True), batched=False, verify="one-by-one")
    assert Counter(served.kind for served in server.log[:3]) == {"extract": 1, "violate": 1, "verify": 1}
    assert len(server.log) == 3 + (1 + 3 + 6)
    places = [*(c.place for c in found.candidates), *found.mined_places, found.canary_place]
    assert sorted(places) == list(range(1, 7)) == [int(text.split(".")[0]) for text in shown]
    texts = [*(c.text for c in found.candidates), *ROW.mined, ROW.passage]
    assert [shown[place - 1].partition(". ")[2] for place in places] == texts
    assert [verdict.answers_query for verdict in found.mined] == [True, False]
    assert [c.verdict for c in found.candidates] == [c.verdict for c in alone.candidates]
    assert (found.canary, found.mined) == (alone.canary, alone.mined)
    assert alone.mined_places == (0, 0)


@pytest.mark.parametrize(
    "edit",
    [
        lambda verdicts: verdicts[:-1],
        lambda verdicts: [*verdicts, verdicts[-1] | {"number": len(verdicts) + 1}],
        lambda verdicts: [*verdicts[:-1], verdicts[0]],
        lambda verdicts: verdicts[::-1],
        lambda verdicts: [verdict | {"number": verdict["number"] - 1} for verdict in verdicts],
        lambda verdicts: [*verdicts[:-1], verdicts[-1] | {"satisfied": [True]}],
        lambda verdicts: [*verdicts[:-1], verdicts[-1] | {"satisfied": [True, True, False]}],
    ],
    ids=["too few", "too many", "doubled", "out of order", "from zero", "too short", "too long"],
)
def test_an_odd_line_up_is_asked_for_again_and_then_lost(edit: Any) -> None:
    with Answering(edit) as server:
        found = synthesis_of(server)
    assert [candidate.fate for candidate in found.candidates] == ["not_verified"] * 3
    assert (found.canary, found.canary_asked, found.mined) == (None, True, (None, None))
    assert found.faults == {"verify_malformed": 2}


def test_nothing_is_built_on_a_positive_that_does_not_meet_its_query() -> None:
    with Answering() as server:
        found = synthesis_of(server, replace(ROW, passage="This is NOT RELEVANT."))
        assert (found.failure, found.failure_detail) == ("positive_refused", "It says NOT RELEVANT.")
        assert found.candidates == ()
        assert len(server.log) == 1
    with Answering(says_relevant=lambda passage: "breaks" in passage) as server:
        found = synthesis_of(server)
    # Refused by the line-up: no draft is written again, although all of them answer.
    assert (found.failure, found.failure_detail) == ("positive_refused", "It says so.")
    assert [c.fate for c in found.candidates] == ["answers_query"] * 3
    assert len(server.log) == 3


def test_recorded_verdicts_are_not_asked_for_on_mined_passages() -> None:
    with Answering() as server:
        program = Synthesizer().use(**server.roles(judges_only_known=True))
        found = program(inputs=ROW).synthesis
    assert found.mined == (None, None)
    assert not any(text in shown for shown in server.shown[-1] for text in ROW.mined)


def test_a_refused_draft_is_written_in_the_next_way_and_told_what_it_still_meets() -> None:
    with Answering(says_relevant=lambda passage: "This draft" in passage or "breaks" not in passage) as server:
        found = synthesis_of(server, negatives_per_row=2)
    assert [c.fate for c in found.candidates] == ["accepted"] * 2
    assert all(c.repaired for c in found.candidates)
    # Two ways were planned for each requirement, one of each was written: the other one is the repair's.
    assert [c.disruption for c in found.candidates] == ["attribute_shift"] * 2
    assert [c.direction for c in found.candidates] == ["another value 1", "another value 2"]
