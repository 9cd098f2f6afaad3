"""What a run will take: measured where rows are finished, else counted, and asked back on a terminal alone."""

import io
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from data.base.errors import InputError
from data.records import Negative, Row
from data.row_files import read_rows, write_rows
from programs.lm.models import ModelSpec
from programs.preview.forecast import RoleTokens, confirm, counted, forecast, run_prompts
from programs.preview.prompts import collect_prompts
from programs.synthesis.config import PromptsConfig, SynthesizeConfig
from programs.synthesis.roles import build_program
from programs.synthesis.run import synthesize
from tests.fakes.fake_model import FakeModel
from tests.fakes.made_rows import made_row
from tests.programs.conftest import Configured, Rows


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def specs(name: str, *, in_batches: bool = False) -> dict[str, list[ModelSpec]]:
    spec = ModelSpec(name=name, model=name, in_batches=in_batches)
    return {"generator": [spec], "verifier": [spec]}


def test_usd_are_tokens_at_the_price_of_how_they_travel() -> None:
    by_role = {"generator": RoleTokens(calls=2, prompt=1000, completion=300)}
    live, batch = (
        forecast(1000, by_role, "said", {"generator": specs("openai/gpt-4o-mini", in_batches=b)["generator"][0]})
        for b in (False, True)
    )
    assert (live.calls, live.tokens) == (2000, 1_300_000)
    assert live.usd == pytest.approx(1.0 * 0.15 + 0.3 * 0.6)
    assert batch.usd == pytest.approx((live.usd or 0) / 2)
    unknown = forecast(10, by_role, "said", {"generator": specs("openai/nobody-knows")["generator"][0]})
    assert unknown.usd is None and "the price of openai/nobody-knows is unknown" in unknown.in_words()


def test_copies_and_rows_of_one_query_do_not_make_a_row_dearer(made_rows: Rows) -> None:
    first, second, third = read_rows(made_rows(3))
    config = SynthesizeConfig(rows=made_rows(3), out=Path("-"), lm="openai/fake", adapter="chat")
    program, _ = build_program(config)

    def calls(*rows: Row) -> float:
        return sum(one.calls for one in counted(program, collect_prompts(config, rows))[0].values())

    assert calls(first, second, third) == calls(first, first, first) == 3
    assert calls(first, replace(second, query_id=first.query_id)) == 3


def test_copies_are_no_rows_to_pay_for(made_rows: Rows, capsys: pytest.CaptureFixture[str]) -> None:
    rows = made_rows(4)
    rows.write_text(rows.read_text("utf-8") * 5, encoding="utf-8")
    run_prompts(PromptsConfig(rows=rows, out=Path("-"), lm="openai/fake", adapter="chat"))
    assert "4 rows: about 12 calls" in capsys.readouterr().out


def test_a_started_folder_is_measured_and_a_new_one_counted(
    made_rows: Rows, configured: Configured, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    rows = made_rows(8)
    with FakeModel() as server:
        synthesize(configured(server, rows, max_rows=4), before=confirm)
        assert "4 rows: about 12 calls" in caplog.text and "counted on the prompts of 3" in caplog.text
        took = sum(served.prompt_tokens + served.completion_tokens for served in server.log)
        caplog.clear()
        synthesize(configured(server, rows), before=confirm)
    assert f"4 rows: about 12 calls and {took} tokens, the price of openai/fake is unknown" in caplog.text
    assert "measured on the 4 rows that are finished" in caplog.text


def test_rows_that_are_made_anew_are_forecast_and_the_rest_is_measured_on_whatever_rows_are_finished(
    made_rows: Rows, configured: Configured, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    (tmp_path / "profile.toml").write_text('relevance = "It answers."\nstyle = ["As it reads."]')
    settings = {"profile": str(tmp_path / "profile.toml"), "extra": {"top_p": 0.5}}
    with FakeModel() as server:
        synthesize(configured(server, made_rows(4)), before=confirm)
        # With other settings all of them are made anew.
        caplog.clear()
        synthesize(configured(server, made_rows(4), again=True, **settings), before=confirm)
        assert "forecast for 4 rows: about 12 calls" in caplog.text and "counted on the prompts of 3" in caplog.text
        # One row is as it was, one has been mined anew, two have never been there.
        mined = replace(made_row(1), negatives=(Negative(text="Mined anew.", source="mined"),))
        rows = made_rows(4)
        write_rows(rows, [made_row(0), mined, made_row(8), made_row(9)])
        caplog.clear()
        summary = synthesize(configured(server, rows, again=True, **settings), before=confirm)
        assert "forecast for 3 rows: about 9 calls" in caplog.text, caplog.text
        assert "measured on the 4 rows that are finished" in caplog.text
        assert summary["usage"]["requests"] == 21
        caplog.clear()
        synthesize(configured(server, rows, again=True, **settings), before=confirm)
        assert "forecast" not in caplog.text


@pytest.mark.parametrize(("answer", "goes_on"), [("y\n", True), ("\n", False), ("", False)])
def test_much_is_asked_back_on_a_terminal_alone(
    made_rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, goes_on: bool
) -> None:
    rows = made_rows(4)
    monkeypatch.setenv("OPENAI_API_KEY", "unused")
    asked = Terminal()
    monkeypatch.setattr(sys, "stderr", asked)

    def start(limit: float) -> None:
        def then_stop(*given: object) -> None:
            confirm(*given)  # type: ignore[arg-type]
            raise InputError("started")

        config = SynthesizeConfig(
            rows=rows, out=tmp_path / "run", lm="openai/gpt-4o-mini", adapter="chat", confirm_above_usd=limit
        )
        synthesize(config, before=then_stop)

    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    with pytest.raises(InputError, match="started"):
        start(0.0)
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    with pytest.raises(InputError, match="started"):
        start(5.0)
    assert "go on?" not in asked.getvalue()
    with pytest.raises(InputError, match="^started" if goes_on else "not started"):
        start(0.0)
    assert "more than 0 USD (confirm-above-usd): go on? [y/N]" in asked.getvalue()
