"""Exact top-k: equal to a full sort, whatever the blocks, with ties in order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.base.errors import InputError
from trainer.mining import search
from trainer.mining.search import Backend, top_k


def by_full_sort(queries: np.ndarray, passages: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    scores = queries @ passages.T
    index = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, index, 1), index


# Small whole numbers: scores are exact in float32, and ties are everywhere.
vectors = st.integers(1, 12).flatmap(
    lambda rows: st.lists(st.lists(st.integers(-2, 2), min_size=3, max_size=3), min_size=rows, max_size=rows)
)


@settings(max_examples=60, deadline=None)
@given(queries=vectors, passages=vectors, k=st.integers(1, 15), blocks=st.tuples(st.integers(1, 5), st.integers(1, 5)))
def test_equals_a_stable_full_sort_for_any_block_size(queries, passages, k, blocks) -> None:
    queries, passages = np.array(queries, np.float32), np.array(passages, np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "_QUERIES", blocks[0])
        patch.setattr(search, "_PASSAGES", blocks[1])
        scores, index = top_k(queries, passages, k)
    expected_scores, expected_index = by_full_sort(queries, passages, k)
    np.testing.assert_array_equal(index, expected_index)
    np.testing.assert_array_equal(scores, expected_scores)


def test_both_backends_agree_on_real_numbers() -> None:
    rng = np.random.default_rng(0)
    queries, passages = rng.normal(size=(37, 24)).astype(np.float32), rng.normal(size=(1500, 24)).astype(np.float32)
    torch_scores, torch_index = top_k(queries, passages, 20, backend="torch")
    faiss_scores, faiss_index = top_k(queries, passages, 20, backend="faiss")
    np.testing.assert_array_equal(torch_index, faiss_index)
    np.testing.assert_allclose(torch_scores, faiss_scores, atol=1e-5)
    np.testing.assert_array_equal(torch_index, by_full_sort(queries, passages, 20)[1])


def test_memory_mapped_passages_are_searched(tmp_path) -> None:
    passages = np.random.default_rng(1).normal(size=(50, 8)).astype(np.float32)
    np.save(tmp_path / "p.npy", passages)
    mapped = np.load(tmp_path / "p.npy", mmap_mode="r")
    np.testing.assert_array_equal(top_k(passages[:4], mapped, 5)[1], top_k(passages[:4], passages, 5)[1])


@pytest.mark.parametrize("backend", ["torch", "faiss"])
def test_a_passage_that_is_not_a_number_is_refused(backend: Backend) -> None:
    passages = np.eye(6, dtype=np.float32)
    passages[4, 2] = np.nan
    with pytest.raises(InputError, match="NaN or infinity"):
        top_k(np.eye(6, dtype=np.float32)[:2], passages, 2, backend=backend)


def test_k_beyond_the_corpus_and_no_queries() -> None:
    passages = np.eye(3, dtype=np.float32)
    assert top_k(passages, passages, 10)[1].shape == (3, 3)
    assert top_k(np.empty((0, 3), np.float32), passages, 2)[1].shape == (0, 2)


@pytest.mark.parametrize("side", ["query", "passage"])
def test_vectors_that_are_not_finite_are_refused(side: str) -> None:
    queries, passages = np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32)
    (queries if side == "query" else passages)[1, 1] = np.nan
    with pytest.raises(InputError, match="NaN"):
        top_k(queries, passages, 2)


def test_different_widths_are_refused() -> None:
    with pytest.raises(InputError, match="different models"):
        top_k(np.eye(3, dtype=np.float32), np.eye(4, dtype=np.float32), 2)
