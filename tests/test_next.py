"""The last line of a run is the command to run next, as it can be pasted: each is run here, as it stands."""

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from data.base.cli import changed_options, next_command, run_command
from data.row_files import write_rows
from programs.options import OF_A_RUN, LMOptions, WritingOptions
from programs.synthesis.config import SynthesizeConfig
from tests.fakes.fake_model import FakeModel
from tests.fakes.made_rows import made_row
from tests.test_documents import our_command, room_commands

Follow = Callable[..., str]


@pytest.fixture
def follow(capsys: pytest.CaptureFixture[str]) -> Follow:
    """Runs a command as a person pastes it, with more words behind it; returns the command that it says is next."""

    def run(command: str, *more: str) -> str:
        ours = our_command(shlex.split(command))
        assert ours is not None
        room, words = ours
        capsys.readouterr()
        code = run_command(room_commands(room), [*words, *more])
        printed = capsys.readouterr()
        assert code == 0, printed.err
        lines = printed.out.splitlines()
        assert [line for line in lines[:-1] if line.startswith("next: ")] == []
        return lines[-1].removeprefix("next: ") if lines and lines[-1].startswith("next: ") else ""

    return run


@pytest.mark.slow
def test_from_documents_to_a_report_each_command_is_what_the_one_before_said(
    follow: Follow, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = tmp_path / "my docs"
    docs.mkdir()
    topics = ["boiler", "ticket", "refund", "museum", "parking", "library", "swimming", "garden", "invoice", "passport"]
    for number, topic in enumerate(topics):
        text = f"Notes on our {topic}, how it works and what it costs; this is all about the {topic}"
        (docs / f"{number}.txt").write_text(text, encoding="utf-8")
    encoder = f"model={tiny_bert}"
    with FakeModel() as server:
        monkeypatch.setenv("OPENAI_API_KEY", server.token)
        lm = ["lm=openai/fake", f"api-base={server.api_base}", "adapter=chat"]
        start = shlex.join(["just", "queries", f"corpus={docs}", f"out={tmp_path / 'my runs' / 'queries'}"])
        mine = follow(start, *lm, "round-trip=0", "dev-percent=20")
        synthesize = follow(mine, encoder, "relative-margin=none")
        assert synthesize.startswith("just synthesize ") and synthesize.endswith(" lm=MODEL")
        train = follow(synthesize, *lm)
        evaluate = follow(train, encoder, "epochs=1")
        assert evaluate.startswith("just eval ") and "data=DATA" in evaluate
        report = follow(evaluate, f"data={tmp_path / 'my runs' / 'queries'}")
        assert follow(report) == ""
        verify = (
            f"just verify rows={shlex.quote(str(tmp_path / 'my runs' / 'mined.jsonl'))} out={tmp_path / 'verified'}"
        )
        assert follow(verify, *lm) == f"just train rows={tmp_path}/verified/rows.jsonl out={tmp_path}/train"
        assert follow(verify, *lm, "quiet=true") == ""
    assert (tmp_path / "my runs" / "report.html").is_file()


@pytest.mark.slow
def test_what_follows_on_the_demo_data(follow: Follow, tiny_bert: Path, tmp_path: Path) -> None:
    encoder, retriever = f"model={tiny_bert}", f"retriever={tiny_bert}"
    synthesize = follow(f"just mine data=bundled:demo out={tmp_path}/mined.jsonl", encoder)
    assert "lm=" not in synthesize
    rows, small = f"rows={tmp_path}/mined.jsonl", ["max-rows=8", "profile=help_centre"]
    compare = f"just compare {rows} lms=recorded:demo out={tmp_path}/compare"
    assert follow(compare, retriever, *small, "negatives-per-row=3") == (
        f"just synthesize {rows} out={tmp_path}/synthesis lm=recorded:demo negatives-per-row=3 profile=help_centre"
    )
    train = follow(synthesize, *small, "repairs=0")
    evaluate = follow(train, encoder, "epochs=1", "dev=bundled:demo")
    assert f"data=bundled:demo baseline={tiny_bert} out={tmp_path}/eval.json" in evaluate
    report = follow(evaluate)
    assert follow(f"just diagnose run={tmp_path}", "parameter-rows=0", "permutations=19") == report
    assert follow(report) == ""


def test_a_dev_split_is_evaluated_on_where_no_test_split_is_known(
    follow: Follow, tiny_bert: Path, tmp_path: Path
) -> None:
    write_rows(tmp_path / "rows.jsonl", (made_row(number) for number in range(4)))
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"query": "a b", "positive": "a b c"}\n{"query": "d e", "positive": "d e f"}\n', encoding="utf-8")
    train = f"just train rows={tmp_path}/rows.jsonl out={tmp_path}/train dev={pairs}"
    evaluate = follow(train, f"model={tiny_bert}", "epochs=1")
    assert f"data={pairs} split=dev " in evaluate
    assert follow(evaluate) == f"just report run={tmp_path}"


def test_words_are_quoted_and_settings_said_again() -> None:
    config = SynthesizeConfig(
        rows=Path("my rows.jsonl"), extra={"top_k": 3}, batched=False, max_rows=3, budget_usd=1.0, lm="a/b"
    )
    same = changed_options(config, WritingOptions, LMOptions, but=OF_A_RUN)
    command = next_command("synthesize", rows=config.rows, program=None, **same)
    ours = our_command(shlex.split(f"just {command}"))
    assert ours is not None
    seen: list[SynthesizeConfig] = []
    kind = room_commands("programs")["synthesize"][0]
    assert run_command({"synthesize": (kind, seen.append)}, ours[1]) == 0
    assert seen == [SynthesizeConfig(rows=config.rows, extra={"top_k": 3}, batched=False, lm="a/b")]
