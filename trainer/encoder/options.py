"""What every command that loads an encoder takes."""

from dataclasses import replace
from typing import Annotated, Literal, Self

from data.base.arguments import MayBeEmpty
from data.base.options import Count, options

BUNDLED_MODEL = "bundled:all-MiniLM-L6-v2"
Precision = Literal["float32", "bfloat16", "float16", "auto"]


@options
class EncoderOptions:
    """Which encoder, and what of its own settings is set otherwise."""

    model: str = BUNDLED_MODEL
    """Encoder: bundled:all-MiniLM-L6-v2, a local folder, or a hub name (org/name)."""

    revision: str | None = None
    """Revision of a hub model (None: its main branch)."""

    max_length: int | None = None
    """Longest text in tokens, special tokens included (None: the model's own)."""

    dimensions: Count | None = None
    """Numbers that an embedding is cut to, as sentence-transformers' truncate_dim does (None: the model's own)."""

    query_prompt: Annotated[str, MayBeEmpty()] | None = None
    """Instruction in front of every query (None: the model's own, which may be none)."""

    document_prompt: Annotated[str, MayBeEmpty()] | None = None
    """Instruction in front of every passage (None: the model's own, which may be none)."""

    device: str | None = None
    """Device of the encoder, like cpu or cuda:0 (None: a GPU if there is one)."""

    precision: Precision = "float32"
    """Precision of the encoder's matrix products; weights, losses and scores stay float32. float16 needs a GPU. auto:
    bfloat16 where a short trial shows that it is faster, else float32."""

    def with_model(self, model: str) -> Self:
        """The same for another model; the revision is that of the one it was given for."""
        return replace(self, model=model, revision=self.revision if model == self.model else None)
