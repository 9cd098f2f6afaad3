"""The band of hardness: how drafts are scored, what becomes of those outside it, and what the run says of it."""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.base.errors import InputError
from data.records import Verdict
from data.row_files import read_rows
from programs.feedback.hardness import HardnessSpread, RetrieverScorer, hardness_lines
from programs.feedback.retriever import Vector
from programs.feedback.score import Bands
from programs.lm.batches import calls
from programs.modules.candidates import Synthesis, synthesis_from_dict, synthesis_to_dict
from programs.modules.row_program import RowInputs
from programs.modules.synthesizer import Synthesizer
from programs.synthesis import run as run_module
from programs.synthesis.config import SynthesizeConfig
from programs.synthesis.run import synthesize
from programs.synthesis.summary import synthesis_table
from tests.fakes.fake_batches import FakeBatches
from tests.fakes.fake_model import FakeModel, Kind

EASY, MIDDLE, HARD = 0.1, 0.5, 0.99
ROW = RowInputs(query="what is x", passage="X is the answer.", relevance="r", negatives=("Y is near.",), canary=True)


class Told:
    """A retriever that gives texts the similarities that it was told; those of unknown texts are 0.8."""

    name = "told"

    def __init__(self, similarity: Callable[[str], float]):
        self._similarity = similarity
        self.calls: list[tuple[int, str]] = []

    def embed(self, texts: Sequence[str], role: str) -> list[Vector]:
        self.calls.append((len(texts), threading.current_thread().name))
        if role == "query":
            return [np.array([1.0, 0.0], dtype=np.float32) for _ in texts]
        cosines = [self._similarity(text) for text in texts]
        return [np.array([c, (1 - c * c) ** 0.5], dtype=np.float32) for c in cosines]


def by_draft(first: float, second: float) -> Callable[[str], float]:
    """The similarity of first drafts, of second ones, and 0.8 of everything else."""
    return lambda text: second if "second draft" in text else first if "This draft" in text else 0.8


def scorer(similarity: Callable[[str], float], **settings: Any) -> RetrieverScorer:
    return RetrieverScorer(Told(similarity), "f", **{"low": 0.01, "high": 1.0, "bands": Bands()} | settings)


def test_weights_and_places() -> None:
    drafts = ["easy", "middle", "hard", "as hard as the positive"]
    known = dict(zip(drafts, (EASY, 0.75, HARD, 0.8), strict=True))
    judge = scorer(lambda text: known.get(text, 0.8), high=0.4)
    found = asyncio.run(judge.score("q", ["p"], [], drafts))
    assert [one.place for one in found] == ["below", "within", "above", "above"]
    assert found[3].weight == pytest.approx(0.5) and found[3].positive == pytest.approx(0.8)
    assert "It ranks far below the known answer, so it teaches nothing" in found[0].words
    assert "clearly above the known answer" in found[2].words
    # Beside two mined negatives that are as near, a third of the weight is left.
    (beside,) = asyncio.run(judge.score("q", ["p"], ["m", "n"], ["another"]))
    assert (beside.place, beside.weight) == ("within", pytest.approx(0.25))


def test_rows_that_wait_together_are_embedded_together_beside_the_loop() -> None:
    judge = scorer(lambda text: 0.5)

    async def together() -> list[Any]:
        return await asyncio.gather(*(judge.score(f"q{n}", ["p"], ["m"], [f"d{n}"]) for n in range(40)))

    assert len(asyncio.run(together())) == 40
    calls_made = judge._retriever.calls  # type: ignore[attr-defined]
    assert [count for count, _ in calls_made] == [40, 120] and calls_made[0][1].startswith("retriever")

    def broken(text: str) -> float:
        raise InputError("no such text")

    with pytest.raises(InputError, match="no such text"):
        asyncio.run(scorer(broken).score("q", ["p"], [], ["d"]))


