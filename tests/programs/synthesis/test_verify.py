"""`just verify`, and the mined negatives that a synthesis judges: one road, resumable, through the same store."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from data.records import Negative, Requirement, Verdict
from data.row_files import read_rows, write_rows
from programs.__main__ import main
from programs.synthesis.run import synthesize
from programs.synthesis.summary import synthesis_table
from tests.fakes.fake_model import FakeModel
from tests.fakes.made_rows import made_row
from tests.programs.conftest import Configured, Run

REQUIREMENT = Requirement(id=1, kind="entity", statement="is about the thing")


def mined(text: str, score: float | None = None) -> Negative:
    return Negative(text=text, source="mined", score=score)


def write_judgeable(path: Path) -> Path:
    """Row 0 has an answer among its mined negatives, row 1 requirements and generated negatives."""
    first = replace(made_row(0), negatives=(mined("other", 0.1), mined("answers 0", 0.9), mined("another", 0.5)))
    known = Verdict(satisfied=(False,), answers_query=False, reason="known")
    second = replace(
        made_row(1),
        requirements=(REQUIREMENT,),
        negatives=(
            mined("something"),
            Negative(text="answers 1", source="generated"),
            Negative(text="judged before", source="generated", verdict=known),
            Negative(text="not judged", source="generated"),
        ),
    )
    write_rows(path, [first, second])
    return path


def relevant(passage: str) -> bool:
    return "is the answer" in passage or passage.startswith("answers")


@pytest.fixture
def flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeModel], list[str]]:
    def made(server: FakeModel) -> list[str]:
        monkeypatch.setenv("OPENAI_API_KEY", server.token)
        rows = write_judgeable(tmp_path / "rows.jsonl")
        return [f"rows={rows}", f"out={tmp_path / 'out'}", "lm=openai/fake", f"api_base={server.api_base}",
                "adapter=chat"]  # fmt: skip

    return made


def test_rows_from_anywhere_are_judged_and_nothing_is_written(
    tmp_path: Path, flags: Callable[[FakeModel], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeModel(says_relevant=relevant) as server:
        assert main(["verify", *flags(server)]) == 0
        # Row 0 needs its requirements first; both take one line-up.
        assert [served.kind for served in server.log].count("extract") == 1
        assert len(server.log) == 3
        assert main(["verify", *flags(server)]) == 0
        assert len(server.log) == 3
    first, second = read_rows(tmp_path / "out" / "rows.jsonl")
    assert [(p.text, p.source) for p in first.positives[1:]] == [("answers 0", "mined")]
    assert [(n.text, n.verdict is not None) for n in first.negatives] == [("other", True), ("another", True)]
    assert len(first.requirements) == 2
    assert second.requirements == (REQUIREMENT,)
    assert [n.text for n in second.negatives] == ["something", "judged before", "not judged"]
    assert all(n.verdict is not None and len(n.verdict.satisfied) == 1 for n in second.negatives)
    assert second.negatives[1].verdict is not None and second.negatives[1].verdict.reason == "known"
    table = capsys.readouterr().out
    assert "false ones among the mined negatives: 1 of 4 (25.0%" in table and "promoted 1" in table
    assert "- rank 1: 1 of 2" in table
    assert "generated negatives that answer their query, left out: 1" in table
    assert "misses 0 of 2 known positives" in table
    assert "planned" not in table


def test_lines_with_one_positive_and_other_negatives_are_judged_each(tmp_path: Path, run: Run) -> None:
    rows = [replace(made_row(0), negatives=(mined(text),)) for text in ("answers", "other")]
    write_rows(tmp_path / "rows.jsonl", rows)
    with FakeModel(says_relevant=relevant) as server:
        summary = run(server, tmp_path / "rows.jsonl", method="verify", mined_relevant="drop")
    first, second = read_rows(Path(summary["rows_file"]))
    assert (first.negatives, first.positives) == ((), rows[0].positives)
    assert [(n.text, n.relevance) for n in second.negatives] == [("other", 1.0)]
    assert (summary["mined"]["judged"], summary["mined"]["dropped"]) == (2, 1)


def test_a_synthesis_judges_the_nearest_mined_negatives_in_the_same_call(
    tmp_path: Path, configured: Configured
) -> None:
    rows = tmp_path / "rows.jsonl"
    write_rows(rows, [replace(made_row(0), negatives=(mined("far", 0.1), mined("answers", 0.9), mined("mid", 0.5)))])
    with FakeModel(says_relevant=relevant) as server:
        # A profile with passages of its own, so that other mined ones change no prompt.
        (tmp_path / "own.toml").write_text('relevance = "It answers."\nstyle = ["A passage."]\n')
        config = configured(server, rows, profile=str(tmp_path / "own.toml"), verify_mined=2)
        summary = synthesize(config)
        assert [served.kind for served in server.log] == ["extract", "violate", "verify"]
        (row,) = read_rows(Path(summary["rows_file"]))
        assert [p.text for p in row.positives][1:] == ["answers"]
        assert [(n.text, n.verdict is not None) for n in row.of_source("mined")] == [("far", False), ("mid", True)]
        assert len(row.of_source("generated")) == 4
        assert "promoted 1" in synthesis_table(summary)
        # Another policy is applied to the verdicts that are there.
        kept = synthesize(replace(config, mined_relevant="keep"))
        (row,) = read_rows(Path(kept["rows_file"]))
        assert [n.relevance for n in row.of_source("mined")] == [None, 1.0, 1.0]
        assert len(server.log) == 3
        # Verdicts on other passages are none on these: the row is worked on again.
        write_rows(rows, [replace(made_row(0), negatives=(mined("new", 0.9), mined("mid", 0.5)))])
        synthesize(config)
        assert len(server.log) == 6
