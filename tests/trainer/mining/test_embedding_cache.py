"""Embeddings on disk: found again by content, written block by block, gone on with after an interruption."""

import threading
from pathlib import Path

import numpy as np
import pytest

from data.base.errors import InputError
from tests.trainer.conftest import TEXTS
from trainer.encoder.encoder import Encoder
from trainer.mining import embedding_cache
from trainer.mining.embedding_cache import cached_embeddings, embeddings_key

MANY = [f"{text} {number}" for number in range(3) for text in TEXTS]


def test_embeddings_are_cached_by_everything_that_decides_them(
    encoder: Encoder, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cached_embeddings(encoder, TEXTS, "document", tmp_path)
    assert isinstance(first, np.memmap) and not first.flags.writeable
    np.testing.assert_array_equal(first, encoder.encode(TEXTS, "document"))
    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "encode", None)
        np.testing.assert_array_equal(cached_embeddings(encoder, TEXTS, "document", tmp_path), first)
    prompted = Encoder.load(str(tiny_bert), device="cpu", document_prompt="the ")
    keys = {
        embeddings_key(encoder, TEXTS, "document"),
        embeddings_key(encoder, TEXTS, "query"),
        embeddings_key(encoder, TEXTS[::-1], "document"),
        embeddings_key(encoder, ["".join(TEXTS)], "document"),
        embeddings_key(prompted, TEXTS, "document"),
    }
    assert len(keys) == 5
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(InputError, match="delete"):
        cached_embeddings(encoder, TEXTS, "document", tmp_path)


def encode_dying_after(calls: int, monkeypatch: pytest.MonkeyPatch, encoded: list[int]) -> None:
    """Make the process die in the block after so many; `encoded` gets the number of texts of each block."""
    real = Encoder.encode

    def dying(self, texts, *rest, **options):  # type: ignore[no-untyped-def]
        if len(encoded) == calls:
            raise KeyboardInterrupt
        encoded.append(len(texts))
        return real(self, texts, *rest, **options)

    monkeypatch.setattr(Encoder, "encode", dying)


@pytest.mark.parametrize("tail", [b"", b"half of a row that was being written"])
@pytest.mark.parametrize("calls", [0, 1, 2, 4])
def test_an_interrupted_file_is_gone_on_with_to_the_same_bits(
    calls: int, tail: bytes, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_cache, "TEXTS_AT_ONCE", 4)
    whole = cached_embeddings(encoder, MANY, "document", tmp_path / "whole")
    before: list[int] = []
    with monkeypatch.context() as patch:
        encode_dying_after(calls, patch, before)
        with pytest.raises(KeyboardInterrupt):
            cached_embeddings(encoder, MANY, "document", tmp_path / "cache")
    (partial,) = (tmp_path / "cache").iterdir()
    with partial.open("ab") as file:
        file.write(tail)
    after: list[int] = []
    with monkeypatch.context() as patch:
        encode_dying_after(99, patch, after)
        resumed = cached_embeddings(encoder, MANY, "document", tmp_path / "cache")
    np.testing.assert_array_equal(resumed, whole)
    # The block that was written last may not have reached the disk: it alone is computed again.
    kept = max(0, calls - 1) if not tail else calls
    assert sum(after) == len(MANY) - 4 * kept
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".npy"]


def test_no_more_than_a_block_is_encoded_at_a_time(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_cache, "TEXTS_AT_ONCE", 5)
    sizes: list[int] = []
    with monkeypatch.context() as patch:
        encode_dying_after(99, patch, sizes)
        vectors = cached_embeddings(encoder, MANY, "query", tmp_path)
    assert sizes == [5, 5, 5, 3]
    np.testing.assert_allclose(vectors, encoder.encode(MANY, "query"), atol=2e-6)


def test_a_second_process_waits_for_the_first(encoder: Encoder, tmp_path: Path) -> None:
    path = tmp_path / f"{embeddings_key(encoder, TEXTS, 'document')}.npy"
    found: list[np.ndarray] = []
    second = threading.Thread(target=lambda: found.append(cached_embeddings(encoder, TEXTS, "document", tmp_path)))
    with embedding_cache._PartialFile(path, (len(TEXTS), encoder.dimension)) as first:
        second.start()
        second.join(0.3)
        assert second.is_alive() and not found
        first.append(np.ones((len(TEXTS), encoder.dimension), np.float32))
    second.join(30)
    assert found[0].shape == (len(TEXTS), 32) and (found[0] == 1).all()
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_one_line(tiny_bert: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        cached_embeddings(Encoder.load(str(tiny_bert), device="cpu"), TEXTS, "document", tmp_path / "file" / "cache")


def test_an_empty_cache_file_is_named(encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / f"{embeddings_key(encoder, TEXTS, 'document')}.npy").touch()
    with pytest.raises(InputError, match="delete the file"):
        cached_embeddings(encoder, TEXTS, "document", tmp_path)
