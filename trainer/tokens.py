"""Tokenised texts and how they are cut into passes of like length and bounded size."""

from collections.abc import Sequence

Tokens = list[int]


def token_chunks(tokens: Sequence[Tokens], max_tokens: int) -> list[list[int]]:
    """Split positions 0..n-1 into passes, longest texts first, each at most `max_tokens` with padding.

    A single text that is longer than the bound gets a pass of its own.
    """
    order = sorted(range(len(tokens)), key=lambda i: (-len(tokens[i]), i))
    chunks: list[list[int]] = []
    longest = 0
    for i in order:
        if not chunks or longest * (len(chunks[-1]) + 1) > max_tokens:
            chunks.append([])
            longest = len(tokens[i])
        chunks[-1].append(i)
    return chunks
