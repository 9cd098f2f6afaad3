"""Optimisation end to end on recorded:demo, its errors, its budget, and stopping with the best so far."""

import json
import os
import signal
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

import programs.optimize.run
from data.base.errors import InputError
from data.readers.demo import demo_items
from data.records import Negative
from data.row_files import write_rows
from programs.lm.usage import message_text
from programs.modules.saved import load_program
from programs.modules.synthesizer import Synthesizer
from programs.optimize.config import OptimizeConfig
from programs.optimize.part import compare
from programs.optimize.run import optimize
from programs.synthesis.config import SynthesizeConfig
from programs.synthesis.run import synthesize
from programs.synthesis.summary import optimization_table
from tests.fakes.closed_loop import ObedientModel, WordsRetriever, closed_loop_rows
from tests.programs.conftest import Refusal


def write_demo_rows(path: Path, count: int) -> Path:
    """Demo rows with two passages of other rows as mined negatives."""
    items = demo_items()[:count]
    texts = [item.row.positives[0].text for item in items]
    rows = [
        replace(
            item.row,
            requirements=(),
            negatives=tuple(Negative(text=texts[(number + step) % count], source="mined") for step in (1, 2)),
        )
        for number, item in enumerate(items)
    ]
    write_rows(path, rows)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["bootstrap", "mipro"])
def test_on_recorded_demo(tmp_path: Path, optimizer: str) -> None:
    rows = write_demo_rows(tmp_path / "rows.jsonl", 16)
    config = OptimizeConfig(rows=rows, out=tmp_path / "out", optimizer=optimizer, rollouts=12, profile="help_centre")
    summary = optimize(config, WordsRetriever())
    # Recorded answers do not change with the prompt: the verifier is right already, the generator gains nothing.
    assert "already right on every example" in summary["parts"]["verifier"]["in_words"]
    assert "no significant gain" in summary["parts"]["generator"]["in_words"] or (
        "nothing found that is better" in summary["parts"]["generator"]["in_words"]
    )
    program = Synthesizer()
    name = load_program(tmp_path / "out" / "program", program)
    if optimizer == "bootstrap":
        assert program.violate.demos
        run = synthesize(
            SynthesizeConfig(
                rows=rows, out=tmp_path / "run", program=tmp_path / "out" / "program", profile="help_centre", repairs=0
            )
        )
        assert run["program"]["name"] == name
        assert run["funnel"]["accepted"] > 0


def settings(rows: Path, server: ObedientModel, **more: Any) -> OptimizeConfig:
    base: dict[str, Any] = {
        "rows": rows,
        "out": rows.parent / "out",
        "lm": "openai/obedient",
        "reflection_lm": "openai/obedient",
        "api_base": server.api_base,
        "reflection_api_base": server.api_base,
        "optimizer": "gepa",
        "parts": "generator",
        "rollouts": 60,
        "max_tokens": 100,
        "concurrency": 1,
        "negatives_per_row": 2,
        "adapter": "chat",
    }
    return OptimizeConfig(**base | more)


@pytest.mark.slow
def test_the_budget_ends_the_search_with_the_best_so_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = tmp_path / "rows.jsonl"
    write_rows(rows, closed_loop_rows(16))
    with ObedientModel() as server:
        monkeypatch.setenv("OPENAI_API_KEY", server.token)
        small = optimize(settings(rows, server, budget_tokens=110_000), WordsRetriever())
        assert small["spent"]["tokens"] <= 110_000
        assert "budget of 110000 tokens is spent" in small["ended_early"]
        assert load_program(tmp_path / "out" / "program", Synthesizer()).startswith("program@")
        with pytest.raises(InputError, match="budget of 5000 tokens is spent"):
            optimize(settings(rows, server, budget_tokens=5000, out=tmp_path / "tiny"), WordsRetriever())
        assert not (tmp_path / "tiny" / "program").exists()


class Interrupting(ObedientModel):
    """Presses Ctrl-C at the first request that holds `at`, and finds some passages relevant, so that a verifier has
    something to learn."""

    def __init__(self, at: str = ""):
        super().__init__()
        self._at = at
        self._delay_s = 0.01 if at else 0.0
        self._says_relevant = lambda passage: zlib.crc32(passage.encode()) % 3 != 0

    async def answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if self._at and f"## {self._at} ##" in message_text(body["messages"][-1]):
            self._at = ""
            os.kill(os.getpid(), signal.SIGINT)
        return await super().answer(request, body)


@pytest.fixture
def both_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    def run(server: Interrupting, **more: Any) -> dict[str, Any]:
        monkeypatch.setenv("OPENAI_API_KEY", server.token)
        rows = tmp_path / "rows.jsonl"
        write_rows(rows, closed_loop_rows(10))
        base = {"optimizer": "bootstrap", "reflection_lm": None, "rollouts": 5, "parts": "both"}
        return optimize(settings(rows, server, **base | more), WordsRetriever())

    return run


