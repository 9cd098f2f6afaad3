"""The losses as modules, for other people's training loops: embeddings in, one number out.

Axes: B queries (rows), N candidates of a row (column 0 is the positive, the others its negatives), D width. Rows with
fewer candidates are padded with anything at all and a `valid_BN` that is False there.
Source: Zhang et al., "When Hard Negatives Hurt", KDD 2026, arXiv 2606.01304; the maths is in trainer/losses.py.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trainer.losses import candidate_scores, info_nce, loss_sums, mined_mask, negative_scores, query_view


class InfoNCE(nn.Module):
    """-log softmax(similarity / temperature) of the positive among a row's own candidates, averaged over rows.

    Args:
        temperature: in units of similarity, above 0 (the paper's: 0.05).

    Similarity is the inner product, so normalise the embeddings first if it is to be the cosine. Raises ValueError for
    a temperature or shapes that do not fit.

    >>> queries_BD = torch.zeros(2, 8)
    >>> candidates_BND = torch.zeros(2, 5, 8)
    >>> loss = InfoNCE()(queries_BD, candidates_BND)
    >>> print(f"{loss:.4f}")  # nothing to choose by: log 5
    1.6094
    """

    def __init__(self, temperature: float = 0.05):
        super().__init__()
        self.temperature = _above_zero("temperature", temperature)

    def forward(self, queries_BD: Tensor, candidates_BND: Tensor, valid_BN: Tensor | None = None) -> Tensor:
        """The mean over rows, a scalar. `valid_BN`: which candidates are there (None: all)."""
        valid_BN = _checked_masks(queries_BD, candidates_BND, valid_BN)[0]
        return info_nce(candidate_scores(queries_BD, candidates_BND), valid_BN, self.temperature).mean()

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}"


class QueryViewEntropy(nn.Module):
    """Keeps generated negatives from giving themselves away to the query: -entropy + (mass - expected mass)^2.

    The query's view of its negatives is softmax(similarity / temperature) over them. Within the generated ones it
    should be even (high entropy); together they should get the share that their number warrants. Averaged over the rows
    that have a generated negative; 0 when none has. Gradient reaches the embeddings of generated candidates alone.

    Args:
        temperature: in units of similarity, above 0 (the paper's: 0.1).

    Add it to InfoNCE with the paper's weight of 0.05. Raises ValueError for a temperature or shapes that do not fit.

    >>> queries_BD, candidates_BND = torch.zeros(1, 8), torch.zeros(1, 5, 8)
    >>> generated_BN = torch.tensor([[False, False, False, True, True]])
    >>> loss = QueryViewEntropy()(queries_BD, candidates_BND, generated_BN)
    >>> print(f"{loss:.4f}")  # even already: -log 2, the least that two can have
    -0.6931
    """

    def __init__(self, temperature: float = 0.1):
        super().__init__()
        self.temperature = _above_zero("temperature", temperature)

    def forward(
        self, queries_BD: Tensor, candidates_BND: Tensor, generated_BN: Tensor, valid_BN: Tensor | None = None
    ) -> Tensor:
        """A scalar. `generated_BN`: which candidates a language model wrote; never column 0."""
        valid_BN, generated_BN = _checked_masks(queries_BD, candidates_BND, valid_BN, generated_BN)
        scores_BN = negative_scores(queries_BD, candidates_BND, generated_BN)
        loss_R = query_view(scores_BN, mined_mask(valid_BN, generated_BN), generated_BN, self.temperature).loss
        return loss_R.sum() / max(len(loss_R), 1)

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}"


class CounterfactualLoss(nn.Module):
    """InfoNCE, plain or graded, and query-view entropy for the trainer of sentence-transformers, over n-tuples.

    The columns of the data set are anchor, positive, negative_1 ... negative_n, and `label`: for each negative 1 if a
    language model wrote it, else 0 (`just convert to=st-origins` writes such lines); or for each negative that and its
    grade, how relevant it is by its verdict, 0 to 1, below 0 where it was not judged (`to=st-graded`). Gives a dict
    with the two terms, which that trainer logs and adds up.

    Args:
        model: the SentenceTransformer that is trained.
        temperature: of InfoNCE, in units of cosine similarity.
        grade_sharpness: graded InfoNCE: a generated negative of grade g is to get a share of the softmax in proportion
            to exp(grade_sharpness * g), where the positive has grade 1 (None: plain InfoNCE).
        entropy_weight: weight of the query-view term (0: InfoNCE alone; None: 0.05, and 0 with graded InfoNCE).
        entropy_temperature: of the query's view, in units of cosine similarity.
        in_batch: whether the other rows' passages are negatives too. Texts that occur in two rows then count as each
            other's negatives: train with batch_sampler="no_duplicates".
        generated_weight: what a generated negative counts for in InfoNCE, where another one counts for 1 (1: the
            paper's setting; None: 0.1, and 1 with graded InfoNCE).

    Raises ValueError for a data set without positives, or whose labels do not fit its negatives.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        temperature: float = 0.05,
        grade_sharpness: float | None = None,
        entropy_weight: float | None = None,
        entropy_temperature: float = 0.1,
        in_batch: bool = False,
        generated_weight: float | None = None,
    ):
        super().__init__()
        plain = grade_sharpness is None
        entropy_weight = (0.05 if plain else 0.0) if entropy_weight is None else entropy_weight
        generated_weight = (0.1 if plain else 1.0) if generated_weight is None else generated_weight
        if grade_sharpness is not None:
            _above_zero("grade_sharpness", grade_sharpness)
        if not 0 <= entropy_weight < math.inf:
            raise ValueError(f"entropy_weight: expected a number of at least 0, got {entropy_weight}")
        self.model = model
        self.temperature = _above_zero("temperature", temperature)
        self.grade_sharpness, self.entropy_weight = grade_sharpness, entropy_weight
        self.entropy_temperature = _above_zero("entropy_temperature", entropy_temperature)
        self.in_batch, self.generated_weight = in_batch, _above_zero("generated_weight", generated_weight)

    def forward(
        self, sentence_features: Iterable[Mapping[str, Any]], labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """{"info_nce": scalar, "query_view": scalar}; without labels every negative counts as mined."""
        columns = [self.model(features)["sentence_embedding"] for features in sentence_features]
        if len(columns) < 2:
            raise ValueError(f"expected the columns anchor, positive and any negatives, got {len(columns)} column")
        # At temperature 0.05 half precision would lose the differences that the losses are about.
        with torch.autocast(columns[0].device.type, enabled=False):
            exact = (column.to(torch.promote_types(column.dtype, torch.float32)) for column in columns)
            return self._losses([nn.functional.normalize(column, dim=-1) for column in exact], labels)

    def _losses(self, columns: list[Tensor], labels: Tensor | None) -> dict[str, Tensor]:
        queries_BD, candidates_BND = columns[0], torch.stack(columns[1:], dim=1)
        generated_BN, grades_BN = _read_labels(labels, candidates_BND, graded=self.grade_sharpness is not None)
        num_rows, num_candidates = generated_BN.shape
        own_BN = torch.arange(num_rows * num_candidates, device=queries_BD.device).view(num_rows, num_candidates)
        row_P = own_BN.new_tensor(range(num_rows)).repeat_interleave(num_candidates)
        sums = loss_sums(
            queries_BD,
            candidates_BND.flatten(0, 1),
            own_BN,
            torch.ones_like(generated_BN),
            generated_BN,
            temperature=self.temperature,
            entropy_temperature=self.entropy_temperature,
            in_batch_BP=row_P[None, :] != own_BN[:, :1] // num_candidates if self.in_batch else None,
            generated_weight=self.generated_weight,
            grades_BN=grades_BN,
            grade_sharpness=self.grade_sharpness or 0.0,
        )
        return {
            "info_nce": sums.info_nce / sums.num_rows,
            "query_view": self.entropy_weight * sums.query_view / max(sums.num_generated_rows, 1),
        }

    def get_config_dict(self) -> dict[str, Any]:
        """The settings, as sentence-transformers writes them into its model card."""
        names = (
            "temperature",
            "grade_sharpness",
            "entropy_weight",
            "entropy_temperature",
            "in_batch",
            "generated_weight",
        )
        return {name: getattr(self, name) for name in names}


def _above_zero(name: str, value: float) -> float:
    if not 0 < value < math.inf:
        raise ValueError(f"{name}: expected a number above 0, got {value}")
    return value


def _checked_masks(queries_BD: Tensor, candidates_BND: Tensor, *masks: Tensor | None) -> list[Tensor]:
    """The masks, all True where None. Raises ValueError when shapes or types do not fit."""
    if queries_BD.ndim != 2 or candidates_BND.ndim != 3 or candidates_BND.shape[::2] != queries_BD.shape:
        raise ValueError(
            f"expected queries [B, D] and candidates [B, N, D], got {list(queries_BD.shape)} and "
            f"{list(candidates_BND.shape)}"
        )
    shape = candidates_BND.shape[:2]
    found = [torch.ones(shape, dtype=torch.bool, device=queries_BD.device) if m is None else m for m in masks]
    for mask in found:
        if mask.dtype != torch.bool or mask.shape != shape:
            raise ValueError(f"expected masks of True and False, {list(shape)}, got {mask.dtype} {list(mask.shape)}")
    if not found[0][:, 0].all() or (len(found) > 1 and (found[1][:, 0].any() or (found[1] & ~found[0]).any())):
        raise ValueError("column 0 is the positive: valid, not generated; and what is generated must be valid")
    return found


def _read_labels(labels: Tensor | None, candidates_BND: Tensor, *, graded: bool) -> tuple[Tensor, Tensor | None]:
    """Which candidates are generated, and if asked for each one's grade (1 for the positive, 0 for mined ones).

    From one label a negative, 1 or 0, or from two, that and the grade. Raises ValueError for labels that do not fit.
    """
    shape, device = candidates_BND.shape[:2], candidates_BND.device
    generated_BN = torch.zeros(shape, dtype=torch.bool, device=device)
    if labels is not None:
        expected = (shape[0], shape[1] - 1)
        if labels.shape[:2] != expected or labels.shape[2:] not in ((), (2,)):
            raise ValueError(
                f"expected one label a negative, {list(expected)}, or two, got {list(labels.shape)}: "
                "1 where a language model wrote it, else 0, and its grade"
            )
        labels = labels.to(device)
        generated_BN[:, 1:] = (labels if labels.ndim == 2 else labels[..., 0]) == 1
    if not graded:
        return generated_BN, None
    if labels is None or labels.ndim == 2:
        raise ValueError("graded InfoNCE needs each negative's grade in the labels (just convert to=st-graded)")
    grades_BN = torch.ones(shape, dtype=candidates_BND.dtype, device=device)
    grades_BN[:, 1:] = torch.where(generated_BN[:, 1:], labels[..., 1].clamp(0, 1), 0.0)
    return generated_BN, grades_BN
