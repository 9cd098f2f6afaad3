"""MTEB's own loader reads a task from a folder; our measures equal MTEB's on it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.base.errors import InputError
from data.readers.demo import demo_family_set
from data.readers.mteb import retrieval_set_of
from data.readers.source import read_source
from data.retrieval_set import RetrievalSet
from data.row_files import write_objects
from evals.retrieval.measures import evaluate
from trainer.encoder.encoder import Encoder

mteb = pytest.importorskip("mteb")

_CARD = """---
configs:
- config_name: corpus
  data_files: [{split: test, path: corpus.jsonl}]
- config_name: queries
  data_files: [{split: test, path: queries.jsonl}]
- config_name: default
  data_files: [{split: test, path: qrels.jsonl}]
---
"""


def write_task_folder(folder: Path, retrieval_set: RetrievalSet) -> None:
    folder.mkdir()
    (folder / "README.md").write_text(_CARD, encoding="utf-8")
    titled = {pid: text.rpartition("\n") for pid, text in retrieval_set.passages.items()}
    write_objects(
        folder / "corpus.jsonl",
        [{"_id": pid, "title": title, "text": text} for pid, (title, _, text) in titled.items()],
    )
    write_objects(folder / "queries.jsonl", [{"_id": qid, "text": text} for qid, text in retrieval_set.queries.items()])
    lines = [(qid, pid, grade) for qid, graded in retrieval_set.qrels.items() for pid, grade in graded.items()]
    write_objects(folder / "qrels.jsonl", [{"query-id": q, "corpus-id": p, "score": grade} for q, p, grade in lines])


def make_task(folder: Path, shared_ids: bool = False, **changes: Any) -> Any:
    from mteb.abstasks import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    class LocalTask(AbsTaskRetrieval):  # type: ignore[misc]
        ignore_identical_ids = shared_ids
        metadata = TaskMetadata(
            name="LocalFamilies", description="Demo families.", type="Retrieval", category="t2t",
            main_score="ndcg_at_10", eval_langs=["eng-Latn"],
            dataset={"path": str(folder), "revision": "1.0.0", **changes},
        )  # fmt: skip

    return LocalTask()


@pytest.mark.parametrize("shared_ids", [False, True])
def test_the_same_figures_as_mteb(
    shared_ids: bool, tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sentence_transformers import SentenceTransformer

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")  # read from the environment at import
    dev = demo_family_set("dev")
    # The queries are passages, too, as in ArguAna.
    dev = replace(dev, passages=dev.passages | dev.queries, families={})
    write_task_folder(tmp_path / "task", dev)
    ours = retrieval_set_of(make_task(tmp_path / "task", shared_ids), "", "test")
    assert ours.shared_ids == shared_ids
    assert ours.queries == dev.queries and ours.qrels == dev.qrels
    assert ours.passages == {pid: text.replace("\n", " ", 1).strip() for pid, text in dev.passages.items()}

    folder = tmp_path / "model"
    Encoder.load(str(tiny_bert)).save(folder)
    theirs = mteb.evaluate(
        SentenceTransformer(str(folder), device="cpu"), make_task(tmp_path / "task", shared_ids), cache=None,
        show_progress_bar=False,
    ).task_results[0].scores["test"][0]  # fmt: skip
    means = evaluate(Encoder.load(str(folder)), ours).means()
    assert means["ndcg@10"] == pytest.approx(theirs["ndcg_at_10"], abs=1e-5)
    assert means["map"] == pytest.approx(theirs["map_at_1000"], abs=1e-5)
    # Without the task's word every query finds itself first.
    assert (means["accuracy@1"] > 0) == shared_ids
    assert means["recall@10"] == pytest.approx(theirs["recall_at_10"], abs=1e-5)


def test_what_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")  # read from the environment at import
    write_task_folder(tmp_path / "task", demo_family_set("dev"))
    with pytest.raises(InputError, match=r"mteb:SciFakt: MTEB has no task of this name; did you mean SciFact\?"):
        read_source("mteb:SciFakt", "test")
    with pytest.raises(InputError, match="mteb:STS12: is a STS task; only retrieval tasks"):
        read_source("mteb:STS12", "test")
    with pytest.raises(InputError, match="has no split 'dev', but test"):
        retrieval_set_of(make_task(tmp_path / "task"), "", "dev")
    with pytest.raises(InputError, match="name one of its subsets"):
        retrieval_set_of(make_task(tmp_path / "task"), "fr", "test")
    with pytest.raises(InputError, match="comes as code"):
        retrieval_set_of(make_task(tmp_path / "task", trust_remote_code=True), "", "test")
    with pytest.raises(InputError, match="cannot be loaded"):
        retrieval_set_of(make_task(tmp_path / "elsewhere"), "", "test")
