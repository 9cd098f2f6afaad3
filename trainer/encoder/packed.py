"""Encoding without padding: the tokens of all texts in one row, attention inside each text alone.

Texts of equal length lie side by side, so that attention runs on plain [texts, heads, length, width] blocks without a
mask; a GPU that has a kernel for texts of different lengths takes them all at once. Everything else in a transformer
acts on single tokens and does not notice.

Axes: T tokens of all texts, H heads, L length of a group's texts, d width of a head, W width of the transformer.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any

import torch
from torch import Tensor, nn

from trainer.encoder.dropout import dropout
from trainer.encoder.jagged import has_jagged_attention, jagged_attention
from trainer.encoder.pooling import pool

Tokens = Sequence[int]

ATTENTION = "causalneg_packed"
# Architectures that are built of token-wise layers and transformers' attention seam, and take explicit positions.
# A test compares each of them with its padded form.
PACKABLE = frozenset({"bert", "roberta", "xlm-roberta", "qwen2", "qwen3", "llama", "mistral"})
# These count positions from behind the padding index.
_OFFSET_POSITIONS = frozenset({"roberta", "xlm-roberta"})
# A CPU's library builds a kernel for every number of tokens that it meets in half precision, and keeps a thousand.
_TOKENS_AT_A_TIME = 64
# Texts that are tokenised at once while a corpus is encoded.
TOKENIZE_AT_ONCE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """Texts laid end to end, longest first. `groups` holds (number of texts, their length) in that order.

    Text i of that order has the tokens offsets[i] to offsets[i + 1].
    """

    input_ids_1T: Tensor
    position_ids_1T: Tensor
    offsets: Tensor
    groups: tuple[tuple[int, int], ...]
    order: list[int]

    @property
    def longest(self) -> int:
        """Tokens of the longest text."""
        return self.groups[0][1]

    @property
    def shortest(self) -> int:
        """Tokens of the shortest text."""
        return self.groups[-1][1]


def pack(tokens: Sequence[Tokens], device: torch.device) -> Packing:
    """Lay out texts by falling length; `order[i]` is the place in `tokens` of the i-th text laid out."""
    order = sorted(range(len(tokens)), key=lambda i: (-len(tokens[i]), i))
    groups = tuple((len(list(same)), length) for length, same in groupby(len(tokens[i]) for i in order))
    positions = torch.cat([torch.arange(length).repeat(count) for count, length in groups])
    return Packing(
        input_ids_1T=torch.tensor([id for i in order for id in tokens[i]]).unsqueeze(0).to(device),
        position_ids_1T=positions.unsqueeze(0).to(device),
        offsets=torch.tensor([0, *accumulate(len(tokens[i]) for i in order)]).to(device),
        groups=groups,
        order=order,
    )


def filled_up(tokens: Sequence[Tokens]) -> list[Tokens]:
    """The texts and as many of one token after them as make the tokens of all a multiple of 64.

    What half precision on a CPU is given, so that it meets few numbers of tokens.
    """
    return [*tokens, *[(0,)] * (-sum(map(len, tokens)) % _TOKENS_AT_A_TIME)]


def use_packed_attention(transformer: nn.Module) -> bool:
    """Switch a model of a known architecture to packed attention; False (and nothing done) for the others."""
    from transformers import AttentionInterface

    config: Any = transformer.config
    if config.model_type not in PACKABLE or getattr(config, "position_embedding_type", "absolute") != "absolute":
        return False
    AttentionInterface.register(ATTENTION, packed_attention)
    transformer.set_attn_implementation(ATTENTION)  # type: ignore[operator]
    return True


def hidden_states(transformer: nn.Module, packing: Packing) -> Tensor:
    """The last layer's output of every token, [T, W]."""
    config: Any = transformer.config
    positions = packing.position_ids_1T
    if config.model_type in _OFFSET_POSITIONS:
        positions = positions + config.pad_token_id + 1
    output = transformer(input_ids=packing.input_ids_1T, position_ids=positions, packing=packing)
    return output.last_hidden_state[0]  # type: ignore[no-any-return]


def pool_packed(hidden_TW: Tensor, packing: Packing, pooling: str) -> Tensor:
    """One vector a text in the order of the packing, [B, W]."""
    return torch.cat([pool(pooling, block_BTW) for block_BTW in _split(hidden_TW, packing.groups)])