class Remembering(FakeModel):
    """Keeps what writers were told and how often each passage was judged; `doubts` says what a second look refuses."""

    def __init__(self, doubts: bool = False, **settings: Any):
        super().__init__(**settings)
        self._doubts = doubts
        self.told: list[str] = []
        self.judged: list[list[str]] = []

    def _outputs(self, kind: Kind, inputs: dict[str, str]) -> dict[str, Any]:
        found = super()._outputs(kind, inputs)
        if "violations" in inputs:
            self.told += [one["refused"] for one in json.loads(inputs["violations"])]
        if "passages" in inputs:
            seen = {text for passages in self.judged for text in passages}
            shown = [text.partition(". ")[2] for text in json.loads(inputs["passages"])]
            for verdict, text in zip(found["verdicts"], shown, strict=True):
                verdict["answers_query"] |= self._doubts and text in seen
            self.judged.append([text for text in shown if text != ROW.passage])
        return found


def synthesis_of(server: FakeModel, judge: RetrieverScorer, *, recorded: bool = False, **settings: Any) -> Synthesis:
    program = Synthesizer(**{"negatives_per_row": 2} | settings).use(**server.roles(judges_only_known=recorded))
    program.scorer = judge
    found: Synthesis = program(inputs=ROW).synthesis
    assert synthesis_from_dict(json.loads(json.dumps(synthesis_to_dict(found)))) == found
    return found


def test_a_draft_below_the_band_is_repaired_with_words_and_the_harder_one_stays() -> None:
    with Remembering() as server:
        found = synthesis_of(server, scorer(by_draft(EASY, MIDDLE), low=0.001))
        told = [words for words in server.told if words]
        # No harder than the first: the first stays, with the verdicts on both.
        no_better = synthesis_of(server, scorer(by_draft(EASY, EASY / 2)))
        unrepaired = synthesis_of(server, scorer(by_draft(EASY, MIDDLE)), repairs=0)
        asked = len(server.log)
        recorded = synthesis_of(server, scorer(by_draft(EASY, MIDDLE)), recorded=True)
    assert [(c.fate, c.repaired, c.verdicts) for c in found.accepted] == [("accepted", True, 2)] * 2
    assert [(c.hardness and c.hardness.place, c.first_place) for c in found.candidates] == [("within", "below")] * 2
    # It is told what to change, and stays in the way that was planned for it.
    assert [c.disruption for c in found.candidates] == ["entity_shift"] * 2
    assert len(told) == 2 and all("It was accepted, but it is too easy." in words for words in told)
    assert all("teaches nothing: keep more of the answer's subject" in words for words in told)
    assert [(c.repaired, c.verdicts, "second" in c.text) for c in no_better.candidates] == [(False, 2, False)] * 2
    assert [(c.repaired, c.fate) for c in unrepaired.candidates] == [(False, "accepted")] * 2
    # Recorded answers hold no second drafts: none is asked for.
    assert [c.first_place for c in recorded.candidates] == ["below"] * 2 and recorded.faults == {}
    assert len(server.log) == asked + 3


def test_a_repair_that_is_refused_leaves_the_accepted_draft() -> None:
    with Remembering(says_relevant=lambda text: "second draft" in text or "breaks" not in text) as server:
        found = synthesis_of(server, scorer(by_draft(EASY, MIDDLE)))
    assert [(c.fate, "second" in c.text) for c in found.candidates] == [("accepted", False)] * 2
    assert [(c.verdicts, c.verdicts_relevant) for c in found.candidates] == [(2, 1)] * 2


@pytest.mark.parametrize("verify", ["line-up", "one-by-one"])
def test_a_draft_above_the_positive_is_judged_twice(verify: Any) -> None:
    with Remembering() as server:
        found = synthesis_of(server, scorer(by_draft(HARD, HARD)), verify=verify)
        requests = [served.request for served in server.log if served.kind == "verify"]
        refused = synthesis_of(server, scorer(by_draft(HARD, HARD)), verify=verify)
    assert [(c.fate, c.judged_twice, c.doubted, c.verdicts) for c in found.candidates] == [("accepted", 1, 0, 2)] * 2
    assert len(requests) == (2 if verify == "line-up" else 5)
    assert refused.faults == {}


