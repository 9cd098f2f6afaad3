"""Embeddings on disk under a key of everything that decides them: computed once, then memory-mapped."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.errors import InputError
from trainer.encoder import Encoder, Role
from trainer.search import Floats
from trainer.world import ALONE, World

log = logging.getLogger(__name__)


def embeddings_key(encoder: Encoder, texts: Sequence[str], role: Role) -> str:
    """A key over weights, pooling, prompts, length, role and every text."""
    digest = hashlib.blake2b(f"{encoder.fingerprint()} {role}".encode(), digest_size=16)
    for text in texts:
        raw = text.encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8, "big") + raw)
    return digest.hexdigest()


def cached_embeddings(
    encoder: Encoder, texts: Sequence[str], role: Role, folder: str | Path | None, world: World = ALONE
) -> Floats:
    """Embeddings float32 [B, D], from `folder` if they lie there, else computed and put there (None: no cache).

    Those that lie on disk are memory-mapped and read-only. Several processes share the computing. Raises InputError
    when the folder cannot be written.
    """
    if folder is None:
        return world.encode(encoder, texts, role, progress=True)
    path = Path(folder) / f"{embeddings_key(encoder, texts, role)}.npy"
    if not path.is_file():
        vectors = world.encode(encoder, texts, role, progress=True)
        if world.is_main:
            _write(path, vectors)
        world.wait()
    else:
        log.info("%d %s embeddings are re-used from %s", len(texts), role, path)
    try:
        mapped: Floats = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read these embeddings ({error}); delete the file", file=path) from error
    if mapped.shape != (len(texts), encoder.dimension):
        raise InputError(f"holds {mapped.shape}, expected {(len(texts), encoder.dimension)}; delete it", file=path)
    return mapped


def _write(path: Path, vectors: Floats) -> None:
    temporary = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            np.save(file, vectors, allow_pickle=False)
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"cannot write: {error.strerror or error}", file=path) from error
    finally:
        temporary.unlink(missing_ok=True)
