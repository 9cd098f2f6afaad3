import pytest

from data.base.errors import InputError
from evals.diagnostics.embedded_rows import GENERATED, MINED, POSITIVE, embed_rows
from tests.evals.synthetic import TableEncoder, generated, mined, row


def test_each_distinct_text_is_encoded_once_and_scores_are_inner_products() -> None:
    encoder = TableEncoder()
    rows = [row(0, [mined("shared"), generated("own")]), row(1, [mined("shared")])]
    embedded = embed_rows(rows, encoder)
    assert sorted(encoder.asked) == ["answer 0", "answer 1", "own", "query 0", "query 1", "shared"]
    assert embedded.kind_P.tolist() == [POSITIVE, MINED, GENERATED, POSITIVE, MINED]
    assert embedded.row_P.tolist() == [0, 0, 0, 1, 1]
    query, passage = encoder.encode(["query 1"], "query")[0], encoder.encode(["shared"], "document")[0]
    assert embedded.scores_P[4] == pytest.approx(float(query @ passage), abs=1e-6)
    assert embedded.negative(2).text == "own"
    assert embedded.positive_R.tolist() == [0, 3]


def test_negatives_that_repeat_a_positive_or_each_other_are_left_out() -> None:
    rows = [row(0, [mined("Answer  0"), generated("a"), generated("A ")])]
    assert embed_rows(rows, TableEncoder()).texts_P == ("answer 0", "a")


@pytest.mark.parametrize(
    ("rows", "message"),
    [([], "there are no rows"), ([row(0, [])], "none of the rows has a negative")],
)
def test_nothing_to_look_at_is_one_clear_line(rows: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        embed_rows(rows, TableEncoder())


def test_vectors_that_are_not_finite_are_refused() -> None:
    with pytest.raises(InputError, match="NaN or infinity"):
        embed_rows([row(0, [mined("m")])], TableEncoder({"m": [float("nan")] * 8}))
