"""Cross-encoders score as sentence-transformers does, decide the margins, and are refused where they cannot."""

import json
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForSequenceClassification, BertConfig, Qwen3Config

from data.base.errors import InputError
from data.row_files import read_rows
from tests.trainer.conftest import SIZES, TEXTS, WORDS, save_random
from tests.trainer.mining.test_mining import small_mining
from trainer.mining.cross_encoder import CrossEncoder
from trainer.mining.mine import mine


def save_tiny(folder: Path, *, labels: int = 1, decoder: bool = False) -> Path:
    """A random cross-encoder as transformers saves it."""
    sizes = SIZES | {"num_labels": labels}
    config = Qwen3Config(**sizes, num_key_value_heads=2, head_dim=8) if decoder else BertConfig(**sizes)
    return save_random(folder, config, kind=AutoModelForSequenceClassification, seed=3)


def pairs() -> list[tuple[str, str]]:
    long = " ".join(WORDS * 3)
    return [(query, text) for query in TEXTS[:3] for text in [*TEXTS, long]] + [(long, TEXTS[2])]


@pytest.mark.parametrize("activation", [None, "torch.nn.modules.linear.Identity"])
@pytest.mark.parametrize("decoder", [False, True])
@pytest.mark.parametrize("saved_by", ["transformers", "sentence-transformers"])
def test_scores_are_those_of_sentence_transformers(
    saved_by: str, decoder: bool, activation: str | None, tmp_path: Path
) -> None:
    from sentence_transformers import CrossEncoder as Peer

    folder = save_tiny(tmp_path / "plain", decoder=decoder)
    if activation is not None:  # as versions 3 and 4 keep it
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(
            json.dumps(config | {"sentence_transformers": {"activation_fn": activation}})
        )
    if saved_by == "sentence-transformers":
        Peer(str(folder), device="cpu").save_pretrained(str(tmp_path / "saved"))
        folder = tmp_path / "saved"
    expected = Peer(str(folder), device="cpu").predict(pairs(), show_progress_bar=False)
    scores = CrossEncoder.load(str(folder), "cpu").scores(pairs())
    np.testing.assert_allclose(scores, expected, atol=2e-6)
    assert np.ptp(scores) > 0.01
    if activation is None:
        assert ((scores > 0) & (scores < 1)).all()


def test_margins_count_on_its_scores_and_the_order_stays_the_retrievers(tiny_bert: Path, tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "cross")
    source, config = small_mining(tmp_path, tiny_bert, num_negatives=20, relative_margin=0.02, rescore=str(model))
    texts = source.passages
    report = mine(config)
    cross, left = CrossEncoder.load(str(model), "cpu"), 0
    for row in read_rows(config.out):
        ceiling = 0.98 * cross.scores([(row.query, row.positives[0].text)])[0]
        others = [text for text in texts.values() if text != row.positives[0].text]
        scores = dict(zip(others, cross.scores([(row.query, text) for text in others]).tolist(), strict=True))
        assert {n.text for n in row.negatives} == {text for text, score in scores.items() if score < ceiling}
        left += len(others) - len(row.negatives)
        for negative in row.negatives:
            dense, rescored = negative.found
            assert (dense.by, rescored.by, rescored.rank) == ("dense", "rescore", None)
            assert rescored.score == pytest.approx(scores[negative.text], abs=1e-5)
            assert negative.score == dense.score
        similarities = [n.score or 0 for n in row.negatives]
        assert similarities == sorted(similarities, reverse=True)
    assert left == report.dropped["relative_margin"] > 0
    assert report.rescored_pairs == 4 * len(texts)
    assert f"read {report.rescored_pairs} pairs" in report.summary()


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def other_activation(folder: Path) -> None:
    (folder / "config_sentence_transformers.json").write_text('{"activation_fn": "my_code.Activation"}')


def with_prompts(folder: Path) -> None:
    (folder / "config_sentence_transformers.json").write_text('{"prompts": {"query": "Judge: "}}')


def of_no_length(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": -1}))


def own_module(folder: Path) -> None:
    (folder / "modules.json").write_text('[{"idx": 0, "name": "0", "path": "", "type": "my_code.Thing"}]')


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (pickled, "no .safetensors weights"),
        (other_activation, "my_code.Activation"),
        (with_prompts, "prompts"),
        (own_module, "expected the one module Transformer"),
        (of_no_length, "takes -1 tokens by its files"),
    ],
)
def test_what_cannot_be_reproduced_is_refused(change, words: str, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "cross")
    change(folder)
    with pytest.raises(InputError, match=words):
        CrossEncoder.load(str(folder), "cpu")


def test_a_model_without_one_score_is_refused(tiny_bert: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="3 labels, expected one"):
        CrossEncoder.load(str(save_tiny(tmp_path / "nli", labels=3)), "cpu")
    with pytest.raises(InputError, match="lacks the weight"):
        CrossEncoder.load(str(tiny_bert), "cpu")
