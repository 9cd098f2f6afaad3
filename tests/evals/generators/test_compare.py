"""The leaderboard: same rows, one run a model, measures with intervals, unusable models with the reason."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from data.base.errors import InputError
from data.records import Row
from evals.generators.compare import UNKNOWN, cell, compare, leaderboard_table, leaderboard_text, source_leak
from evals.generators.config import CompareConfig
from programs.lm.batches import calls
from programs.synthesis.run import BatchesOutError
from tests.evals.synthetic import generated, mined, row
from tests.fakes.closed_loop import WordsRetriever
from tests.fakes.fake_batches import FakeBatches, RunBatch
from tests.fakes.fake_model import FakeModel

Rows = Callable[[int], Path]


def set_servers(monkeypatch: pytest.MonkeyPatch, **servers: FakeModel | FakeBatches) -> None:
    for provider, server in servers.items():
        monkeypatch.setenv(f"{provider}_API_KEY", server.token)
        monkeypatch.setenv(f"{provider}_API_BASE", server.api_base)


def test_source_leak_is_a_half_for_the_same_words_and_one_for_a_tell_tale() -> None:
    def rows(words: list[str], written: list[str]) -> list[Row]:
        return [row(n, [*map(mined, words), *map(generated, written)]) for n in range(12)]

    words = ["apple", "pear", "plum", "fig"]
    same = rows(words, words)
    assert source_leak(same)["value"] == pytest.approx(0.5, abs=0.05)
    told = source_leak(rows(words, [f"{word} indeed" for word in words]))
    assert told["value"] == pytest.approx(1.0)
    assert told["low"] is not None and told["low"] > 0.9
    assert source_leak(same[:3]) == source_leak(rows(words, [])) == UNKNOWN


def test_cells() -> None:
    assert cell(UNKNOWN) == "unknown"
    assert cell(UNKNOWN | {"value": 0.5}, 2) == "0.50"
    assert cell({"value": 0.5, "low": 0.25, "high": 0.75}, 2) == "0.50 [0.25, 0.75]"


def test_models_are_ranked_and_unusable_ones_named(
    made_rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeModel() as good, FakeModel(says_relevant=lambda passage: False) as bad:
        set_servers(monkeypatch, OPENAI=good, HOSTED_VLLM=bad)
        config = CompareConfig(
            rows=made_rows(25),
            lms=("hosted_vllm/bad", "openai/good"),
            out=tmp_path / "out",
            adapter="chat",
            concurrency=4,
        )
        result = compare(config, WordsRetriever())
    assert [entry["model"] for entry in result["board"]] == ["openai/good", "hosted_vllm/bad"]
    measures = result["board"][0]["measures"]
    assert measures["acceptance_rate"]["value"] == 1.0
    assert measures["surgical_rate"]["value"] == 1.0
    assert measures["usd_per_accepted"]["value"] is None
    assert 0 < measures["infonce_weight"]["low"] <= measures["infonce_weight"]["value"] <= 1
    tokens = sum(served.prompt_tokens + served.completion_tokens for served in good.log)
    assert measures["tokens_per_accepted"]["value"] == pytest.approx(tokens / 100)
    assert "misses" in result["board"][1]["unusable"]
    table = leaderboard_table(result)
    assert "| openai/good | 1.000" in table
    assert "hosted_vllm/bad: not usable: this verifier misses" in table
    assert (tmp_path / "out" / "leaderboard.md").read_text() == table
    assert max(map(len, leaderboard_text(result).split("this verifier")[0].splitlines()[1:])) <= 80
    assert json.loads((tmp_path / "out" / "leaderboard.json").read_text())["board"] == result["board"]


def test_a_run_that_ended_shows_nothing_of_an_earlier_one(
    made_rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = [False]
    with FakeModel() as good, FakeModel(fault=lambda number: "401" if broken[0] else None) as once:
        set_servers(monkeypatch, OPENAI=good, HOSTED_VLLM=once)
        config = CompareConfig(
            rows=made_rows(4), lms=("hosted_vllm/once", "openai/good"), out=tmp_path / "out", adapter="chat", max_rows=3
        )
        assert all(entry["unusable"] is None for entry in compare(config, WordsRetriever())["board"])
        broken[0] = True
        _, last = compare(replace(config, max_rows=4), WordsRetriever())["board"]
    assert "the key was refused" in last["unusable"]
    assert last["usage"] is None


def test_what_is_not_compared(made_rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "unused")
    config = CompareConfig(rows=made_rows(3), lms=("openai/nobody-knows",), out=tmp_path / "out", budget_usd=1.0)
    with pytest.raises(InputError, match="price of openai/nobody-knows is unknown"):
        compare(config, WordsRetriever())
    with pytest.raises(InputError, match="OTHER_KEY would be sent to anthropic and openai"):
        compare(replace(config, lms=("openai/gpt-4.1", "anthropic/claude-3-5-haiku-20241022"), api_key_env="OTHER_KEY"))
    with pytest.raises(InputError, match="would share the run folder"):
        compare(replace(config, lms=("local:/a/model.gguf", "local:/b/model.gguf")))
    with pytest.raises(InputError, match="model strings, each once"):
        CompareConfig(rows=tmp_path, lms=("a/b", "a/b"))


def test_files_of_every_model_are_answered_one_after_the_other(
    made_rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "WaveSender", partial(calls.WaveSender, first_look_s=0.05, nothing_moves_s=0.1))
    with FakeBatches() as server:
        set_servers(monkeypatch, OPENAI=server)
        shared = CompareConfig(rows=made_rows(3), lms=("openai/one", "openai/two"), out=tmp_path / "f", adapter="chat")
        with RunBatch(tmp_path / "f", server):
            files = compare(replace(shared, send="files"), WordsRetriever())["board"]
        assert not server.batches
        live = compare(replace(shared, out=tmp_path / "c"), WordsRetriever())["board"]
    for one, other in zip(files, live, strict=True):
        assert one["unusable"] is None and one["measures"]["surgical_rate"] == other["measures"]["surgical_rate"]
    assert len(list((tmp_path / "f").rglob("requests/*.jsonl"))) >= 4


def test_every_models_batches_go_out_before_any_is_waited_for(
    made_rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = partial(calls.WaveSender, first_look_s=0.05, nothing_moves_s=0.1)
    monkeypatch.setattr(calls, "WaveSender", quick)
    with FakeBatches(batch_s=60.0) as server:
        set_servers(monkeypatch, OPENAI=server)
        shared = CompareConfig(rows=made_rows(6), lms=("openai/one", "openai/two"), out=tmp_path / "b", adapter="chat")
        with pytest.raises(BatchesOutError) as left:
            compare(replace(shared, send="batch", wait=False), WordsRetriever())
        assert all(f"openai/{name}: 1 batch with 6 requests left running" in str(left.value) for name in ("one", "two"))
        assert len(server.batches) == 2
        server.end_all()
        batch = compare(replace(shared, send="batch"), WordsRetriever())["board"]
        assert max(server.sent().values()) == 1
        live = compare(replace(shared, out=tmp_path / "c"), WordsRetriever())["board"]
    for one, other in zip(batch, live, strict=True):
        assert one["model"] == other["model"]
        for name in ("acceptance_rate", "infonce_weight", "surgical_rate", "tokens_per_accepted"):
            assert one["measures"][name] == other["measures"][name]
