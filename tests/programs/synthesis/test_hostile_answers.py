"""Answers that no parser takes: counted, asked for again, never kept as answers and never found again."""

import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from data.base.errors import InputError
from data.row_files import read_rows
from programs.lm.call import reading
from programs.lm.usage import Call
from programs.synthesis.store import RunStore
from tests.fakes.fake_model import FakeModel
from tests.programs.conftest import Rows, Run
from tests.programs.synthesis.test_run_faults import books_agree, text_of

CHAT = "[[ ## information_need ## ]]\nx\n\n[[ ## requirements ## ]]\n"


def hostile(text: str, layout: str) -> str:
    return (CHAT if layout == "chat" else "") + text


@pytest.mark.parametrize("layout", ["json", "chat", "xml"])
@pytest.mark.parametrize("text", ["{" * 300, "[" * 20_000, '{"a":' * 3000, "<a>" * 5000, "9" * 6000])
def test_whatever_a_parser_raises_is_a_malformed_answer(text: str, layout: str, made_rows: Rows, run: Run) -> None:
    def alter(number: int, completion: dict[str, Any]) -> None:
        if number == 0:
            text_of(completion, hostile(text, layout))

    rows = made_rows(1)
    with FakeModel(alter=alter) as server:
        summary = run(server, rows, adapter=layout, canary_share=0.0)
        assert summary["funnel"]["accepted"] == 4
        assert summary["funnel"]["faults"] == {"extract_malformed": 1}
        assert summary["usage"]["roles"]["generator"]["faults"] == {"malformed": 1}
        books_agree(summary, server)


@pytest.mark.parametrize("error", [ValueError("x"), MemoryError(), RecursionError(), StopIteration(), KeyError("k")])
def test_any_error_of_a_parser_is_one(
    error: Exception, made_rows: Rows, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised = []

    def parse(*_: Any) -> Any:
        if not raised:
            raised.append(error)
            raise error
        return original(*_)

    original = reading.CheckedAnswers._parse_anything
    monkeypatch.setattr(reading.CheckedAnswers, "_parse_anything", parse)
    with FakeModel() as server:
        summary = run(server, made_rows(1), canary_share=0.0)
        assert summary["funnel"]["accepted"] == 4
        # Extract (twice), write all, one line-up.
        assert len(server.log) == 4


def test_an_answer_in_an_old_store_that_cannot_be_read_is_not_replayed(made_rows: Rows, run: Run) -> None:
    rows = made_rows(1)
    with FakeModel(fault=lambda number: "401" if number == 1 else None) as server:
        with pytest.raises(InputError, match="key was refused"):
            run(server, rows, adapter="json", canary_share=0.0, concurrency=1)
        with closing(sqlite3.connect(rows.parent / "out" / "store.sqlite")) as db, db:
            assert db.execute("UPDATE answers SET answer = ?", (json.dumps(["{" * 300]),)).rowcount > 0
        asked = len(server.log)
        summary = run(server, rows, adapter="json", canary_share=0.0)
        assert summary["funnel"]["accepted"] == 4
        # Extract, write all, one line-up: all anew.
        assert len(server.log) - asked == 3
        assert summary["usage"]["roles"]["generator"]["replayed"] == 0
        books_agree(summary, server)


def test_reading_is_bounded_in_time_and_does_not_hold_up_other_calls(
    made_rows: Rows, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_LONGEST_READING_S", 0.5)

    def alter(number: int, completion: dict[str, Any]) -> None:
        if number == 0:
            text_of(completion, "{`" * 32_000)

    with FakeModel(alter=alter) as server:
        began = time.monotonic()
        summary = run(server, made_rows(1), adapter="json", canary_share=0.0)
        # Read to its end it takes twenty seconds.
        assert time.monotonic() - began < 10
    assert summary["funnel"]["accepted"] == 4
    assert summary["funnel"]["faults"] == {"extract_malformed": 1}


def test_a_call_that_was_sent_when_the_process_ended_is_charged_at_the_next_start(tmp_path: Path) -> None:
    opened = Call(role="r", model="m", outcome="open", cost_usd=None, reserved_tokens=500, reserved_usd=0.25)
    with RunStore(tmp_path / "store.sqlite", program="p") as store:
        number, settled = store.open(opened), store.open(opened)
        assert number != settled
        store.record(Call(role="r", model="m", outcome="ok", prompt_tokens=7), key="k", answer="[]", opened=settled)
    with RunStore(tmp_path / "store.sqlite", program="p") as store:
        (usage,) = store.usage().values()
    assert usage.outcomes == {"killed": 1, "ok": 1}
    assert (usage.prompt_tokens, usage.reserved_tokens, usage.reserved_usd) == (7, 500, 0.25)


@pytest.mark.parametrize("statement", ["\x00", "\u0085 \x1f", "\x00 \n"])
def test_a_statement_that_is_empty_once_it_is_cleaned_is_malformed(statement: str, made_rows: Rows, run: Run) -> None:
    def alter(number: int, completion: dict[str, Any]) -> None:
        if number == 0:
            found = json.loads(completion["choices"][0]["message"]["content"])
            found["requirements"][0]["statement"] = statement
            text_of(completion, json.dumps(found))

    with FakeModel(alter=alter) as server:
        summary = run(server, made_rows(1), adapter="json", canary_share=0.0)
    assert summary["funnel"]["faults"] == {"extract_malformed": 1}
    (row,) = read_rows(Path(summary["rows_file"]))
    assert len(row.of_source("generated")) == 4
