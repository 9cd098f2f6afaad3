"""What a run does with its input: which rows it takes, what it never touches, what it never pays for twice."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from data.base.errors import InputError
from data.records import Negative, Requirement
from data.row_files import read_rows, write_rows
from programs.synthesis.summary import synthesis_table
from tests.fakes.fake_model import FakeModel
from tests.fakes.made_rows import made_row
from tests.programs.conftest import Refusal, Rows, Run


def test_a_few_rows_first_are_not_paid_again(made_rows: Rows, run: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    rows = made_rows(12)
    with FakeModel() as server:
        run(server, rows, max_rows=6)
        first = len(server.log)
        assert "finished already" not in caplog.text
        assert run(server, rows)["funnel"]["rows"] == 12
        assert "6 of 12 were finished already and cost nothing" in caplog.text
        assert len(server.log) == 2 * first
        assert max(Counter(served.request for served in server.log).values()) == 1


def test_rows_that_are_added_do_not_change_the_others(tmp_path: Path, made_rows: Rows, run: Run) -> None:
    rows = made_rows(4)
    with FakeModel() as server:
        key = run(server, rows)["program"]["key"]
        write_rows(rows, (made_row(number) for number in range(8)))
        assert run(server, rows)["program"]["key"] == key
        assert max(Counter(served.request for served in server.log).values()) == 1
        with pytest.raises(InputError, match=r"8 of these rows .*\(extra: None, now .*top_p.*tokens .*--again"):
            run(server, rows, extra={"top_p": 0.9})
        asked = len(server.log)
        anew = run(server, rows, extra={"top_p": 0.9}, again=True)
        assert anew["program"]["key"] != key
        assert len(server.log) == 2 * asked
        assert anew["usage_of_all_settings"]["tokens"] == 2 * anew["usage"]["tokens"]
        assert f"included: {2 * anew['usage']['tokens']} tokens" in synthesis_table(anew)
        # Once asked for, it is not asked about again; and what is finished with either setting stays.
        run(server, rows, extra={"top_p": 0.9})
        assert run(server, rows)["program"]["key"] == key
        assert len(server.log) == 2 * asked
        # Rows of another corpus get a style of their own.
        write_rows(rows, (made_row(number) for number in range(20, 24)))
        assert run(server, rows)["program"]["key"] != key


@pytest.mark.parametrize("place", ["rows.jsonl", "../out/rows.jsonl", "link.jsonl"])
def test_the_input_is_never_written_over(place: str, tmp_path: Path, refusal: Refusal) -> None:
    out = tmp_path / "out"
    out.mkdir()
    write_rows(out / "rows.jsonl", [made_row(0)])
    (out / "link.jsonl").symlink_to(out / "rows.jsonl")
    before = sorted(out.iterdir()), (out / "rows.jsonl").read_bytes()
    assert "choose another --out" in refusal("synthesize", f"rows={out / place}", f"out={out}")
    assert (sorted(out.iterdir()), (out / "rows.jsonl").read_bytes()) == before


def test_rows_that_were_synthesized_before_are_refused(tmp_path: Path, made_rows: Rows, run: Run) -> None:
    with FakeModel() as server:
        first = run(server, made_rows(2))
        asked = len(server.log)
        with pytest.raises(InputError, match="'q0' already has generated negatives"):
            run(server, Path(first["rows_file"]), out=tmp_path / "again")
        assert len(server.log) == asked
    assert not (tmp_path / "again").exists()


def test_requirements_that_a_row_came_with_are_not_lost(tmp_path: Path, run: Run) -> None:
    requirement = Requirement(id=1, kind="entity", statement="is about the thing")
    write_rows(tmp_path / "rows.jsonl", [replace(made_row(0), requirements=(requirement,))])
    with FakeModel() as server:
        summary = run(server, tmp_path / "rows.jsonl", method="naive")
    (row,) = read_rows(Path(summary["rows_file"]))
    assert row.requirements == (requirement,)
    assert Negative(text="A mined passage near thing 0.", source="mined", id="m0") in row.negatives


@pytest.mark.parametrize(
    ("flags", "field"),
    [
        (["lm_fallbacks=openai/other,nobody/model"], "lm-fallbacks"),
        (["verifier_fallbacks=nobody/model"], "verifier-fallbacks"),
        (["verifier_lm=openai/fake", "verifier_fallbacks=openai/other,nobody/model"], "verifier-fallbacks"),
        (["budget_usd=1"], "lm"),
        (["lm=openai/gpt-4.1-mini", "verifier_lm=openai/fake", "budget_usd=1"], "verifier-lm"),
        (["lm=openai/gpt-4.1-mini", "lm_fallbacks=openai/fake", "budget_usd=1"], "lm-fallbacks"),
    ],
)
def test_the_flag_that_is_wrong_is_named(
    flags: list[str], field: str, made_rows: Rows, tmp_path: Path, refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "unused")
    lm = [] if flags[0].startswith("lm=") else ["lm=openai/fake"]
    assert f"field '{field}'" in refusal("synthesize", f"rows={made_rows(1)}", f"out={tmp_path / 'out'}", *lm, *flags)
    assert not (tmp_path / "out").exists()


def test_rows_that_are_there_twice_count_once(tmp_path: Path, run: Run) -> None:
    write_rows(tmp_path / "rows.jsonl", [made_row(0)] * 5)
    with FakeModel() as server:
        summary = run(server, tmp_path / "rows.jsonl")
    assert (summary["verifier"]["canaries"], summary["funnel"]["rows"], summary["funnel"]["accepted"]) == (1, 1, 4)
    assert len(list(read_rows(Path(summary["rows_file"])))) == 5


def test_a_copy_with_other_mined_negatives_is_never_paid_for(tmp_path: Path, run: Run) -> None:
    copy = replace(made_row(0), negatives=(Negative(text="Another mined passage.", source="mined"),))
    write_rows(tmp_path / "rows.jsonl", [made_row(0), copy])
    with FakeModel() as server:
        for concurrency in (1, 1, 16):
            run(server, tmp_path / "rows.jsonl", concurrency=concurrency)
            assert len(server.log) == 3


def test_rows_whose_own_positive_is_refused_are_shown_and_left_out(made_rows: Rows, run: Run) -> None:
    def relevant(passage: str) -> bool:
        return passage == "Thing 3 is the answer to question 3."

    with FakeModel(says_relevant=relevant) as server:
        summary = run(server, made_rows(8))
    assert [row.query_id for row in read_rows(Path(summary["rows_file"]))] == ["q3"]
    funnel, table = summary["funnel"], synthesis_table(summary)
    assert (funnel["rows_failed"], funnel["rows_left_out"]) == ({"positive_refused": 7}, 7)
    assert (funnel["accepted"], funnel["lost"]["positive_refused"]) == (4, 28)
    assert [missed["query_id"] for missed in summary["missed_positives"]["shown"]] == ["q0", "q1", "q2", "q4", "q5"]
    for words in (
        "- q0: what is thing 0", "passage: Thing 0 is the answer to question 0.", "reason: It says so.",
        "the label is wrong", "the profile is wrong", "the verifier is wrong", "left out of the rows",
    ):  # fmt: skip
        assert words in table
    assert "q6" not in table


@pytest.mark.parametrize("command", ["synthesize", "optimize"])
def test_a_forgotten_model_is_named_before_anything_is_written(
    command: str, made_rows: Rows, tmp_path: Path, refusal: Refusal
) -> None:
    line = refusal(command, f"rows={made_rows(2)}", f"out={tmp_path / 'out'}")
    assert "field 'lm'" in line and "name a language model" in line
    assert not (tmp_path / "out").exists()
