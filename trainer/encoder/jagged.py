"""Attention of all packed texts in one kernel, where the device has one for texts of different lengths.

PyTorch hands jagged tensors to FlashAttention's variable-length kernel in half precision, and to the memory-efficient
one in float32. A GPU would otherwise be kept waiting by the many small kernels of one group of equal lengths each.

Axes: T tokens of all texts, H heads, d width of a head.
"""

import functools
import logging
import warnings

import torch
from torch import Tensor, nn

from data.base.errors import first_line

# PyTorch says so once, at the first jagged tensor, which is that of the trial; the trial is our answer to it.
_YOUNG = "The PyTorch API of nested tensors is in prototype stage"
log = logging.getLogger(__name__)


def jagged_attention(
    query_THd: Tensor,
    key_THd: Tensor,
    value_THd: Tensor,
    offsets: Tensor,
    lengths: tuple[int, int],
    *,
    causal: bool,
    scaling: float,
    dropout: float = 0.0,
) -> Tensor:
    """Attention of every text over itself, [T, H, d]; text i has the tokens offsets[i] to offsets[i + 1].

    `lengths` are those of the shortest and of the longest text: without them each layer would ask the device for both.
    Keys and values may have fewer heads than queries. Raises RuntimeError where the device has no kernel for it.
    """
    shared = query_THd.shape[1] // key_THd.shape[1]
    if shared > 1:
        key_THd, value_THd = key_THd.repeat_interleave(shared, dim=1), value_THd.repeat_interleave(shared, dim=1)
    query, key, value = (
        torch.nested.nested_tensor_from_jagged(tensor, offsets, min_seqlen=lengths[0], max_seqlen=lengths[1]).transpose(
            1, 2
        )
        for tensor in (query_THd, key_THd, value_THd)
    )
    attended = nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=causal, scale=scaling, dropout_p=dropout
    )
    return attended.transpose(1, 2).values()


def has_jagged_attention(device: torch.device, dtype: torch.dtype, causal: bool) -> bool:
    """Whether this device computes jagged attention and its gradient as text by text; tried once, on three texts."""
    # A CPU does so without causal masks, seven times slower than groups of equal lengths.
    return device.type != "cpu" and agrees(device, dtype, causal)


@functools.cache
def agrees(device: torch.device, dtype: torch.dtype, causal: bool) -> bool:
    """The trial of `has_jagged_attention`."""
    try:
        difference = _difference(device, dtype, causal)
    except RuntimeError as error:
        log.info("no jagged attention on %s: %s", device, first_line(error))
        return False
    # Half precision rounds to 3 digits, the tensor cores' float32 to about as many.
    close = difference < 0.05
    if not close:
        log.warning("jagged attention on %s differs by %.3g: using groups of equal lengths", device, difference)
    return close


def _difference(device: torch.device, dtype: torch.dtype, causal: bool) -> float:
    # No random numbers: those of a run are counted, and restored when it goes on.
    lengths, heads, width = [40, 17, 3], 2, 32
    values = torch.arange(3 * sum(lengths) * heads * width, dtype=torch.float64).mul(0.7).sin()
    inputs = values.view(3, sum(lengths), heads, width).to(device, dtype)
    offsets = torch.tensor([0, *lengths], device=device).cumsum(0)
    scaling = width**-0.5

    def by_text(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        texts = zip(*(torch.split(tensor.transpose(0, 1), lengths, 1) for tensor in (query, key, value)), strict=True)
        attend = nn.functional.scaled_dot_product_attention
        return torch.cat([attend(q, k, v, is_causal=causal, scale=scaling) for q, k, v in texts], 1).transpose(0, 1)

    def all_texts(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        ends = (min(lengths), max(lengths))
        return jagged_attention(query, key, value, offsets, ends, causal=causal, scaling=scaling)

    results = []
    # Without hooks of its own the trial would be taken for a part of the layer in which it runs, where layers are
    # computed again for the backward pass.
    own_hooks = torch.autograd.graph.saved_tensors_hooks(lambda saved: saved, lambda saved: saved)
    with own_hooks, torch.enable_grad(), torch.autocast(device.type, enabled=False), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=_YOUNG)
        for attend in (by_text, all_texts):
            leaves = [tensor.clone().requires_grad_() for tensor in inputs]
            output = attend(*leaves)
            results.append([output, *torch.autograd.grad((output * inputs[0]).sum(), leaves)])
    # The largest of all, NaN if one is.
    return float(torch.stack([(one - other).detach().abs().max() for one, other in zip(*results, strict=True)]).max())
