"""Pooling: one vector a text from those of its tokens, under the names that sentence-transformers has for it.

Axes: B texts, T tokens of the longest, W width. `mask_BT1` is True where a text has a token, None where each has T.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from data.base.errors import InputError


def _mean(hidden_BTW: Tensor, mask_BT1: Tensor | None, power: float = 1.0) -> Tensor:
    """The sum over the tokens, divided by their number to the `power`."""
    if mask_BT1 is None:
        return hidden_BTW.sum(dim=1) / math.pow(hidden_BTW.shape[1], power)
    return (hidden_BTW * mask_BT1).sum(dim=1) / mask_BT1.sum(dim=1).pow(power)


def _weighted_mean(hidden_BTW: Tensor, mask_BT1: Tensor | None) -> Tensor:
    """The mean with the weights 1, 2, 3 ... by position."""
    weights_1T1 = torch.arange(1, hidden_BTW.shape[1] + 1, device=hidden_BTW.device)[None, :, None]
    weights_BT1 = weights_1T1 if mask_BT1 is None else weights_1T1 * mask_BT1
    return (hidden_BTW * weights_BT1).sum(dim=1) / weights_BT1.sum(dim=1)


def _max(hidden_BTW: Tensor, mask_BT1: Tensor | None) -> Tensor:
    return (hidden_BTW if mask_BT1 is None else hidden_BTW.masked_fill(~mask_BT1, float("-inf"))).amax(dim=1)


def _last(hidden_BTW: Tensor, mask_BT1: Tensor | None) -> Tensor:
    if mask_BT1 is None:
        return hidden_BTW[:, -1]
    return hidden_BTW[torch.arange(len(hidden_BTW), device=hidden_BTW.device), mask_BT1.sum(dim=1)[:, 0] - 1]


POOLINGS: dict[str, Callable[[Tensor, Tensor | None], Tensor]] = {
    "mean": _mean,
    "cls": lambda hidden_BTW, mask_BT1: hidden_BTW[:, 0],
    "lasttoken": _last,
    "max": _max,
    "mean_sqrt_len_tokens": partial(_mean, power=0.5),
    "weightedmean": _weighted_mean,
}


def pool(pooling: str, hidden_BTW: Tensor, mask_BT1: Tensor | None = None) -> Tensor:
    """One vector a text, [B, W]. Raises InputError for a name that is not in POOLINGS."""
    if pooling not in POOLINGS:
        raise InputError(f"expected one of {', '.join(POOLINGS)}, got {pooling!r}", field="pooling")
    return POOLINGS[pooling](hidden_BTW, mask_BT1)
