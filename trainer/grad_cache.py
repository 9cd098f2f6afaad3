"""A loss over more texts than fit into memory at once: gradient caching (Gao et al. 2021, arXiv 2101.06983).

First every part is encoded, then the loss gives each embedding its gradient, then that gradient goes back through the
encoder. As many parts as the memory allows keep their graph from the first pass; every other part has none, and is
encoded again with one and with the same dropout.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from trainer.encoder import Encoder
from trainer.tokens import Tokens, token_chunks


def embedding_gradients(
    encoder: Encoder, tokens: Sequence[Tokens], max_tokens: int, embeddings_gradient: Callable[[Tensor], Tensor]
) -> None:
    """Add to the parameters' gradients what a loss over all texts sends back.

    `embeddings_gradient` takes the embeddings [B, D] of all texts, detached, and returns the loss's gradient with
    respect to them, [B, D]. No more than `max_tokens` tokens are in a graph at a time; where all texts fit into that,
    nothing is encoded twice.
    """
    parts = token_chunks(tokens, encoder.part_tokens(max_tokens), padded=not encoder.packed)
    num_twice = _num_beyond(max_tokens, [_size([tokens[i] for i in part], encoder.packed) for part in parts])
    states: list[Any] = []
    kept: list[Tensor] = []
    embeddings_BD = torch.empty(len(tokens), encoder.dimension, device=encoder.device, dtype=encoder.dtype)
    for number, part in enumerate(parts):
        twice = number < num_twice
        if twice:
            states.append(_random_state(encoder.device))
        with torch.set_grad_enabled(not twice):
            encoded = encoder([tokens[i] for i in part])
        embeddings_BD[part] = encoded.detach().to(embeddings_BD.dtype)
        if not twice:
            kept.append(encoded)
    gradient_BD = embeddings_gradient(embeddings_BD)
    for part in reversed(parts[num_twice:]):
        encoded = kept.pop()
        torch.autograd.backward(encoded, gradient_BD[part].to(encoded.dtype))
    end = _random_state(encoder.device)
    for part, state in zip(parts[:num_twice], states, strict=True):
        _set_random_state(state, encoder.device)
        again = encoder([tokens[i] for i in part])
        again.backward(gradient_BD[part].to(again.dtype))
    _set_random_state(end, encoder.device)


def _num_beyond(max_tokens: int, sizes: Sequence[int]) -> int:
    """How many of the first parts have to go so that the others hold at most `max_tokens` together."""
    held = list(accumulate(reversed(sizes)))
    return len(sizes) - bisect_right(held, max_tokens)


def _size(tokens: Sequence[Tokens], packed: bool) -> int:
    """Tokens of a part as they are computed, padding included."""
    return sum(map(len, tokens)) if packed else len(tokens) * max(map(len, tokens))


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
