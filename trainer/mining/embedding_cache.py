"""Embeddings on disk under a key of everything that decides them: computed once, block by block, then memory-mapped.

Axes: B texts, D width.
"""

import fcntl
import hashlib
import io
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np

from data.base.errors import InputError
from data.base.files import current_umask
from data.base.progress import progress_bar
from trainer.distributed import ALONE, World
from trainer.encoder import Encoder, Role
from trainer.encoder.encoder import Floats

log = logging.getLogger(__name__)
# One block: its embeddings are all that is in memory; with a width of 384 they take 25 MB.
TEXTS_AT_ONCE = 16384


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

    Those in a folder are written block by block, so that no more than a block of them is in memory, and come back
    memory-mapped and read-only; what an interrupted run has computed is kept. Several processes share the computing.
    Raises InputError when the folder cannot be written.
    """
    if folder is None:
        return world.encode(encoder, texts, role, progress=True)
    path = Path(folder) / f"{embeddings_key(encoder, texts, role)}.npy"
    # The main process looks for all of them: they must agree.
    if world.all_reduce_sum([float(world.is_main and path.is_file())], encoder.device)[0]:
        log.info("%d %s embeddings are re-used from %s", len(texts), role, path)
    else:
        _compute(path, encoder, texts, role, world)
        world.barrier()
    try:
        mapped: Floats = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"cannot read these embeddings ({error}); delete the file", file=path) from error
    if mapped.shape != (len(texts), encoder.dimension):
        raise InputError(f"holds {mapped.shape}, expected {(len(texts), encoder.dimension)}; delete it", file=path)
    return mapped


def _compute(path: Path, encoder: Encoder, texts: Sequence[str], role: Role, world: World) -> None:
    with _PartialFile(path, (len(texts), encoder.dimension)) if world.is_main else nullcontext() as file:
        # Only the main process sees the file; the others learn from it where to go on.
        done = int(world.all_reduce_sum([file.rows if file else 0], encoder.device)[0])
        if file and 0 < done < len(texts):
            log.info("%d of %d %s embeddings were computed before an interruption", done, len(texts), role)
        share = len(world.share(len(texts) - done))
        with progress_bar(total=share, unit="text", desc=f"encode {role}s", enabled=world.is_main) as bar:
            for start in range(done, len(texts), TEXTS_AT_ONCE):
                block = texts[start : start + TEXTS_AT_ONCE]
                vectors = world.encode(encoder, block, role, count=bar.update)
                if file:
                    file.append(vectors)


class _PartialFile:
    """An .npy file under a name of its own, which grows by blocks of rows and gets its real name once it is whole.

    `rows` is what an earlier process has left for certain. A second process that wants the same file waits.
    """

    def __init__(self, path: Path, shape: tuple[int, int]):
        self._path, self._partial = path, path.with_name(f".{path.name}.part")
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
        self._header, self._block = header.getvalue(), TEXTS_AT_ONCE * shape[1] * 4
        self._num_rows = shape[0]
        self.rows = 0

    def __enter__(self) -> "_PartialFile":
        with self._one_line():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._partial.open("a+b")
            fcntl.flock(self._file, fcntl.LOCK_EX)
            if self._path.is_file():  # the process that was waited for has finished it
                self.rows = self._num_rows
                return self
            # A block is begun when the one before it is safe on the disk, so all but the last one can be trusted.
            size = self._partial.stat().st_size - len(self._header)
            blocks = max(0, -(-size // self._block) - 1)
            self.rows = blocks * TEXTS_AT_ONCE
            self._file.truncate(len(self._header) + blocks * self._block if blocks else 0)
            if not blocks:
                self._write(self._header)
        return self

    def append(self, vectors: Floats) -> None:
        with self._one_line():
            self._write(np.ascontiguousarray(vectors, dtype="<f4").data)
        self.rows += len(vectors)

    def __exit__(self, kind: object, *_: object) -> None:
        with self._one_line(), self._file:
            if kind is None and not self._path.is_file():
                self._partial.chmod(0o666 & ~current_umask())
                self._partial.replace(self._path)
            elif self._path.is_file():
                self._partial.unlink(missing_ok=True)

    def _write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._file.flush()
        os.fsync(self._file.fileno())

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(f"cannot write: {error.strerror or error}", file=self._path) from error
