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

# PyTorch says so once, at the first jagged tensor, which is that of the trial; the trial is our answer to it.
_YOUNG = "The PyTorch API of nested tensors is in prototype stage"
log = logging.getLogger(__name__)


def jagged_attention(
    query_THd: Tensor,
    key_THd: Tensor,
    value_THd: Tensor,
    offsets: Tensor,
    longest: int,
    *,
    causal: bool,
    scaling: float,
    dropout: float = 0.0,
) -> Tensor:
    """Attention of every text over itself, [T, H, d]; text i has the tokens offsets[i] to offsets[i + 1].

    Keys and values may have fewer heads than queries. Raises RuntimeError where the device has no kernel for it.
    """
    shared = query_THd.shape[1] // key_THd.shape[1]
    if shared > 1:
        key_THd, value_THd = key_THd.repeat_interleave(shared, dim=1), value_THd.repeat_interleave(shared, dim=1)
    query, key, value = (
        torch.nested.nested_tensor_from_jagged(tensor, offsets, max_seqlen=longest).transpose(1, 2)
        for tensor in (query_THd, key_THd, value_THd)
    )
    attended = nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=causal, scale=scaling, dropout_p=dropout
    )
    return attended.transpose(1, 2).values()


@functools.cache
def has_jagged_attention(device: torch.device, dtype: torch.dtype, causal: bool) -> bool:
    """Whether this device computes jagged attention and its gradient as text by text; tried once, on three texts."""
    if device.type == "cpu":
        return False  # it works there without causal masks, seven times slower than groups of equal lengths
    try:
        difference = _difference(device, dtype, causal)
    except RuntimeError as error:
        log.info("no jagged attention on %s: %s", device, str(error).partition("\n")[0])
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
        return jagged_attention(query, key, value, offsets, max(lengths), causal=causal, scaling=scaling)

    results = []
    with torch.enable_grad(), torch.autocast(device.type, enabled=False), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=_YOUNG)
        for attend in (by_text, all_texts):
            leaves = [tensor.clone().requires_grad_() for tensor in inputs]
            output = attend(*leaves)
            results.append([output, *torch.autograd.grad((output * inputs[0]).sum(), leaves)])
    return max(float((one - other).detach().abs().max()) for one, other in zip(*results, strict=True))
