import math
from dataclasses import replace

import numpy as np
import pytest

from data.records import Negative, Passage, Verdict
from evals.diagnostics.embedded_rows import embed_rows
from evals.diagnostics.hardness import (
    hardness_by_disruption,
    hardness_by_source,
    histogram,
    infonce_weights,
    mean_effective_negatives,
    similarity_by_grade,
)
from tests.evals.synthetic import TableEncoder, generated, mined, row

TABLE = {"query 0": [1, 0], "answer 0": [0.5, 0], "above": [0.7, 0], "equal": [0.5, 9], "below": [0.1, 0]}


def test_above_the_positive_counts_ties_and_weights_are_the_softmax() -> None:
    rows = [row(0, [mined("above"), mined("below"), generated("equal")])]
    embedded = embed_rows(rows, TableEncoder(TABLE))
    weight_P = infonce_weights(embedded, temperature=0.1)
    by_source = hardness_by_source(embedded, weight_P)
    assert by_source["mined"].above_positive.mean == 0.5
    assert by_source["generated"].above_positive.mean == 1.0
    total = math.exp(5) + math.exp(7) + math.exp(1) + math.exp(5)
    assert by_source["mined"].mass == pytest.approx((math.exp(7) + math.exp(1)) / total, rel=1e-5)
    assert by_source["generated"].mass == pytest.approx(math.exp(5) / total, rel=1e-5)
    assert by_source["mined"].wasted == 0.5
    assert weight_P.sum() == pytest.approx(1)


def test_all_equal_scores_share_the_weight() -> None:
    table = {text: [1.0, 0.0] for text in ("query 0", "answer 0", "a", "b", "c")}
    embedded = embed_rows([row(0, [mined("a"), generated("b"), generated("c")])], TableEncoder(table))
    weight_P = infonce_weights(embedded, temperature=0.05)
    assert weight_P == pytest.approx(0.25)
    assert mean_effective_negatives(embedded, weight_P).mean == pytest.approx(3)


def test_a_second_positive_takes_no_weight() -> None:
    one = row(0, [mined("below")])
    two = replace(one, positives=(*one.positives, Passage(id="p2", text="above")))
    embedded = embed_rows([two], TableEncoder(TABLE))
    weight_P = infonce_weights(embedded, temperature=0.1)
    assert weight_P[1] == 0
    assert weight_P.sum() == pytest.approx(1)


def test_sources_and_disruptions_that_do_not_occur_are_left_out() -> None:
    rows = [row(0, [generated("above"), generated("below", disruption="intent_drift")])]
    embedded = embed_rows(rows, TableEncoder(TABLE))
    weight_P = infonce_weights(embedded, temperature=0.1)
    assert hardness_by_source(embedded, weight_P).keys() == {"generated"}
    by_disruption = hardness_by_disruption(embedded, weight_P)
    assert {name: found.count for name, found in by_disruption.items()} == {"entity_shift": 1, "intent_drift": 1}
    assert by_disruption["entity_shift"].above_positive.mean == 1.0


def test_a_histogram_keeps_values_beyond_its_range() -> None:
    found = histogram(np.array([-9.0, 0.1, 0.9, 9.0]), 0, 1, num_bins=2)
    assert found.shares == (0.5, 0.5)


def test_similarity_follows_the_grade_of_a_passage() -> None:
    def judged(text: str, *satisfied: bool) -> Negative:
        return replace(generated(text), verdict=Verdict(satisfied=satisfied, answers_query=False))

    rows = [row(0, [mined("equal"), judged("above", True, True, False), judged("below", False, False, False)])]
    found = similarity_by_grade(embed_rows(rows, TableEncoder(TABLE)))
    assert {name: (one.grade, pytest.approx(one.similarity.mean)) for name, one in found.items()} == {
        "0": (0, 0.1), "2/3": (pytest.approx(2 / 3), 0.7), "1": (1, 0.5), "not judged": (None, 0.5)
    }  # fmt: skip
    assert similarity_by_grade(embed_rows([row(0, [mined("equal")])], TableEncoder(TABLE))) == {}
