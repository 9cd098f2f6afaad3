"""Token embeddings whose gradient is added row by row on a CPU, while a step is computed in parts.

PyTorch fills a table of zeros as large as the vocabulary for every part: a twentieth of a step in half precision. Here
the parts add the rows of their own tokens to what is there, in the same order, so that sums are the same to the bit.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class _RowsAdded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor, padding_idx: int | None) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.weight, ctx.padding_idx = weight, padding_idx
        return nn.functional.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None]:
        ids, gradient, weight = ctx.saved_tensors[0].reshape(-1), gradient.reshape(-1, gradient.shape[-1]), ctx.weight
        if ctx.padding_idx is not None:
            ids, gradient = ids[ids != ctx.padding_idx], gradient[ids != ctx.padding_idx]
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        # Within the part first, as autograd sums.
        rows, place = ids.unique(return_inverse=True)
        part = torch.zeros(len(rows), weight.shape[1], dtype=weight.dtype).index_add_(0, place, gradient)
        weight.grad.index_add_(0, rows, part)
        return None, None, None


class RowEmbedding(nn.Embedding):
    """nn.Embedding that can add its gradient to `weight.grad` row by row instead of handing it to autograd."""

    adds_rows = False

    def forward(self, ids: Tensor) -> Tensor:
        if self.adds_rows and self.weight.requires_grad and self.weight.device.type == "cpu":
            return _RowsAdded.apply(ids, self.weight, self.padding_idx)  # type: ignore[no-untyped-call, no-any-return]
        return super().forward(ids)


def use_row_embeddings(module: nn.Module) -> None:
    """Make every plain nn.Embedding below `module` a RowEmbedding, with the same weights."""
    for child in module.modules():
        if type(child) is nn.Embedding and child.max_norm is None and not (child.sparse or child.scale_grad_by_freq):
            child.__class__ = RowEmbedding


@contextmanager
def rows_added(module: nn.Module) -> Iterator[None]:
    """What is computed inside adds embeddings' gradients to `.grad` itself: for `backward()`, not for autograd.grad."""
    embeddings = [child for child in module.modules() if isinstance(child, RowEmbedding)]
    for embedding in embeddings:
        embedding.adds_rows = True
    try:
        yield
    finally:
        for embedding in embeddings:
            embedding.adds_rows = False
