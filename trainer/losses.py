"""InfoNCE, plain and graded, and query-view entropy as pure functions of scores and boolean masks.

Axes: B queries (rows), N candidates of a row (column 0 is the positive), P passages of the batch, R rows that have a
generated negative, V valid and G generated candidates of all rows, D width. Masks are True where a candidate counts;
ragged rows are padded with False.
Source: Zhang et al., "When Hard Negatives Hurt", KDD 2026, arXiv 2606.01304.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


def info_nce(scores_BN: Tensor, valid_BN: Tensor, temperature: float) -> Tensor:
    """InfoNCE of each row, [B]: -log softmax(scores / temperature) of column 0 among the valid candidates.

    All-equal scores give log(number of valid candidates); a row with nothing but its positive gives 0.
    """
    logits_BN = (scores_BN / temperature).masked_fill(~valid_BN, float("-inf"))
    return torch.logsumexp(logits_BN, dim=1) - logits_BN[:, 0]


def graded_target(grades_BN: Tensor, sharpness: float) -> Tensor:
    """The share of the softmax that each candidate should get, [B, N]: exp(sharpness * grade), normalised.

    `grades_BN` is how relevant a candidate is, 0 to 1: 1 for a positive, 0 for what is irrelevant, not judged or not
    there, which gets no share. Every row needs a grade above 0.
    """
    return (sharpness * grades_BN).masked_fill(grades_BN <= 0, float("-inf")).softmax(dim=1)


def graded_info_nce(
    scores_BN: Tensor, valid_BN: Tensor, grades_BN: Tensor, temperature: float, sharpness: float
) -> Tensor:
    """Cross-entropy of each row's `graded_target` with softmax(scores / temperature) over the valid candidates, [B].

    Sharpness to infinity is InfoNCE with the target spread evenly over the candidates of the highest grade. The target
    falls on valid candidates only.
    """
    logits_BN = (scores_BN / temperature).masked_fill(~valid_BN, float("-inf"))
    return _cross_entropy(logits_BN, logits_BN, graded_target(grades_BN.to(logits_BN.dtype), sharpness))


def _cross_entropy(logits_BN: Tensor, own_BM: Tensor, target_BM: Tensor) -> Tensor:
    """[B]: the target over M candidates whose logits are `own_BM`, with the softmax over all N."""
    # 0 * -inf is 0: what gets no share of the target must not become NaN, in the value or in the gradient.
    return torch.logsumexp(logits_BN, dim=1) - (target_BM * torch.where(target_BM > 0, own_BM, 0.0)).sum(dim=1)


@dataclass(frozen=True, slots=True)
class QueryView:
    """The query's view of its negatives, for the R rows that have a generated one, in row order.

    entropy_R: entropy of the softmax renormalised over the generated negatives, 0 to log |G|.
    mass_R, expected_R: softmax mass on the generated negatives, and its target |G| / (|G| + |M|).
    num_generated_R: |G|.
    """

    entropy_R: Tensor
    mass_R: Tensor
    expected_R: Tensor
    num_generated_R: Tensor

    @property
    def loss(self) -> Tensor:
        """-entropy + (mass - expected)^2 of each row, [R]: low when none of them stands out and none is ignored."""
        return (self.mass_R - self.expected_R) ** 2 - self.entropy_R

    @property
    def entropy_ratio(self) -> Tensor:
        """entropy / log |G| of each row, [R], 0 to 1; a single generated negative counts as 1."""
        most = torch.log(self.num_generated_R)
        return torch.where(most > 0, self.entropy_R / most.clamp(min=1e-9), 1.0)


def mined_mask(valid_BN: Tensor, generated_BN: Tensor) -> Tensor:
    """The negatives [B, N] that were not generated: what is valid, without column 0."""
    mined_BN = valid_BN & ~generated_BN
    mined_BN[:, 0] = False
    return mined_BN


def query_view(scores_BN: Tensor, mined_BN: Tensor, generated_BN: Tensor, temperature: float) -> QueryView:
    """The parts of the query-view entropy loss, from `negative_scores` and the masks of the two origins.

    Rows without a generated negative are left out. Uniform scores give entropy log |G| and mass = expected.
    """
    has_generated = generated_BN.any(dim=1)
    scores, mined, generated = scores_BN[has_generated], mined_BN[has_generated], generated_BN[has_generated]
    logits = scores / temperature
    generated_logits = logits.masked_fill(~generated, float("-inf"))
    log_sum_generated = torch.logsumexp(generated_logits, dim=1)
    log_sum_all = torch.logsumexp(logits.masked_fill(~(mined | generated), float("-inf")), dim=1)
    log_p = generated_logits - log_sum_generated[:, None]
    num_generated = generated.sum(dim=1).to(scores.dtype)
    return QueryView(
        # 0 * log 0 is 0: the masked entries must not become NaN, in the value or in the gradient.
        entropy_R=-(log_p.exp() * torch.where(generated, log_p, 0.0)).sum(dim=1),
        mass_R=torch.exp(log_sum_generated - log_sum_all),
        expected_R=num_generated / (mined | generated).sum(dim=1),
        num_generated_R=num_generated,
    )


def weigh_generated(scores_BN: Tensor, generated_BN: Tensor, temperature: float, weight: float) -> Tensor:
    """Scores with the generated ones lowered so that in a softmax each counts as `weight` passages (1: as they are).

    They sit so close to the positive that otherwise they take nearly all of the gradient. weight > 0.
    """
    return scores_BN + torch.where(generated_BN, math.log(weight) * temperature, 0.0)


def candidate_scores(queries_BD: Tensor, candidates_BND: Tensor) -> Tensor:
    """Inner products [B, N] of each query with its own candidates."""
    return torch.einsum("bd,bnd->bn", queries_BD, candidates_BND)


def negative_scores(queries_BD: Tensor, candidates_BND: Tensor, generated_BN: Tensor) -> Tensor:
    """The same scores [B, N], but gradient flows through the embeddings of generated candidates alone.

    The entropy term may move generated passages; it must not teach the query or the mined ones to hide the difference.
    """
    candidates_BND = torch.where(generated_BN[..., None], candidates_BND, candidates_BND.detach())
    return candidate_scores(queries_BD.detach(), candidates_BND)


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSums:
    """Sums over rows, so that parts of a batch add up exactly; divide by the whole batch's counts for the means."""

    info_nce: Tensor
    query_view: Tensor
    entropy_ratio: float
    mass: float
    expected_mass: float
    num_rows: int
    num_generated_rows: int
    num_masked: int


