"""A small judged set, and its BEIR folder."""

from pathlib import Path

import pytest

from data.readers.beir import write_beir
from data.retrieval_set import RetrievalSet


@pytest.fixture
def small() -> RetrievalSet:
    return RetrievalSet(
        name="small/test",
        passages={"p1": "One\nfirst text", "p2": "second", "p3": "third שלום"},
        queries={"q1": "which is first", "q2": "which is second"},
        qrels={"q1": {"p1": 2, "p3": 0}, "q2": {"p2": 1}},
    )


@pytest.fixture
def folder(small: RetrievalSet, tmp_path: Path) -> Path:
    write_beir(tmp_path / "small", small, "test")
    return tmp_path / "small"
