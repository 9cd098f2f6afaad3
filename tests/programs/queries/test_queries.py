"""Queries from documents alone: what is kept, what is dropped by which rule, and that nothing is paid for twice."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.base.errors import InputError
from data.readers.beir import read_beir
from programs.__main__ import main
from programs.queries.config import QueriesConfig
from programs.queries.run import SPLITS, found_again, read_samples, write_queries
from programs.queries.run import WrittenQuery as Query
from tests.fakes.fake_model import FakeModel
from tests.programs.conftest import Refusal
from trainer.encoder import Encoder

TOPICS = ["boiler", "ticket", "refund", "museum", "parking", "library", "swimming", "garden", "invoice", "passport"]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Ten passages as .txt files; the last word of each is its topic, which the fake asks about."""
    folder = tmp_path / "docs"
    folder.mkdir()
    for number, topic in enumerate(TOPICS):
        text = f"Notes on our {topic}, how it works and what it costs; this is all about the {topic}"
        (folder / f"{number}.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def run(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    def started(server: FakeModel, **settings: Any) -> dict[str, Any]:
        monkeypatch.setenv("OPENAI_API_KEY", server.token)
        base = {
            "corpus": str(corpus), "out": tmp_path / "out", "lm": "openai/fake", "api_base": server.api_base,
            "adapter": "chat", "round_trip": 0, "dev_percent": 20, "concurrency": 4,
        }  # fmt: skip
        return write_queries(QueriesConfig(**base | settings))

    return started


def test_documents_become_a_beir_folder_with_every_passage_in_one_split(
    run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    with FakeModel() as server:
        found = run(server)
        kinds = [served.kind for served in server.log]
    assert (found["kept"], found["asked"], found["counts"]["written"]) == (20, 10, 20)
    assert (kinds.count("write"), kinds.count("verify")) == (10, 20)
    assert found["usage"]["requests"] == 30 and found["usage"]["tokens"] > 0
    seen: dict[str, str] = {}
    for split in SPLITS:
        if not found["splits"][split]:
            continue
        data = read_beir(tmp_path / "out", split)
        assert len(data.passages) == 10 and len(data.queries) == found["splits"][split]
        for query_id, grades in data.qrels.items():
            ((passage_id, grade),) = grades.items()
            assert grade == 1 and data.queries[query_id].split()[-1] == data.passages[passage_id].split()[-1]
            assert seen.setdefault(passage_id, split) == split
    assert len(seen) == 10 and found["splits"]["train"] > found["splits"]["dev"]


def test_what_the_verifier_refuses_is_dropped_and_counted(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    with FakeModel(says_relevant=lambda passage: "museum" not in passage) as server:
        found = run(server)
    assert found["kept"] == 18 and found["counts"]["not_answered"] == 2
    assert "museum" not in (tmp_path / "out" / "queries.jsonl").read_text(encoding="utf-8")


def test_a_query_of_two_passages_is_dropped_with_both(run: Callable[..., dict[str, Any]], corpus: Path) -> None:
    (corpus / "more.txt").write_text("Another page that is about the boiler", encoding="utf-8")
    # The same text under another name is asked about once.
    (corpus / "copy.txt").write_text((corpus / "1.txt").read_text(), encoding="utf-8")
    with FakeModel() as server:
        found = run(server)
    assert (found["asked"], found["passages"]) == (11, 12)
    assert found["counts"]["fits_two_passages"] == 4 and found["kept"] == 18


def test_a_few_passages_first_are_not_paid_again_and_a_finished_run_costs_nothing(
    run: Callable[..., dict[str, Any]],
) -> None:
    with FakeModel() as server:
        run(server, max_rows=4)
        assert len(server.log) == 12
        whole = run(server)
        assert len(server.log) == 30
        assert run(server) == whole
        assert len(server.log) == 30


def test_a_split_that_is_empty_now_leaves_no_judgements(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    with FakeModel() as server:
        assert run(server, dev_percent=40)["splits"]["dev"]
        found = run(server, dev_percent=0)
    assert found["splits"] == {"train": 20, "dev": 0, "test": 0}
    assert [path.name for path in (tmp_path / "out" / "qrels").iterdir()] == ["train.tsv"]


def test_a_budget_that_ends_keeps_what_is_finished(run: Callable[..., dict[str, Any]]) -> None:
    with FakeModel() as server:
        with pytest.raises(InputError, match="finished passages are kept"):
            run(server, budget_tokens=9_000, concurrency=1)
        first = len(server.log)
        assert 0 < first < 30
        assert run(server)["kept"] == 20
        assert len(server.log) == 30


def test_the_round_trip_keeps_queries_whose_passage_the_retriever_finds() -> None:
    corpus = {f"p{n}": f"Everything about the {topic} and its opening hours" for n, topic in enumerate(TOPICS)}
    written = [
        Query(id="a", text="when does the library open", passage_id="p5"),
        Query(id="b", text="when does the library open?", passage_id="p0"),
    ]
    encoder = Encoder.load("bundled:all-MiniLM-L6-v2")
    assert [query.id for query in found_again(written, corpus, encoder, 1)] == ["a"]
    assert len(found_again(written, corpus, encoder, 10)) == 2


def test_a_retriever_that_is_not_there_costs_no_call(run: Callable[..., dict[str, Any]]) -> None:
    with FakeModel() as server:
        with pytest.raises(InputError, match="absent-folder"):
            run(server, round_trip=3, retriever="absent-folder/x/y")
        assert not server.log


def test_sample_queries_reach_the_prompt(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    samples = tmp_path / "samples.txt"
    samples.write_text("wheres my bin\n\nhow 2 pay\n", encoding="utf-8")
    assert sorted(read_samples(samples, 0)) == ["how 2 pay", "wheres my bin"]
    (tmp_path / "s.jsonl").write_text('{"_id": "1", "text": "one"}\n{"query": "two"}\n')
    assert sorted(read_samples(tmp_path / "s.jsonl", 0)) == ["one", "two"]
    prompts: list[str] = []

    class Listening(FakeModel):
        def _outputs(self, kind: Any, inputs: dict[str, str]) -> dict[str, Any]:
            prompts.append(inputs.get("style", ""))
            return super()._outputs(kind, inputs)

    with Listening() as server:
        run(server, samples=samples, max_rows=1)
    assert any("wheres my bin" in prompt for prompt in prompts)


def test_the_command_says_what_came_out_and_what_is_next(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "q"
    with FakeModel() as server:
        monkeypatch.setenv("OPENAI_API_KEY", server.token)
        argv = [f"corpus={corpus}", f"out={out}", "lm=openai/fake", f"api-base={server.api_base}", "adapter=chat"]
        assert main(["queries", *argv, "round-trip=3"]) == 0
    shown = capsys.readouterr().out
    assert "of 10 passages (train " in shown
    assert f"next: just mine data={out} out={out.parent}/mined.jsonl" in shown
    assert json.loads((out / "summary.json").read_text())["config"]["round_trip"] == 3


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["lm=recorded:demo"], "name a real model"),
        (["corpus=nowhere", "lm=openai/x"], "nowhere"),
        (["verify=line-up", "lm=openai/x"], "--verify: expected one-by-one"),
        (["dev-percent=50", "lm=openai/x"], "--dev-percent: expected 0 to 49"),
    ],
)
def test_faults_are_one_line(
    flags: list[str], words: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Refusal
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "hush")
    passages = [] if "corpus=" in str(flags) else [f"corpus={corpus}"]
    assert words in refusal("queries", *passages, f"out={tmp_path / 'q'}", *flags)
    assert not (tmp_path / "q").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("s.txt", "where is it\nhow long\n"),
        ("s", "where is it\nhow long\n"),
        ("s.csv", "query,clicks\nwhere is it,3\nhow long,4\n"),
        ("s.jsonl", '{"text": "where is it"}\n{"query": "how long"}\n'),
    ],
)
def test_samples_are_read_by_the_name_of_their_file(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert set(read_samples(tmp_path / name, 0)) == {"where is it", "how long"}


def test_packed_samples_are_unpacked(tmp_path: Path) -> None:
    (tmp_path / "s.jsonl.gz").write_bytes(gzip.compress(b'{"query": "how long"}\n'))
    (tmp_path / "s.txt.gz").write_bytes(gzip.compress(b"how long\n"))
    assert read_samples(tmp_path / "s.jsonl.gz", 0) == read_samples(tmp_path / "s.txt.gz", 0) == ("how long",)
