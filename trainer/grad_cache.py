"""A loss over more texts than fit into memory at once: gradient caching (Gao et al. 2021, arXiv 2101.06983).

First every part is encoded without a graph, then the loss gives each embedding its gradient, then every part is encoded
again, with a graph and the same dropout, and that gradient goes on through the encoder. Memory is that of one part.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.encoder.encoder import Encoder
from trainer.encoder.packed import Tokens, token_chunks


def embedding_gradients(
    encoder: Encoder, tokens: Sequence[Tokens], max_tokens: int, embeddings_gradient: Callable[[Tensor], Tensor]
) -> None:
    """Add to the parameters' gradients what a loss over all texts sends back.

    `embeddings_gradient` takes the embeddings [B, D] of all texts, detached, and returns the loss's gradient with
    respect to them, [B, D]. Where all texts fit into one part of `max_tokens`, there is no second pass.
    """
    if len(token_chunks(tokens, max_tokens, padded=not encoder.packed)) <= 1:
        embeddings_BD = encoder(tokens)
        gradient_BD = embeddings_gradient(embeddings_BD.detach())
        if len(tokens):
            embeddings_BD.backward(gradient_BD)
        return
    parts = token_chunks(tokens, encoder.part_tokens(max_tokens), padded=not encoder.packed)
    states: list[Any] = []
    embeddings_BD = torch.empty(len(tokens), encoder.dimension, device=encoder.device, dtype=encoder.dtype)
    with torch.no_grad():
        for part in parts:
            states.append(_random_state(encoder.device))
            embeddings_BD[part] = encoder([tokens[i] for i in part]).to(embeddings_BD.dtype)
    gradient_BD = embeddings_gradient(embeddings_BD)
    end = _random_state(encoder.device)
    for part, state in zip(parts, states, strict=True):
        _set_random_state(state, encoder.device)
        again = encoder([tokens[i] for i in part])
        again.backward(gradient_BD[part].to(again.dtype))
    _set_random_state(end, encoder.device)


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