def test_both_verdicts_must_accept() -> None:
    with Remembering(doubts=True) as server:
        found = synthesis_of(server, scorer(by_draft(HARD, HARD)), repairs=0)
    assert [(c.fate, c.judged_twice, c.doubted) for c in found.candidates] == [("answers_query", 1, 1)] * 2
    spread = HardnessSpread()
    spread.add(found)
    shown = spread.as_dict(scorer(by_draft(HARD, HARD)))
    assert (shown["scored"], shown["judged_twice"], shown["doubted"]) == (0, 2, 2)
    assert hardness_lines(shown, "m")[-1] == "- judged twice: 2, of which the second verdict refused 2"


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "open_scorer", lambda *_: scorer(by_draft(EASY, MIDDLE), low=0.001))
    monkeypatch.setattr(calls, "WaveSender", partial(calls.WaveSender, first_look_s=0.02, nothing_moves_s=0.1))


def test_a_run_reports_it_by_calls_and_by_batches_alike(
    made_rows: Callable[[int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: None
) -> None:
    found, rows = {}, made_rows(4)
    with FakeBatches() as server:
        monkeypatch.setenv("OPENAI_API_KEY", server.token)
        base: dict[str, Any] = {"rows": rows, "lm": "openai/fake", "api_base": server.api_base, "adapter": "chat"}
        for send in ("calls", "batch"):
            config = SynthesizeConfig(**base, out=tmp_path / send, retriever="told", send=send)
            found[send] = synthesize(config)
        plain = synthesize(SynthesizeConfig(**base, out=tmp_path / "plain"))
    assert list(read_rows(tmp_path / "calls" / "rows.jsonl")) == list(read_rows(tmp_path / "batch" / "rows.jsonl"))
    hardness = found["calls"]["hardness"]
    assert hardness == found["batch"]["hardness"]
    assert (hardness["scored"], hardness["below"], hardness["within"], hardness["below_at_first"]) == (16, 0, 16, 16)
    assert sum(one["count"] for one in hardness["histogram"]) == 16
    table = synthesis_table(found["calls"])
    assert "of 16 accepted 0 are below 0.001, 16 within the band" in table
    assert "- below the band before repairs: 16" in table
    # The scores decide what is written, so they are part of the run's key.
    assert plain["hardness"] is None and plain["program"]["key"] != found["calls"]["program"]["key"]


def test_the_demo_is_scored_and_not_repaired(demo_rows: Path, tiny_bert: Path, tmp_path: Path) -> None:
    config = SynthesizeConfig(rows=demo_rows, out=tmp_path, retriever=str(tiny_bert), hardness="0.9..1", max_rows=3)
    table = synthesis_table(synthesize(config))
    assert "recorded:demo has no second drafts: those below the band stay as they are" in table


@pytest.mark.parametrize("band", ["0.5", "0.9..0.1", "-0.1..1", "0..2", "a..b", "0..0", "nan..1"])
def test_a_band_that_is_none_is_refused(band: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--hardness: expected LOW\.\.HIGH"):
        SynthesizeConfig(rows=tmp_path / "rows.jsonl", retriever="m", hardness=band)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"hardness": "0.1..1"}, "--hardness: expected none without --retriever"),
        ({"retriever": "m", "engine": "ray"}, "--retriever: expected none with --engine ray"),
        ({"retriever": "m", "method": "naive"}, "--retriever: expected none but with --method counterfactual"),
    ],
)
def test_what_cannot_be_scored_is_refused(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        SynthesizeConfig(rows=tmp_path / "rows.jsonl", **settings)


def test_other_requirements_must_hold_where_that_is_asked_for() -> None:
    strict = Verdict(satisfied=(False, False), answers_query=False)
    with Remembering() as server:
        found = synthesis_of(server, scorer(by_draft(MIDDLE, MIDDLE), low=0.0), keep_at_least=1.0)
    assert [c.fate for c in found.candidates] == ["accepted"] * 2
    assert found.candidates[0].judged(strict, 1.0).fate == "others_broken"


def test_a_synthesis_that_scores_nothing_does_not_load_torch() -> None:
    found = "import sys, programs.synthesis.run; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", found], capture_output=True, check=True).stdout.strip() == b"False"
