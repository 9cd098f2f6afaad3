from dataclasses import replace

import numpy as np
import pytest
import torch

from data.base.errors import InputError
from evals.diagnostics.embedded_rows import embed_rows
from evals.diagnostics.gradient_drift import EmbeddingDrift, angle_between, embedding_drift, parameter_drift
from tests.evals.synthetic import TableEncoder, generated, mined, row
from trainer.losses import candidate_scores, graded_info_nce, info_nce


def autograd(
    query: np.ndarray, candidates: np.ndarray, temperature: float, normalized: bool, grades: list[float] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients for query and positive; with `normalized` through the division by their length."""
    q, p = (torch.tensor(v, requires_grad=True) for v in (query, candidates[0]))
    unit = (lambda v: v / v.norm()) if normalized else (lambda v: v)
    all_ND = torch.cat([unit(p)[None], torch.tensor(candidates[1:])])
    scores = candidate_scores(unit(q)[None], all_ND[None])
    valid = torch.ones_like(scores, dtype=torch.bool)
    if grades is None:
        info_nce(scores, valid, temperature).sum().backward()
    else:
        graded_info_nce(scores, valid, torch.tensor([grades]), temperature, 3.0).sum().backward()
    return q.grad.numpy(), p.grad.numpy()


Gradients = tuple[np.ndarray, np.ndarray]


def assert_drift(found: EmbeddingDrift, without: Gradients, with_them: Gradients) -> None:
    assert found.angle.mean == pytest.approx(angle_between(without[0], with_them[0]), abs=1e-6)
    ratios = tuple(np.linalg.norm(w) / np.linalg.norm(o) for w, o in zip(with_them, without, strict=True))
    assert (found.query_norm_ratio, found.positive_norm_ratio) == pytest.approx(ratios, rel=1e-6)


@pytest.mark.parametrize("normalized", [True, False])
def test_the_closed_form_equals_autograd(normalized: bool) -> None:
    embedded = embed_rows([row(0, [mined("a"), mined("b"), generated("c"), generated("d")])], TableEncoder())
    query, passages = embedded.queries_RD[0], embedded.passages_PD
    assert_drift(
        embedding_drift(embedded, temperature=0.2, normalized=normalized),
        autograd(query, passages[:3], 0.2, normalized),
        autograd(query, passages, 0.2, normalized),
    )


def test_the_graded_gradient_equals_autograd() -> None:
    negatives = [
        mined("a"),
        replace(generated("c"), grade=0.5),
        replace(mined("b"), grade=0.9),
        generated("d", answers=None),
    ]
    embedded = embed_rows([row(0, negatives)], TableEncoder())
    # The grade of a mined negative is not believed, and what has no grade gets none of the target.
    query, passages = embedded.queries_RD[0], embedded.passages_PD[[0, 1, 3, 2, 4]]
    assert_drift(
        embedding_drift(embedded, temperature=0.2, normalized=True, grade_sharpness=3.0),
        autograd(query, passages[:3], 0.2, True),
        autograd(query, passages, 0.2, True, [1.0, 0.0, 0.0, 0.5, 0.0]),
    )


def test_the_graded_parameter_drift_nears_the_plain_one() -> None:
    rows = [row(i, [mined(f"corpus {i}"), replace(generated(f"written {i}"), grade=0.9)]) for i in range(4)]
    plain, near, graded = (
        parameter_drift(rows, TinyEncoder(), temperature=0.5, num_rows=4, grade_sharpness=sharpness)  # type: ignore[arg-type]
        for sharpness in (None, 1e4, 1.0)
    )
    assert near.angle == pytest.approx(plain.angle, abs=1e-3)
    assert abs(graded.angle - plain.angle) > 1


def test_a_generated_negative_far_away_changes_nothing() -> None:
    table = {"query 0": [1, 0], "answer 0": [1, 0], "m": [0.6, 0.8], "g": [-1.0, 0.0]}
    embedded = embed_rows([row(0, [mined("m"), generated("g")])], TableEncoder(table))
    found = embedding_drift(embedded, temperature=0.05, normalized=False)
    assert found.angle.mean == pytest.approx(0, abs=1e-6)
    assert found.query_norm_ratio == pytest.approx(1, abs=1e-6)


def test_a_generated_negative_on_the_other_side_turns_the_gradient() -> None:
    """The mined one pulls the query up, the generated one, as near, down and three times as strong by its number."""
    table = {
        "query 0": [1, 0],
        "answer 0": [1, 0],
        "m": [0.8, 0.6],
        "a": [0.8, -0.6],
        "b": [0.8, -0.6],
        "c": [0.8, -0.6],
    }
    embedded = embed_rows([row(0, [mined("m"), *map(generated, "abc")])], TableEncoder(table))
    found = embedding_drift(embedded, temperature=0.05, normalized=True)
    assert found.angle.mean == pytest.approx(180, abs=1e-4)
    assert found.share_above_90 == 1.0


def test_rows_without_both_kinds_are_left_out_and_none_is_one_clear_line() -> None:
    rows = [row(0, [mined("m")]), row(1, [generated("g")])]
    with pytest.raises(InputError, match="both mined and generated"):
        embedding_drift(embed_rows(rows, TableEncoder()), temperature=0.05, normalized=True)
    rows.append(row(2, [mined("m"), generated("g")]))
    assert embedding_drift(embed_rows(rows, TableEncoder()), temperature=0.05, normalized=True).num_rows == 1


@pytest.mark.parametrize(
    ("first", "second", "degrees"),
    [([1, 0], [0, 2], 90), ([1, 1], [2, 2], 0), ([1, 0], [-3, 0], 180), ([0, 0], [0, 0], 0), ([0, 0], [1, 0], 90)],
)
def test_angles(first: list, second: list, degrees: float) -> None:
    assert angle_between(np.array(first, float), np.array(second, float)) == pytest.approx(degrees)


class TinyEncoder(torch.nn.Module):
    """Embeds a text as the mean of its letters' rows in one trainable table."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Parameter(torch.randn(128, 6))

    def embed(self, texts: list[str], role: str) -> torch.Tensor:
        return torch.stack([self.table[[ord(c) for c in text]].mean(dim=0) for text in texts])


def test_parameter_drift_equals_the_gradients_taken_one_by_one_and_leaves_none_behind() -> None:
    rows = [row(i, [mined(f"corpus {i}"), generated(f"written {i}")]) for i in range(4)] + [row(9, [mined("m")])]
    encoder = TinyEncoder()
    found = parameter_drift(rows, encoder, temperature=0.5, num_rows=4)  # type: ignore[arg-type]
    assert encoder.table.grad is None
    sums = []
    for with_generated in (False, True):
        encoder.zero_grad()
        for r in rows[:4]:
            texts = [r.positives[0].text] + [n.text for n in r.negatives if with_generated or n.source == "mined"]
            scores = encoder.embed([r.query], "query") @ encoder.embed(texts, "document").T / 0.5
            torch.nn.functional.cross_entropy(scores, torch.tensor([0])).backward()
        sums.append(encoder.table.grad.double().flatten().numpy().copy())
    assert found.angle == pytest.approx(angle_between(*sums), abs=1e-3)
    assert found.norm_ratio == pytest.approx(np.linalg.norm(sums[1]) / np.linalg.norm(sums[0]), rel=1e-5)
    assert found.num_rows == 4
    with pytest.raises(InputError, match="at least 2 rows"):
        parameter_drift(rows[:1], encoder, temperature=0.5)  # type: ignore[arg-type]