def loss_sums(
    queries_BD: Tensor,
    passages_PD: Tensor,
    candidates_BN: Tensor,
    valid_BN: Tensor,
    generated_BN: Tensor,
    *,
    temperature: float,
    entropy_temperature: float,
    in_batch_BP: Tensor | None = None,
    generated_weight: float = 1.0,
    grades_BN: Tensor | None = None,
    grade_sharpness: float = 1.0,
    mask_above: float | None = None,
) -> LossSums:
    """Both losses, summed over the rows of a batch.

    `candidates_BN` points into `passages_PD`; `in_batch_BP` marks the passages of other rows that count as further
    negatives in InfoNCE, never a row's own (None: no others, the paper's setting). The query view has the row's own
    negatives only.
    Departures from the paper in InfoNCE, off here: `generated_weight` is what a row's own generated negative counts
    for, where another counts for 1; `grades_BN` (1 in column 0, 0 where not judged) makes it graded InfoNCE with
    `grade_sharpness`; `mask_above` leaves out mined and in-batch negatives of grade 0 that score above the positive by
    more than this.
    """
    mined_BN = mined_mask(valid_BN, generated_BN)
    maskable_BN = mined_BN if grades_BN is None else mined_BN & (grades_BN <= 0)

    num_masked = 0
    if in_batch_BP is None:
        # embedding() instead of an index: its gradient is several times faster.
        scores_BN = candidate_scores(queries_BD, nn.functional.embedding(candidates_BN, passages_PD))
        counted_BN = valid_BN
        if mask_above is not None:
            masked_BN = maskable_BN & (scores_BN.detach() > scores_BN.detach()[:, :1] + mask_above)
            counted_BN, num_masked = valid_BN & ~masked_BN, int(masked_BN.sum())
        weighed_BN = weigh_generated(scores_BN, generated_BN, temperature, generated_weight)
        if grades_BN is None:
            info_nce_B = info_nce(weighed_BN, counted_BN, temperature)
        else:
            info_nce_B = graded_info_nce(weighed_BN, counted_BN, grades_BN, temperature, grade_sharpness)
    else:
        # All scores at once; a row's own candidates, which are distinct passages, are looked up among them.
        scores_BP = queries_BD @ passages_PD.T
        scores_BN = scores_BP.detach().gather(1, candidates_BN)
        row_V, column_V = valid_BN.nonzero(as_tuple=True)
        own_V = candidates_BN[row_V, column_V]
        counted_BP = in_batch_BP.index_put((row_V, own_V), torch.ones_like(own_V, dtype=torch.bool))
        if mask_above is not None:
            kept_V = ~maskable_BN[row_V, column_V]
            above_BP = scores_BP.detach() > scores_BN[:, :1] + mask_above
            masked_BP = counted_BP & above_BP.index_put((row_V[kept_V], own_V[kept_V]), kept_V.new_tensor(False))
            counted_BP, num_masked = counted_BP & ~masked_BP, int(masked_BP.sum())
        logits_BP = scores_BP / temperature
        if generated_weight != 1:
            weighed_BN = weigh_generated(scores_BN, generated_BN, temperature, generated_weight)
            offset_V = (weighed_BN - scores_BN)[row_V, column_V] / temperature
            logits_BP.index_put_((row_V, own_V), offset_V, accumulate=True)
        logits_BP.masked_fill_(~counted_BP, float("-inf"))
        if grades_BN is None:
            positive_B = logits_BP.gather(1, candidates_BN[:, :1]).squeeze(1)
            info_nce_B = torch.logsumexp(logits_BP, dim=1) - positive_B
        else:
            target_BN = graded_target(grades_BN.to(logits_BP.dtype), grade_sharpness)
            info_nce_B = _cross_entropy(logits_BP, logits_BP.gather(1, candidates_BN), target_BN)
    # The query's view has a gradient through the generated passages alone, as in `negative_scores`.
    row_G, column_G = generated_BN.nonzero(as_tuple=True)
    generated_GD = nn.functional.embedding(candidates_BN[row_G, column_G], passages_PD)
    scores_G = (queries_BD.detach()[row_G] * generated_GD).sum(dim=1)
    view = query_view(
        scores_BN.detach().index_put((row_G, column_G), scores_G), mined_BN, generated_BN, entropy_temperature
    )
    return LossSums(
        info_nce=info_nce_B.sum(),
        query_view=view.loss.sum(),
        entropy_ratio=float(view.entropy_ratio.detach().sum()),
        mass=float(view.mass_R.detach().sum()),
        expected_mass=float(view.expected_R.sum()),
        num_rows=len(queries_BD),
        num_generated_rows=len(view.mass_R),
        num_masked=num_masked,
    )
