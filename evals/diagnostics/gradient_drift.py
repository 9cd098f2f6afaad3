"""Where the generated negatives pull: the gradient of InfoNCE, plain or graded, with them against without them.

Axes: R rows with both kinds of negatives, D width. Closed forms in the embeddings, autograd for a model's parameters.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from data.base.errors import InputError
from data.base.stats import Floats, Interval, bootstrap_interval
from data.records import Row
from evals.diagnostics.embedded_rows import GENERATED, MINED, EmbeddedRows, Ints
from trainer.encoder import Encoder
from trainer.losses import candidate_scores, graded_info_nce, graded_target, info_nce


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingDrift:
    """Drift at the embeddings, averaged over rows with a 95% interval.

    angle: degrees between the two gradients of the query embedding, 0 (same direction) to 180.
    query_norm_ratio, positive_norm_ratio: median of |gradient with| / |gradient without| for query and positive (both
    gradients of a positive have one direction). share_above_90: rows whose direction turns by more than 90 degrees.
    """

    angle: Interval
    query_norm_ratio: float
    positive_norm_ratio: float
    share_above_90: float
    num_rows: int


def embedding_drift(
    embedded: EmbeddedRows, *, temperature: float, normalized: bool, grade_sharpness: float | None = None
) -> EmbeddingDrift:
    """Drift of the gradients that reach the query's and the positive's embedding.

    `grade_sharpness`: with the generated negatives it is graded InfoNCE, in which they are as relevant as their
    verdicts say (None: plain).
    `normalized`: embeddings have length 1, so only the part of a gradient at right angles to them reaches the encoder.
    Rows without a generated negative, or without a mined one, have nothing to compare and are left out.
    Raises InputError when no row is left.
    """
    angles, query_ratios, positive_ratios = [], [], []
    for positive, mined, generated in _rows_with_both(embedded):
        row = embedded.row_P[positive]
        query_D, positive_D = embedded.queries_RD[row], embedded.passages_PD[positive]
        without = _gradients(query_D, embedded.passages_PD[[positive, *mined]], temperature)
        target_N = None
        if grade_sharpness is not None:
            grades = [1.0, *[0.0] * len(mined), *(embedded.negative(int(p)).relevance or 0.0 for p in generated)]
            target_N = graded_target(torch.tensor([grades], dtype=torch.float64), grade_sharpness)[0].numpy()
        with_them = _gradients(query_D, embedded.passages_PD[[positive, *mined, *generated]], temperature, target_N)
        if normalized:
            without, with_them = (
                (_tangent(for_query, query_D), _tangent(for_positive, positive_D))
                for for_query, for_positive in (without, with_them)
            )
        angles.append(angle_between(without[0], with_them[0]))
        query_ratios.append(_norm_ratio(with_them[0], without[0]))
        positive_ratios.append(_norm_ratio(with_them[1], without[1]))
    if not angles:
        raise InputError("gradient drift needs rows that have both mined and generated negatives; there are none")
    return EmbeddingDrift(
        angle=bootstrap_interval(angles),
        query_norm_ratio=float(np.median(query_ratios)),
        positive_norm_ratio=float(np.median(positive_ratios)),
        share_above_90=float(np.mean(np.array(angles) > 90)),
        num_rows=len(angles),
    )


def _rows_with_both(embedded: EmbeddedRows) -> list[tuple[int, Ints, Ints]]:
    found = []
    for row, positive in enumerate(embedded.positive_R):
        own = embedded.row_P == row
        mined = np.flatnonzero(own & (embedded.kind_P == MINED))
        generated = np.flatnonzero(own & (embedded.kind_P == GENERATED))
        if len(mined) and len(generated):
            found.append((int(positive), mined, generated))
    return found


def _gradients(
    query_D: Floats, candidates_ND: Floats, temperature: float, target_N: Floats | None = None
) -> tuple[Floats, Floats]:
    """Gradients for the query and for the positive (candidate 0), of InfoNCE or of the cross-entropy of a target."""
    logits_N = candidates_ND @ query_D / temperature
    weights_N = np.exp(logits_N - logits_N.max())
    weights_N /= weights_N.sum()
    pulls_N = weights_N if target_N is None else weights_N - target_N
    # The positive's, summed from the others' so that it does not vanish by rounding.
    pulls_N[0] = -pulls_N[1:].sum()
    return (pulls_N @ candidates_ND) / temperature, pulls_N[0] * query_D / temperature


def _tangent(gradient_D: Floats, point_D: Floats) -> Floats:
    direction_D = point_D / np.linalg.norm(point_D)
    return np.asarray(gradient_D - (gradient_D @ direction_D) * direction_D)


def angle_between(first_D: Floats, second_D: Floats) -> float:
    """Degrees between two vectors, exact for small angles too; 0 if both are zero, 90 if one is."""
    norms = float(np.linalg.norm(first_D)), float(np.linalg.norm(second_D))
    if not min(norms):
        return 90.0 if max(norms) else 0.0
    first_D, second_D = first_D / norms[0], second_D / norms[1]
    return float(np.degrees(2 * np.arctan2(np.linalg.norm(first_D - second_D), np.linalg.norm(first_D + second_D))))


def _norm_ratio(first_D: Floats, second_D: Floats) -> float:
    below = float(np.linalg.norm(second_D))
    return float(np.linalg.norm(first_D)) / below if below else float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterDrift:
    """Drift at the model's parameters, on the gradient summed over a sample of rows.

    angle: degrees between the gradients with and without the generated negatives. chance_angle: between the gradients
    of the two halves of the same rows, both without generated negatives: how much the choice of rows alone turns it.
    """

    angle: float
    norm_ratio: float
    chance_angle: float
    num_rows: int


def parameter_drift(
    rows: Sequence[Row],
    encoder: Encoder,
    *,
    temperature: float,
    grade_sharpness: float | None = None,
    num_rows: int = 8,
    seed: int = 0,
) -> ParameterDrift:
    """Drift of the whole model's gradient over a seeded sample of rows that have both kinds of negatives.

    `grade_sharpness` as for `embedding_drift`. Without dropout; the encoder's gradients are left as None.
    Raises InputError when there are fewer than 2 such rows.
    """
    usable = [row for row in rows if row.of_source("mined") and row.of_source("generated")]
    if len(usable) < 2:
        raise InputError("parameter drift needs at least 2 rows that have both mined and generated negatives")
    order = np.random.default_rng(seed).permutation(len(usable))[:num_rows]
    sample = [usable[i] for i in order]
    was_training = encoder.training
    encoder.eval()
    try:
        half = len(sample) // 2
        first = _parameter_gradient(sample[:half], encoder, temperature, generated=False)
        second = _parameter_gradient(sample[half:], encoder, temperature, generated=False)
        with_them = _parameter_gradient(sample, encoder, temperature, generated=True, sharpness=grade_sharpness)
    finally:
        encoder.train(was_training)
        encoder.zero_grad(set_to_none=True)
    return ParameterDrift(
        angle=angle_between(first + second, with_them),
        norm_ratio=_norm_ratio(with_them, first + second),
        chance_angle=angle_between(first, second),
        num_rows=len(sample),
    )


def _parameter_gradient(
    rows: Sequence[Row], encoder: Encoder, temperature: float, *, generated: bool, sharpness: float | None = None
) -> Floats:
    encoder.zero_grad(set_to_none=True)
    for row in rows:  # row by row: any number of negatives fits into memory
        negatives = row.negatives if generated else row.of_source("mined")
        texts = [row.positives[0].text, *(negative.text for negative in negatives)]
        scores_1N = candidate_scores(encoder.embed([row.query], "query"), encoder.embed(texts, "document")[None])
        valid_1N = torch.ones_like(scores_1N, dtype=torch.bool)
        if sharpness is None:
            loss = info_nce(scores_1N, valid_1N, temperature).sum()
        else:
            of_generated = (n.relevance or 0.0 if n.source == "generated" else 0.0 for n in negatives)
            grades_1N = scores_1N.new_tensor([[1.0, *of_generated]])
            loss = graded_info_nce(scores_1N, valid_1N, grades_1N, temperature, sharpness).sum()
        loss.backward()  # type: ignore[no-untyped-call]
    parts = [p.grad.detach().cpu().double().flatten() for p in encoder.parameters() if p.grad is not None]
    return np.asarray(torch.cat(parts).numpy(), dtype=np.float64)
