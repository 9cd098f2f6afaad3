"""The run store: what is finished stays, what is not is found again, and nobody else gets in."""

import sqlite3
from collections import Counter
from pathlib import Path

import pytest

from data.base.errors import InputError
from data.records import Requirement, Verdict
from programs.lm.budget import Budget
from programs.lm.usage import Call
from programs.modules.candidates import Candidate, Synthesis
from programs.synthesis.store import RunStore, current_row

REQUIREMENT = Requirement(id=1, kind="entity", statement="is about x", evidence="x")
SYNTHESIS = Synthesis(
    requirements=(REQUIREMENT,),
    information_need="need",
    candidates=(
        Candidate(
            requirement=REQUIREMENT,
            disruption="entity_shift",
            direction="y",
            fate="accepted",
            text="text é 🙂",
            verdict=Verdict(satisfied=(False, True), answers_query=False, reason="r"),
        ),
        Candidate(requirement=REQUIREMENT, disruption="intent_drift", direction="z"),
    ),
    canary=Verdict(satisfied=(True,), answers_query=True, reason="r"),
    canary_asked=True,
    faults=Counter({"verify_malformed": 2}),
)


def call(outcome: str = "ok", cost: float | None = 0.5) -> Call:
    return Call(role="generator", model="m", outcome=outcome, prompt_tokens=10, completion_tokens=4, cost_usd=cost)


def test_finished_rows_are_found_by_row_and_program(tmp_path: Path) -> None:
    path = tmp_path / "run" / "store.sqlite"
    with RunStore(path, program="a") as store:
        store.finish("row", SYNTHESIS)
    with RunStore(path, program="a") as store:
        assert store.is_finished("row")
        assert store.load("row") == SYNTHESIS
        assert SYNTHESIS.candidates[0].others_kept == (1, 1)
        assert not store.is_finished("other")
        assert store.load("other") is None
    with RunStore(path, program="b") as store:
        assert not store.is_finished("row")


@pytest.mark.parametrize(
    ("failure", "finished"), [("extract_malformed", True), ("extract_timeout", False), ("extract_server_error", False)]
)
def test_a_row_that_nothing_answered_is_asked_again(tmp_path: Path, failure: str, finished: bool) -> None:
    with RunStore(tmp_path / "store.sqlite", program="a") as store:
        store.finish("row", Synthesis(failure=failure))
        assert store.is_finished("row") is finished


def test_answers_live_until_their_row_is_finished(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    current_row.set("row")
    with RunStore(path, program="a") as store:
        store.record(call(), key="k", answer='["text"]')
        store.record(call("timeout", None), key="k2", answer=None)
    with RunStore(path, program="a") as store:
        assert store.find("k") == '["text"]'
        assert store.find("k2") is None
        store.finish("row", SYNTHESIS)
        assert store.find("k") is None


def test_usage_is_summed_over_processes_and_an_unknown_price_is_not_zero(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    with RunStore(path, program="a") as store:
        store.record(call(), key="1", answer="[]")
        store.record(call("replayed", 0.0), key="1", answer=None)
    with RunStore(path, program="a") as store:
        store.record(call("server_error", 0.0), key="2", answer=None)
        usage = store.usage()["generator"].as_dict()
        assert (usage["requests"], usage["answered"], usage["replayed"]) == (2, 1, 1)
        assert usage["faults"] == {"server_error": 1}
        assert (usage["prompt_tokens"], usage["tokens_replayed"], usage["cost_usd"]) == (20, 14, 0.5)
        store.record(call("ok", None), key="3", answer="[]")
        usage = store.usage()["generator"].as_dict()
        assert (usage["cost_usd"], usage["cost_usd_known_part"], usage["calls_of_unknown_price"]) == (None, 0.5, 1)


def test_a_call_that_was_given_up_on_is_in_no_total_but_is_not_forgotten(tmp_path: Path) -> None:
    given_up = Call(
        role="generator", model="m", outcome="timeout", cost_usd=None, reserved_tokens=900, reserved_usd=0.25
    )
    with RunStore(tmp_path / "store.sqlite", program="a") as store:
        store.record(call(), key="1", answer="[]")
        store.record(given_up, key="2", answer=None)
    with RunStore(tmp_path / "store.sqlite", program="a") as store:
        found = store.usage()
    usage = found["generator"].as_dict()
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (10, 4)
    assert (usage["cost_usd"], usage["cost_usd_known_part"], usage["calls_of_unknown_price"]) == (None, 0.5, 0)
    assert (usage["calls_given_up_on"], usage["cost_usd_of_calls_given_up_on"]) == (1, 0.25)
    budget = Budget(usd=1.0)
    budget.add_spent(found.values())
    assert (budget.spent_tokens, budget.spent_usd) == (914, 0.75)


def test_only_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    with RunStore(path, program="a"), pytest.raises(InputError, match="another process"):
        RunStore(path, program="a")
    RunStore(path, program="a").close()


def test_other_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    text = tmp_path / "notes.sqlite"
    text.write_text("not a database, but long enough to look at" * 20)
    with pytest.raises(InputError, match="not a usable run store"):
        RunStore(text, program="a")
    foreign = tmp_path / "foreign.sqlite"
    with sqlite3.connect(foreign) as db:
        db.execute("CREATE TABLE mine (x)")
    before = foreign.read_bytes()
    with pytest.raises(InputError, match="not a run store"):
        RunStore(foreign, program="a")
    assert foreign.read_bytes() == before
    with sqlite3.connect(foreign) as db:
        assert db.execute("SELECT name FROM sqlite_master").fetchall() == [("mine",)]


def test_another_format_is_named(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    RunStore(path, program="a").close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE meta SET value = '99' WHERE name = 'format'")
    db.close()
    with pytest.raises(InputError, match="format 99"):
        RunStore(path, program="a")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot open the run store"):
        RunStore(tmp_path / "file" / "store.sqlite", program="a")
