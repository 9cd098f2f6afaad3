"""The prompts that a run would send, shown without a model, are the ones that it sends."""

from pathlib import Path
from typing import Any

import pytest

from data.base.errors import InputError
from data.base.text import content_id
from data.row_files import read_rows
from programs.lm.usage import message_text
from programs.preview.forecast import run_prompts
from programs.preview.prompts import collect_prompts
from programs.synthesis.config import PromptsConfig
from tests.fakes.fake_model import FakeModel
from tests.programs.conftest import Rows, Run


def test_the_first_prompts_are_those_of_the_run(made_rows: Rows, run: Run) -> None:
    rows = made_rows(2)
    shown = collect_prompts(
        PromptsConfig(rows=rows, adapter="chat", style_passages=0, lm="openai/fake"), read_rows(rows)
    )
    extracted = {content_id(message_text(p.messages[-1])) for p in shown if p.predictor == "extract"}
    with FakeModel() as server:
        run(server, rows, style_passages=0)
    assert len(extracted) == 2
    assert extracted == {served.request for served in server.log if served.kind == "extract"}
    assert {p.predictor for p in shown} >= {"extract", "violate", "verify"}


def test_passages_that_show_the_style_are_those_of_the_run(made_rows: Rows) -> None:
    rows = made_rows(4)
    shown = collect_prompts(PromptsConfig(rows=rows, adapter="chat", lm="openai/fake"), read_rows(rows))
    written = [message_text(one.messages[-1]) for one in shown if one.predictor == "violate"]
    assert [text.count("A mined passage near thing") for text in written] == [2] * 4


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        ({"method": "naive"}, ["write"]),
        ({"method": "naive", "verify": "line-up"}, ["extract", "write", "verify"]),
        ({"method": "verify"}, ["extract", "verify"]),
    ],
)
def test_every_method_shows_what_it_asks(made_rows: Rows, settings: dict[str, Any], asked: list[str]) -> None:
    prompts = run_prompts(PromptsConfig(rows=made_rows(1), lm="openai/fake", **settings))
    assert [prompt.predictor for prompt in prompts] == asked


def test_a_forecast_for_all_rows_closes_the_list(
    made_rows: Rows, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = run_prompts(
        PromptsConfig(rows=made_rows(5), lm="openai/gpt-4.1-mini", write=tmp_path / "prompts.txt", max_rows=2)
    )
    text = (tmp_path / "prompts.txt").read_text(encoding="utf-8")
    assert text.count("=====") == 2 * len(prompts)
    assert "5 rows: about" in (out := capsys.readouterr().out) and "USD at list price" in out


def test_no_rows_are_no_prompts(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").touch()
    with pytest.raises(InputError, match="holds no rows"):
        run_prompts(PromptsConfig(rows=tmp_path / "rows.jsonl"))


@pytest.mark.parametrize("lm", ["recorded:demo", "local:/no/such.gguf", "openai/fake"])
@pytest.mark.parametrize("adapter", ["chat", "json", "xml"])
def test_every_layout_is_shown_whatever_the_model(made_rows: Rows, lm: str, adapter: str) -> None:
    rows = made_rows(1)
    assert collect_prompts(PromptsConfig(rows=rows, lm=lm, adapter=adapter), read_rows(rows))


def test_json_for_a_model_that_nobody_knows_is_one_line(made_rows: Rows) -> None:
    rows = made_rows(1)
    with pytest.raises(InputError, match="unknown model"):
        collect_prompts(PromptsConfig(rows=rows, lm="nobody-knows-it", adapter="json"), read_rows(rows))
