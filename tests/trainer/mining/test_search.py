"""Exact top-k by either search: equal to a full sort, whatever the blocks, with ties in order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.base.errors import InputError
from trainer.mining import search
from trainer.mining.search import CPU, ApproximateIndex, top_k


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
    expected_scores, expected_index = by_full_sort(queries, passages, k)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "_QUERIES", blocks[0])
        patch.setattr(search, "_PASSAGES", blocks[1])
        # The second is what a GPU does, here on the CPU.
        for scores, index in (
            top_k(queries, passages, k),
            search._by_torch(queries, passages, min(k, len(passages)), CPU),
        ):
            np.testing.assert_array_equal(index, expected_index)
            np.testing.assert_array_equal(scores, expected_scores)


def test_both_searches_agree_on_real_numbers_and_read_memory_mapped_files(tmp_path) -> None:
    rng = np.random.default_rng(0)
    queries, passages = rng.normal(size=(37, 24)).astype(np.float32), rng.normal(size=(1500, 24)).astype(np.float32)
    np.save(tmp_path / "p.npy", passages)
    mapped = np.load(tmp_path / "p.npy", mmap_mode="r")
    expected_scores, expected_index = by_full_sort(queries, passages, 20)
    for scores, index in (top_k(queries, mapped, 20), search._by_torch(queries, mapped, 20, CPU)):
        np.testing.assert_array_equal(index, expected_index)
        np.testing.assert_allclose(scores, expected_scores, atol=1e-5)


def test_the_approximate_index_finds_nearly_what_exact_search_finds() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(30, 16))
    passages = (centres[rng.integers(30, size=3000)] + 0.3 * rng.normal(size=(3000, 16))).astype(np.float32)
    queries = (passages[:200] + 0.1 * rng.normal(size=(200, 16))).astype(np.float32)
    index = ApproximateIndex(passages)
    assert index.recall(queries, 20) > 0.9
    scores, found = index.search(queries, 5)
    np.testing.assert_allclose(scores, np.take_along_axis(queries @ passages.T, found, 1), rtol=1e-4)
    assert (np.diff(scores, axis=1) <= 0).all()


def test_k_beyond_the_corpus_and_no_queries() -> None:
    passages = np.eye(3, dtype=np.float32)
    assert top_k(passages, passages, 10)[1].shape == (3, 3)
    assert top_k(np.empty((0, 3), np.float32), passages, 2)[1].shape == (0, 2)


@pytest.mark.parametrize("broken", [0, 1])
def test_vectors_that_are_not_finite_or_of_another_width_are_refused(broken: int) -> None:
    vectors = [np.eye(6, dtype=np.float32), np.eye(6, dtype=np.float32)]
    with pytest.raises(InputError, match="different models"):
        top_k(vectors[0], np.eye(4, dtype=np.float32), 2)
    vectors[broken][4, 2] = np.nan
    with pytest.raises(InputError, match="NaN or infinity"):
        top_k(*vectors, 2)
