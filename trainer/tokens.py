"""Tokenised texts and how they are cut into passes of like length and bounded size."""

from collections.abc import Sequence

Tokens = Sequence[int]


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