def _split(values_Tx: Tensor, groups: tuple[tuple[int, int], ...]) -> list[Tensor]:
    # One split instead of a slice a group: the gradient of a slice is a tensor of zeros as large as all groups.
    parts = torch.split(values_Tx, [count * length for count, length in groups])
    return [part.view(*group, *part.shape[1:]) for part, group in zip(parts, groups, strict=True)]


def packed_attention(
    module: nn.Module,
    query_1HTd: Tensor,
    key_1HTd: Tensor,
    value_1HTd: Tensor,
    attention_mask: Tensor | None,
    *,
    packing: Packing,
    scaling: float,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of every text over itself; transformers calls it in place of its own. Returns [1, T, H, d]."""
    # A decoder that was made to look both ways says so in its configuration alone.
    causal = bool(getattr(module, "is_causal", False)) and getattr(module.config, "is_causal", None) is not False
    device, computed_in = query_1HTd.device, _computed_in(query_1HTd)
    query_THd, key_THd, value_THd = (tensor[0].transpose(0, 1) for tensor in (query_1HTd, key_1HTd, value_1HTd))
    whole = sliding_window is None or packing.longest <= sliding_window
    if whole and has_jagged_attention(device, computed_in, causal):
        attended = jagged_attention(
            query_THd, key_THd, value_THd, packing.offsets, (packing.shortest, packing.longest),
            causal=causal, scaling=scaling, dropout=dropout,
        )  # fmt: skip
        return attended.unsqueeze(0), None
    # In half precision PyTorch's fused kernel for the CPU goes backward four times slower, and the formula written out
    # has a kernel built for every number and length of texts.
    exact = device.type == "cpu" and computed_in.itemsize == 2
    tensors = [tensor.float() if exact else tensor for tensor in (query_THd, key_THd, value_THd)]
    outputs = []
    with torch.autocast("cpu", enabled=False) if exact else nullcontext():
        for blocks in zip(*(_split(tensor_THd, packing.groups) for tensor_THd in tensors), strict=True):
            query, key, value = (block.transpose(1, 2) for block in blocks)
            mask = _window_mask(query.shape[2], sliding_window, causal, device)
            attended = _attend(query, key, value, mask, causal and mask is None, scaling, dropout)
            outputs.append(attended.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs).to(computed_in).unsqueeze(0), None


def _computed_in(tensor: Tensor) -> torch.dtype:
    """The type that attention over this tensor is computed in: autocast's, which may not have reached it yet."""
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensor.dtype


def _window_mask(length: int, window: int | None, causal: bool, device: torch.device) -> Tensor | None:
    if window is None or length <= window:
        return None
    distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)
    return (distance >= 0) & (distance < window) if causal else distance.abs() < window


def _attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, scaling: float, probability: float
) -> Tensor:
    if query.device.type != "cpu" or probability == 0:  # the fused kernel for the CPU has no dropout
        return nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=causal, scale=scaling, dropout_p=probability,
            enable_gqa=key.shape[1] != query.shape[1],
        )  # fmt: skip
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    weights = (query * scaling) @ key.transpose(-1, -2)
    if causal:
        mask = torch.ones(weights.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if mask is not None:
        weights = weights.masked_fill(~mask, float("-inf"))
    return dropout(weights.softmax(dim=-1), probability) @ value


def tokens_at_once(device: torch.device) -> int:
    """Tokens of one pass without a gradient: so few on a CPU that a layer's activations stay in cache; a GPU filled."""
    return 4096 if device.type == "cpu" else 65536


def token_chunks(tokens: Sequence[Tokens], max_tokens: int, padded: bool = True) -> list[list[int]]:
    """Split positions 0..n-1 into passes, longest texts first, each at most `max_tokens` (with padding, if padded).

    A single text that is longer than the bound gets a pass of its own.
    """
    order = sorted(range(len(tokens)), key=lambda i: (-len(tokens[i]), i))
    chunks: list[list[int]] = []
    size = 0
    for i in order:
        # Texts come longest first: with padding each takes the room of its chunk's first.
        room = len(tokens[chunks[-1][0]]) if padded and chunks else len(tokens[i])
        if not chunks or size + room > max_tokens:
            chunks.append([])
            size, room = 0, len(tokens[i])
        chunks[-1].append(i)
        size += room
    return chunks