@pytest.mark.parametrize("ended_by", ["budget", "Ctrl-C", "constant metric"])
def test_a_compiled_verifier_outlives_the_generator(
    ended_by: str, both_parts: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more: dict[str, Any] = {}
    if ended_by == "budget":
        with Interrupting() as server:
            alone = both_parts(server, parts="verifier", out=tmp_path / "alone")["spent"]["tokens"]
        more = {"budget_tokens": alone + 3000}
    if ended_by == "constant metric":
        monkeypatch.setattr(
            programs.optimize.run, "synthesis_judge", lambda *_: lambda example, prediction: (0.25, str)
        )
    with Interrupting("violations" if ended_by == "Ctrl-C" else "") as server:
        summary = both_parts(server, **more)
    words = {"budget": "tokens is spent", "Ctrl-C": "stopped by Ctrl-C", "constant metric": "scores 0.2500"}[ended_by]
    assert list(summary["parts"]) == ["verifier"]
    assert words in summary["parts_not_compiled"]["generator"]
    (line,) = [line for line in optimization_table(summary).splitlines() if line.startswith("generator: not compiled")]
    assert words in line
    # No price is listed for the model that was used.
    assert summary["spent"]["usd"] is None
    program = Synthesizer()
    load_program(tmp_path / "out" / "program", program)
    assert program.verify.demos
    assert not program.violate.demos
    manifest = json.loads((tmp_path / "out" / "program" / "manifest.json").read_text())
    assert manifest["spent"]["usd"] is None
    assert words in manifest["parts_not_compiled"]["generator"]


def test_an_interrupt_before_there_is_anything_to_keep(
    both_parts: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    with Interrupting("passages") as server, pytest.raises(KeyboardInterrupt):
        both_parts(server)
    assert not (tmp_path / "out" / "program").exists()
    assert not (tmp_path / "out" / "summary.json").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["optimizer=gradient"], "optimizer"),
        (["optimizer=gepa"], "reflection-lm"),
        (["optimizer=bootstrap", "reflection_lm=openai/x"], "uses no reflection model"),
        (["dev_share=0.6", "held_out_share=0.5"], "dev-share"),
        (["lm=nobody/model"], "unknown model"),
        (["retriever=absent-folder/x/y"], "absent-folder"),
        (["rows=absent.jsonl"], "absent.jsonl"),
    ],
)
def test_bad_input(flags: list[str], words: str, tmp_path: Path, refusal: Refusal) -> None:
    rows = write_demo_rows(tmp_path / "rows.jsonl", 6)
    given = [] if "rows=" in str(flags) else [f"rows={rows}"]
    assert words in refusal("optimize", f"out={tmp_path / 'out'}", *given, *flags)


@pytest.mark.parametrize(("count", "words"), [(0, "holds no rows"), (1, "1 rows"), (2, "at least 3 are needed")])
def test_too_few_rows(count: int, words: str, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    write_rows(rows, closed_loop_rows(count))
    with pytest.raises(InputError, match=words):
        optimize(
            OptimizeConfig(rows=rows, out=tmp_path / "out", lm="openai/x", api_base="http://127.0.0.1:1"),
            WordsRetriever(),
        )


def test_a_constant_metric_is_refused(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    items = demo_items()[:8]
    # Nothing recorded fits these passages, so every row fails and scores nothing.
    write_rows(rows, [replace(closed_loop_rows(8)[n], query=item.row.query) for n, item in enumerate(items)])
    with pytest.raises(InputError, match="every example of the generator scores 0"):
        optimize(OptimizeConfig(rows=rows, out=tmp_path / "out", parts="generator"), WordsRetriever())
    assert not (tmp_path / "out" / "program").exists()


def test_an_unknown_price_under_a_dollar_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = write_demo_rows(tmp_path / "rows.jsonl", 6)
    monkeypatch.setenv("OPENAI_API_KEY", "unused")
    with pytest.raises(InputError, match="price of openai/nobody-knows is unknown"):
        optimize(
            OptimizeConfig(rows=rows, out=tmp_path / "out", lm="openai/nobody-knows", budget_usd=1.0), WordsRetriever()
        )


def test_before_and_after_in_words() -> None:
    same = compare([0.1, 0.5, 0.9], [0.1, 0.5, 0.9])
    assert (same.difference.low, same.difference.high, same.difference.leaves_out_zero) == (0, 0, False)
    assert "no significant gain" in same.sentence()
    better = compare([0.1] * 10, [0.3] * 10)
    assert (better.difference.low, better.difference.high) == pytest.approx((0.2, 0.2))
    assert better.sentence().endswith("better on 10 held-out examples")
    assert "WORSE" in compare([0.3] * 10, [0.1] * 10).sentence()
    mixed = compare([0.0, 1.0] * 10, [1.0, 0.0] * 10)
    assert mixed.difference.low < 0 < mixed.difference.high
    with pytest.raises(ValueError):
        compare([], [])
