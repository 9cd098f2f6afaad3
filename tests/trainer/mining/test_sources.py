"""BM25 and rank fusion against a written-out formula and a dictionary, and mining with each source end to end."""

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.base.errors import InputError
from data.row_files import read_rows
from tests.trainer.mining.test_mining import small_mining
from trainer.mining.mine import mine
from trainer.mining.sources import Bm25, bm25_words, fuse

words = st.lists(st.sampled_from(["tap", "leak", "boiler", "fee", "winter"]), max_size=8).map(" ".join)


def bm25_by_formula(query: str, texts: list[str]) -> list[float]:
    """Lucene's BM25: idf = ln(1 + (N - n + 0.5) / (n + 0.5)), k1 1.5, b 0.75."""
    counts = [Counter(text.split()) for text in texts]
    mean = sum(sum(count.values()) for count in counts) / len(texts)
    scores = []
    for count in counts:
        score = 0.0
        for word in query.split():
            if count[word]:
                n = sum(word in other for other in counts)
                idf = math.log(1 + (len(texts) - n + 0.5) / (n + 0.5))
                score += idf * count[word] / (count[word] + 1.5 * (0.25 + 0.75 * sum(count.values()) / mean))
        scores.append(score)
    return scores


@settings(max_examples=60, deadline=None)
@given(queries=st.lists(words, min_size=1, max_size=4), texts=st.lists(words, min_size=1, max_size=9))
def test_bm25_is_its_formula_and_ranks_ties_by_place(queries: list[str], texts: list[str]) -> None:
    source = Bm25(texts)
    vectors = source.queries(queries)
    scores_QK, index_QK = source.search(vectors, len(texts))
    for q, query in enumerate(queries):
        expected = bm25_by_formula(query, texts) if any(texts) else [0.0] * len(texts)
        every = np.arange(len(texts))[None]
        np.testing.assert_allclose(source.scores(vectors[q], every)[0], expected, rtol=1e-5)
        found = [i for i in index_QK[q].tolist() if i >= 0]
        assert set(found) == {i for i, score in enumerate(expected) if score > 0}
        got = dict(zip(index_QK[q].tolist(), scores_QK[q].tolist(), strict=True))
        assert found == sorted(found, key=lambda i: (-got[i], i))


def test_positives_are_compared_by_the_angle_of_their_weighted_words() -> None:
    source = Bm25(["tap leak", "boiler winter winter", "leak tap tap", "fee"])
    similar = source.similarities(np.array([2, 3]), np.array([0, 1]))
    assert similar[0, 0] > similar[0, 1] == 0
    assert similar[1].tolist() == [0, 0]


def test_words_have_no_case_and_scripts_without_spaces_give_characters_and_pairs() -> None:
    assert list(bm25_words("Tap, LEAK: 3 days!")) == ["tap", "leak", "3", "days"]
    assert list(bm25_words("水漏れ tap")) == ["水", "漏", "れ", "tap", "水漏", "漏れ"]
    source = Bm25(["蛇口の水漏れを直す", "冬の料金", "ticket"])
    _, index_QK = source.search(source.queries(["水漏れ"]), 3)
    assert index_QK.tolist() == [[0, -1, -1]]


rankings = st.permutations(range(6)).flatmap(lambda order: st.integers(0, 6).map(lambda n: [*order[:n]]))


@given(first=rankings, second=rankings, k=st.integers(1, 8))
def test_fusion_is_the_sum_of_reciprocal_ranks(first: list[int], second: list[int], k: int) -> None:
    sums: Counter[int] = Counter()
    for ranking in (first, second):
        for rank, passage in enumerate(ranking, start=1):
            sums[passage] += 1 / (60 + rank)  # type: ignore[assignment]
    padded = [np.array([ranking + [-1] * (6 - len(ranking))]) for ranking in (first, second)]
    expected = sorted(sums, key=lambda i: (-sums[i], i))[:k]
    assert [i for i in fuse(*padded, k)[0].tolist() if i >= 0] == expected


@pytest.mark.parametrize("source", ["bm25", "hybrid"])
def test_every_negative_says_what_found_it(source: str, tiny_bert: Path, tmp_path: Path) -> None:
    corpus, config = small_mining(tmp_path, tiny_bert, num_negatives=4, relative_margin=None, source=source)
    texts = corpus.passages
    report = mine(config)
    rows = list(read_rows(config.out))
    negatives = [negative for row in rows for negative in row.negatives]
    assert len(negatives) == report.taken == sum(report.found_by.values()) > 0
    lexical = Bm25(list(texts.values()))
    place = {passage_id: i for i, passage_id in enumerate(texts)}
    for row in rows:
        for negative in row.negatives:
            by = {found.by: found for found in negative.found}
            assert set(by) <= ({"bm25"} if source == "bm25" else {"dense", "bm25"}) and by
            if "bm25" in by:
                score = lexical.scores(lexical.queries([row.query]), np.array([[place[negative.id or ""]]]))
                assert by["bm25"].score == pytest.approx(float(score[0, 0]), abs=1e-5)
                assert by["bm25"].rank
            if "dense" in by:
                assert by["dense"].score == negative.score
            assert (negative.score is None) == (source == "bm25")
    if source == "hybrid":
        assert "dense alone" in report.summary() or "dense and bm25" in report.summary()
    assert json.loads(Path(f"{config.out}.report.json").read_text())["found_by"] == report.found_by


def test_a_rank_that_is_none_names_file_line_and_field(tmp_path: Path) -> None:
    row = {"query": "q", "positives": [{"text": "p"}],
           "negatives": [{"text": "n", "source": "mined", "found": [{"by": "bm25", "rank": 0}]}]}  # fmt: skip
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    with pytest.raises(InputError, match=r"rows\.jsonl:1: field 'negatives\[0\]\.found\[0\]\.rank': expected a rank"):
        list(read_rows(tmp_path / "rows.jsonl"))
