"""Width and prompts are set once: mining, training, evaluation and the saved folder use the same vectors."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from data.base.errors import InputError
from data.readers.beir import write_beir
from data.row_files import read_rows
from tests.trainer.conftest import TEXTS
from tests.trainer.runs import small_run
from tests.trainer.tiny_data import dev_set
from trainer.encoder import Encoder
from trainer.loop import train
from trainer.mining.config import MineConfig
from trainer.mining.mine import mine
from trainer.run.dev import ndcg_at_10


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "lasttoken"])
def test_a_saved_width_gives_the_same_vectors_in_sentence_transformers(
    normalize: bool, pooling: str, tiny_bert: Path, tmp_path: Path
) -> None:
    encoder = Encoder.load(str(tiny_bert), device="cpu", pooling=pooling, normalize=normalize, dimensions=8)
    assert (encoder.dimension, encoder.width) == (8, 32)
    ours = encoder.encode(TEXTS, "document")
    assert ours.shape == (len(TEXTS), 8)
    encoder.save(tmp_path / "cut")
    Encoder.load(str(tiny_bert), device="cpu", pooling=pooling, normalize=normalize).save(tmp_path / "whole")
    for peer in (
        SentenceTransformer(str(tmp_path / "cut"), device="cpu"),
        SentenceTransformer(str(tmp_path / "whole"), device="cpu", truncate_dim=8),
    ):
        assert peer.get_embedding_dimension() == 8
        theirs = peer.encode(TEXTS, normalize_embeddings=normalize)
        assert np.abs(ours - theirs).max() < 1e-5
        # Without asking it to normalise again, its similarity still ranks as our inner product does.
        plain = peer.encode(TEXTS)
        assert np.abs(peer.similarity(plain, plain).numpy() - ours @ ours.T).max() < 1e-4
    again = Encoder.load(str(tmp_path / "cut"), device="cpu")
    assert again.settings == encoder.settings
    np.testing.assert_array_equal(ours, again.encode(TEXTS, "document"))
    whole = Encoder.load(str(tmp_path / "cut"), device="cpu", dimensions=32)
    assert whole.dimension == 32 and whole.fingerprint() != encoder.fingerprint()


def test_width_set_by_sentence_transformers_is_read(tiny_bert: Path, tmp_path: Path) -> None:
    Encoder.load(str(tiny_bert), device="cpu").save(tmp_path / "m")
    SentenceTransformer(str(tmp_path / "m"), device="cpu", truncate_dim=12).save(str(tmp_path / "peer"))
    assert Encoder.load(str(tmp_path / "peer"), device="cpu").dimension == 12


@pytest.mark.parametrize(("dimensions", "expected"), [(0, "at least 1, got 0"), (33, "1 to 32 for .*, got 33")])
def test_a_width_that_the_model_does_not_have_is_refused(dimensions: int, expected: str, tiny_bert: Path) -> None:
    with pytest.raises(InputError, match=f"dimensions.*: expected {expected}"):
        Encoder.load(str(tiny_bert), dimensions=dimensions)


@pytest.fixture
def settings() -> dict[str, object]:
    return {"dimensions": 8, "query_prompt": "how can ", "document_prompt": "the days: ", "max_length": 14}


def by_peer(folder: str, texts: list[str], role: str) -> np.ndarray:
    peer = SentenceTransformer(folder, device="cpu")
    encode = peer.encode_query if role == "query" else peer.encode_document
    return encode(texts, convert_to_numpy=True, normalize_embeddings=True)


def test_mining_ranks_with_the_width_and_the_prompts(tiny_bert: Path, tmp_path: Path, settings: dict) -> None:
    Encoder.load(str(tiny_bert), device="cpu", **settings).save(tmp_path / "prompted")
    write_beir(tmp_path / "beir", dev_set(), "train")
    mine(
        MineConfig(
            data=str(tmp_path / "beir"), out=str(tmp_path / "rows.jsonl"), model=str(tiny_bert), num_negatives=3,
            relative_margin=None, device="cpu", **settings,
        )
    )  # fmt: skip
    for row in read_rows(tmp_path / "rows.jsonl"):
        query = by_peer(str(tmp_path / "prompted"), [row.query], "query")[0]
        found = by_peer(str(tmp_path / "prompted"), [negative.text for negative in row.negatives], "document")
        assert found @ query == pytest.approx([negative.score for negative in row.negatives], abs=1e-5)


def test_training_evaluation_and_the_saved_folder_agree(tiny_bert: Path, tmp_path: Path, settings: dict) -> None:
    write_beir(tmp_path / "beir", dev_set(), "dev")
    config = small_run(tiny_bert, tmp_path, dev=str(tmp_path / "beir"), matryoshka=(4,), lr=2e-3, epochs=1, **settings)
    result = train(config)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    saved = json.loads((Path(result.model) / "config_sentence_transformers.json").read_text())
    assert saved["truncate_dim"] == 8 and saved["prompts"] == {"query": "how can ", "document": "the days: "}
    dev = dev_set()
    passages = by_peer(result.model, list(dev.passages.values()), "document")
    queries = by_peer(result.model, list(dev.queries.values()), "query")
    for width, name in ((8, "dev_ndcg_at_10"), (4, "dev_ndcg_at_10_at_4")):
        norms = [np.linalg.norm(x[:, :width], axis=1, keepdims=True) for x in (queries, passages)]
        scores = (queries[:, :width] / norms[0]) @ (passages[:, :width] / norms[1]).T
        run = {q: dict(zip(dev.passages, map(float, s), strict=True)) for q, s in zip(dev.queries, scores, strict=True)}
        best = {q: dict(sorted(s.items(), key=lambda pair: -pair[1])[:10]) for q, s in run.items()}
        assert lines[-1][name] == pytest.approx(ndcg_at_10(best, dev.qrels), abs=1e-9)
    other = train(dataclasses.replace(config, query_prompt=None, out=config.out + "2"))
    assert other.first_loss != result.first_loss
