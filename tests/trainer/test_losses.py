"""Closed forms, hand-computed ragged rows, gradients: who may be moved by which term."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from trainer.losses import (
    candidate_scores,
    graded_info_nce,
    graded_target,
    info_nce,
    loss_sums,
    negative_scores,
    query_view,
    weigh_generated,
)

TEMPERATURE, ENTROPY_TEMPERATURE = 0.05, 0.1
sums_of = partial(loss_sums, temperature=TEMPERATURE, entropy_temperature=ENTROPY_TEMPERATURE)


def masks(*rows: str) -> tuple[Tensor, Tensor, Tensor]:
    """valid, mined and generated masks from strings like "pmmg-" (positive, mined, generated, padding)."""
    return tuple(torch.tensor([[c in kinds for c in row] for row in rows]) for kinds in ("pmg", "m", "g"))  # type: ignore[return-value]


@pytest.mark.parametrize("num_candidates", [1, 2, 7, 19])
def test_equal_scores_give_info_nce_log_n(num_candidates: int) -> None:
    scores = torch.full((3, 20), 0.37, dtype=torch.float64)
    valid = (torch.arange(20) < num_candidates).expand(3, 20)
    expected = torch.full((3,), math.log(num_candidates), dtype=torch.float64)
    torch.testing.assert_close(info_nce(scores, valid, TEMPERATURE), expected)


def test_info_nce_does_not_depend_on_a_constant_or_on_padding() -> None:
    scores = torch.randn(4, 6, dtype=torch.float64, generator=torch.manual_seed(0))
    valid, _, _ = masks("pmmgg-", "pm----", "pmmmmm", "p-----")
    loss = info_nce(scores, valid, TEMPERATURE)
    torch.testing.assert_close(info_nce(scores + 0.3, valid, TEMPERATURE), loss)
    torch.testing.assert_close(info_nce(torch.where(valid, scores, 99.0), valid, TEMPERATURE), loss)
    assert loss[3] == 0 and (loss >= 0).all()


@pytest.mark.parametrize(("mined", "generated"), [(0, 1), (0, 4), (15, 1), (15, 3), (2, 8)])
def test_uniform_scores_give_entropy_log_g_and_balance_zero(mined: int, generated: int) -> None:
    row = "p" + "m" * mined + "g" * generated + "--"
    _, mined_BN, generated_BN = masks(row)
    view = query_view(torch.full((1, len(row)), 0.4, dtype=torch.float64), mined_BN, generated_BN, ENTROPY_TEMPERATURE)
    assert view.entropy_R.item() == pytest.approx(math.log(generated), abs=1e-12)
    assert view.mass_R.item() == pytest.approx(generated / (generated + mined), abs=1e-12)
    assert view.loss.item() == pytest.approx(-math.log(generated), abs=1e-12)
    assert view.entropy_ratio.item() == pytest.approx(1.0)


def test_one_dominant_generated_negative_gives_entropy_zero_and_full_mass() -> None:
    _, mined, generated = masks("pmmggg")
    view = query_view(torch.tensor([[0.0, 0.0, 0.0, 100.0, 0.0, 0.0]]), mined, generated, ENTROPY_TEMPERATURE)
    assert view.entropy_R.item() == pytest.approx(0.0, abs=1e-6)
    assert view.mass_R.item() == pytest.approx(1.0)
    assert view.loss.item() == pytest.approx((1 - 3 / 5) ** 2, abs=1e-6)


def test_rows_without_generated_negatives_are_left_out() -> None:
    scores = torch.randn(3, 5, generator=torch.manual_seed(1), requires_grad=True)
    _, mined, generated = masks("pmmgg", "pmmm-", "p----")
    view = query_view(scores, mined, generated, ENTROPY_TEMPERATURE)
    assert view.loss.shape == (1,)
    view.loss.sum().backward()
    assert scores.grad is not None and torch.isfinite(scores.grad).all()
    assert scores.grad[1:].abs().sum() == 0
    none = query_view(scores[1:], mined[1:], generated[1:], ENTROPY_TEMPERATURE)
    assert none.loss.sum().item() == 0


def test_ragged_batch_by_hand() -> None:
    # Two queries in the plane; passages at known angles, so that every score is a number one can write down.
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    passages = torch.tensor([[0.9, 0.1], [0.6, 0.7], [0.8, 0.3], [0.5, 0.5], [0.2, 0.4]], dtype=torch.float64)
    candidates = torch.tensor([[0, 1, 2, 3], [1, 4, 0, 0]])
    valid, _, generated = masks("pmgg", "pm--")
    sums = sums_of(queries, passages, candidates, valid, generated)
    first = -math.log(math.exp(18) / (math.exp(18) + math.exp(12) + math.exp(16) + math.exp(10)))
    second = -math.log(math.exp(14) / (math.exp(14) + math.exp(8)))
    weights = [math.exp(6), math.exp(8), math.exp(5)]  # mined 0.6, generated 0.8 and 0.5, each over 0.1
    shares = [weights[1] / (weights[1] + weights[2]), weights[2] / (weights[1] + weights[2])]
    entropy = -sum(share * math.log(share) for share in shares)
    mass = (weights[1] + weights[2]) / sum(weights)
    assert sums.info_nce.item() == pytest.approx(first + second, rel=1e-12)
    assert sums.query_view.item() == pytest.approx(-entropy + (mass - 2 / 3) ** 2, rel=1e-12)
    assert (sums.num_rows, sums.num_generated_rows) == (2, 1)
    assert sums.mass == pytest.approx(mass) and sums.expected_mass == pytest.approx(2 / 3)
    assert sums.entropy_ratio == pytest.approx(entropy / math.log(2))


def random_batch(rows: tuple[str, ...], seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.manual_seed(seed)
    queries = torch.randn(len(rows), 6, dtype=torch.float64, generator=generator)
    queries = torch.nn.functional.normalize(queries, dim=-1)
    valid, _, generated = masks(*rows)
    passages = torch.nn.functional.normalize(torch.randn(valid.numel(), 6, dtype=torch.float64, generator=generator))
    candidates = torch.arange(valid.numel()).view(valid.shape)
    return queries, passages, candidates, valid, generated


ROWS = ("pmmgg", "pmggg", "pmm--", "pg---", "p----")


def test_entropy_term_moves_generated_embeddings_and_nothing_else() -> None:
    queries, passages, candidates, valid, generated = random_batch(ROWS)
    queries.requires_grad_()
    passages.requires_grad_()
    sums = sums_of(queries, passages, candidates, valid, generated)
    (passage_gradient,) = torch.autograd.grad(sums.query_view, [passages], retain_graph=True)
    # "pg" has one generated negative and nothing to balance it against: its entropy and balance are constant.
    moving = generated.clone()
    moving[3] = False
    norms = passage_gradient.norm(dim=1).view(valid.shape)
    assert (norms[moving] > 0).all()
    assert (norms[~moving] == 0).all()
    assert torch.autograd.grad(sums.query_view, [queries], allow_unused=True, retain_graph=True) == (None,)
    info_nce_gradient = torch.autograd.grad(sums.info_nce, [passages])[0].norm(dim=1).view(valid.shape)
    assert (info_nce_gradient[:4][valid[:4]] > 0).all() and (info_nce_gradient[~valid] == 0).all()


def test_gradients_agree_with_finite_differences() -> None:
    queries, passages, candidates, valid, generated = random_batch(("pmgg", "pmm-", "pggg"))
    in_batch = torch.rand(3, len(passages), generator=torch.manual_seed(2)) > 0.5

    def info(q: Tensor, p: Tensor) -> Tensor:
        return loss_sums(
            q, p, candidates, valid, generated, temperature=0.3, entropy_temperature=0.5, in_batch_BP=in_batch
        ).info_nce

    assert torch.autograd.gradcheck(info, (queries.requires_grad_(), passages.requires_grad_()))

    def view(generated_passages: Tensor) -> Tensor:
        # Only these carry a gradient in the entropy term, so only these can be compared with differences.
        full = passages.detach().clone()
        full[candidates[generated]] = generated_passages
        return loss_sums(
            queries.detach(), full, candidates, valid, generated, temperature=0.3, entropy_temperature=0.5
        ).query_view

    assert torch.autograd.gradcheck(view, (passages.detach()[candidates[generated]].requires_grad_(),))


def test_sums_of_parts_are_the_sum_of_the_whole() -> None:
    queries, passages, candidates, valid, generated = random_batch(ROWS)
    whole = sums_of(queries, passages, candidates, valid, generated)
    parts = [
        sums_of(queries[rows], passages, candidates[rows], valid[rows], generated[rows])
        for rows in (slice(0, 2), slice(2, 3), slice(3, 5))
    ]
    for name in ("info_nce", "query_view", "num_rows", "num_generated_rows", "mass", "entropy_ratio"):
        assert float(sum(getattr(part, name) for part in parts)) == pytest.approx(float(getattr(whole, name)))


def test_in_batch_passages_enter_info_nce_only() -> None:
    queries, passages, candidates, valid, generated = random_batch(ROWS)
    alone = sums_of(queries, passages, candidates, valid, generated)
    nobody = torch.zeros(len(queries), len(passages), dtype=torch.bool)
    everybody = (~nobody).scatter(1, candidates, False)
    same = sums_of(queries, passages, candidates, valid, generated, in_batch_BP=nobody)
    more = sums_of(queries, passages, candidates, valid, generated, in_batch_BP=everybody)
    torch.testing.assert_close(same.info_nce, alone.info_nce)
    assert more.info_nce > alone.info_nce
    torch.testing.assert_close(more.query_view, alone.query_view)


def test_the_two_kinds_of_scores_are_equal_numbers() -> None:
    queries, passages, candidates, _, generated = random_batch(ROWS)
    torch.testing.assert_close(
        candidate_scores(queries, passages[candidates]), negative_scores(queries, passages[candidates], generated)
    )


def test_a_weight_of_two_is_the_same_negative_twice() -> None:
    scores = torch.tensor([[0.8, 0.3, 0.75]], dtype=torch.float64)
    twice = torch.tensor([[0.8, 0.3, 0.75, 0.75]], dtype=torch.float64)
    valid, _, generated = masks("pmg")
    weighed = info_nce(weigh_generated(scores, generated, TEMPERATURE, 2.0), valid, TEMPERATURE)
    torch.testing.assert_close(weighed, info_nce(twice, masks("pmgg")[0], TEMPERATURE))
    torch.testing.assert_close(weigh_generated(scores, generated, TEMPERATURE, 1.0), scores)


def test_a_small_weight_leaves_the_mined_ones_alone() -> None:
    scores = torch.tensor([[0.8, 0.3, 0.75]], dtype=torch.float64)
    valid, _, generated = masks("pmg")
    weighed = info_nce(weigh_generated(scores, generated, TEMPERATURE, 1e-30), valid, TEMPERATURE)
    torch.testing.assert_close(weighed, info_nce(scores, valid & ~generated, TEMPERATURE))


def test_a_weight_changes_info_nce_alone() -> None:
    batch = random_batch(ROWS)
    plain, weighed = sums_of(*batch), sums_of(*batch, generated_weight=0.1)
    torch.testing.assert_close(weighed.query_view, plain.query_view)
    assert weighed.info_nce < plain.info_nce


def random_grades(valid: Tensor, seed: int = 4) -> Tensor:
    """Thirds at random, 0 where nothing is, 1 for the positive."""
    grades = torch.randint(0, 4, valid.shape, generator=torch.manual_seed(seed)) / 3
    grades[:, 0] = 1
    return torch.where(valid, grades, 0.0).double()


def test_graded_targets_by_hand() -> None:
    grades = torch.tensor([[1.0, 2 / 3, 0.0, 1 / 3], [1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    weights = [math.exp(3), math.exp(2), 0, math.exp(1)]
    expected = torch.tensor([[w / sum(weights) for w in weights], [0.5, 0.5, 0, 0], [1, 0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(graded_target(grades, 3.0), expected)


def test_graded_info_nce_by_hand() -> None:
    scores = torch.tensor([[0.9, 0.8, 0.6, 0.3]], dtype=torch.float64)
    grades = torch.tensor([[1.0, 0.5, 0.0, 0.0]], dtype=torch.float64)
    valid, _, _ = masks("pgm-")
    total = sum(math.exp(x) for x in (18, 16, 12))
    share = math.exp(2 * 1.0) / (math.exp(2 * 1.0) + math.exp(2 * 0.5))
    expected = -share * math.log(math.exp(18) / total) - (1 - share) * math.log(math.exp(16) / total)
    assert graded_info_nce(scores, valid, grades, TEMPERATURE, 2.0).item() == pytest.approx(expected, rel=1e-12)


def test_infinite_sharpness_and_rows_without_grades_are_info_nce() -> None:
    scores = torch.randn(4, 6, dtype=torch.float64, generator=torch.manual_seed(0))
    valid, _, _ = masks("pmmgg-", "pm----", "pmmmmg", "p-----")
    grades = random_grades(valid) * 0.9
    grades[:, 0] = 1
    plain = info_nce(scores, valid, TEMPERATURE)
    torch.testing.assert_close(graded_info_nce(scores, valid, grades, TEMPERATURE, 1e6), plain)
    only_positive = torch.zeros_like(grades).index_fill(1, torch.tensor([0]), 1.0)
    torch.testing.assert_close(graded_info_nce(scores, valid, only_positive, TEMPERATURE, 4.0), plain)


@pytest.mark.parametrize("sharpness", [0.5, 4.0, 1e6])
def test_equal_grades_give_the_cross_entropy_to_uniform(sharpness: float) -> None:
    scores = torch.randn(2, 5, dtype=torch.float64, generator=torch.manual_seed(0))
    valid, _, _ = masks("ppggg", "pgg--")
    log_p = (scores / TEMPERATURE).masked_fill(~valid, float("-inf")).log_softmax(dim=1)
    expected = torch.stack([-log_p[0].mean(), -log_p[1, :3].mean()])
    torch.testing.assert_close(graded_info_nce(scores, valid, valid.double(), TEMPERATURE, sharpness), expected)
    # Several positives and nothing else: the least that can be had is log of their number.
    even = graded_info_nce(torch.zeros_like(scores), valid, valid.double(), TEMPERATURE, sharpness)
    torch.testing.assert_close(even, torch.tensor([5.0, 3.0], dtype=torch.float64).log())


def test_the_gradient_is_softmax_minus_target() -> None:
    scores = torch.randn(3, 5, dtype=torch.float64, generator=torch.manual_seed(1), requires_grad=True)
    valid, _, _ = masks("pmggg", "pmg--", "p----")
    grades = random_grades(valid)
    graded_info_nce(scores, valid, grades, TEMPERATURE, 4.0).sum().backward()
    p = (scores.detach() / TEMPERATURE).masked_fill(~valid, float("-inf")).softmax(dim=1)
    torch.testing.assert_close(scores.grad, (p - graded_target(grades, 4.0)) / TEMPERATURE)


@pytest.mark.parametrize("in_batch", [False, True])
def test_graded_sums_agree_with_the_function_and_with_finite_differences(in_batch: bool) -> None:
    queries, passages, candidates, valid, generated = random_batch(ROWS)
    # The second row has a copy of the first row's positive among its own, as one passage of the batch.
    candidates[1, 2] = candidates[0, 0]
    grades = random_grades(valid)
    others = torch.rand(len(queries), len(passages), generator=torch.manual_seed(2)) > 0.5
    others.scatter_(1, candidates, False)

    def graded(q: Tensor, p: Tensor) -> Tensor:
        return loss_sums(
            q, p, candidates, valid, generated, temperature=0.3, entropy_temperature=0.5,
            in_batch_BP=others if in_batch else None, grades_BN=grades, grade_sharpness=3.0,
        ).info_nce  # fmt: skip

    scores = torch.cat([candidate_scores(queries, passages[candidates]), queries @ passages.T], dim=1)
    counted = torch.cat([valid, others & in_batch], dim=1)
    padded = torch.cat([grades, torch.zeros_like(others, dtype=torch.float64)], dim=1)
    torch.testing.assert_close(graded(queries, passages), graded_info_nce(scores, counted, padded, 0.3, 3.0).sum())
    assert torch.autograd.gradcheck(graded, (queries.requires_grad_(), passages.requires_grad_()))


@pytest.mark.parametrize("in_batch", [False, True])
def test_the_mask_leaves_out_unjudged_negatives_above_the_positive(in_batch: bool) -> None:
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    # For the first query: positive 0.5, mined 0.7 and 0.55, generated 0.9; for the second 0.5 and a mined 0.8.
    passages = torch.tensor([[0.5, 0], [0.7, 0], [0.55, 0], [0.9, 0], [0, 0.5], [0.65, 0.8]], dtype=torch.float64)
    candidates = torch.tensor([[0, 1, 2, 3], [4, 5, 0, 0]])
    valid, _, generated = masks("pmmg", "pm--")
    others = torch.ones(2, 6, dtype=torch.bool)
    others[0, :4] = False
    others[1, 4:] = False

    def total(**settings: object) -> tuple[float, int]:
        in_batch_BP = others if in_batch else None
        sums = sums_of(queries, passages, candidates, valid, generated, in_batch_BP=in_batch_BP, **settings)
        return sums.info_nce.item(), sums.num_masked

    def expected(*scores: list[float]) -> float:
        return sum(math.log(sum(math.exp((s - row[0]) / TEMPERATURE) for s in row)) for row in scores)

    assert total()[1] == 0
    # The other row's passages: 0 and 0.65 for the first query, four of 0 for the second.
    first, second = ([0.0], [0.0] * 4) if in_batch else ([], [])
    loss, masked = total(mask_above=0.1)
    assert loss == pytest.approx(expected([0.5, 0.55, 0.9, *first], [0.5, *second]))
    assert masked == (3 if in_batch else 2)
    # A mined one whose verdict gives it a grade is no unknown any more.
    grades = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0]], dtype=torch.float64)
    assert total(mask_above=0.1, grades_BN=grades)[1] == (2 if in_batch else 1)
    assert total(mask_above=9.0) == pytest.approx((total()[0], 0))
