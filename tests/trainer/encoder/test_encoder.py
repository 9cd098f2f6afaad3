"""The encoder gives sentence-transformers' vectors, before and after saving, for every pooling and with prompts."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import normalizers

from data.base.errors import InputError
from tests.trainer.conftest import TEXTS
from trainer.encoder.encoder import Encoder
from trainer.encoder.model_files import find_model_folder
from trainer.encoder.pooling import POOLINGS


def peer_vectors(folder: Path, texts: list[str], role: str) -> np.ndarray:
    peer = SentenceTransformer(str(folder), device="cpu")
    encode = peer.encode_query if role == "query" else peer.encode_document
    return encode(texts, convert_to_numpy=True)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("model", ["tiny_bert", "tiny_qwen"])
@pytest.mark.parametrize("normalize", [True, False])
def test_saved_folder_gives_the_same_vectors_in_sentence_transformers(
    model: str, pooling: str, normalize: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    encoder = Encoder.load(
        str(request.getfixturevalue(model)), pooling=pooling, normalize=normalize, device="cpu",
        query_prompt="query: ", document_prompt="passage: ",
    )  # fmt: skip
    encoder.save(tmp_path / "saved")
    for role in ("query", "document"):
        ours = encoder.encode(TEXTS, role)
        assert np.abs(ours - peer_vectors(tmp_path / "saved", TEXTS, role)).max() < 1e-5
        again = Encoder.load(str(tmp_path / "saved"), device="cpu")
        assert again.settings == encoder.settings
        np.testing.assert_array_equal(ours, again.encode(TEXTS, role))
    if (model, pooling) != ("tiny_qwen", "cls"):  # a causal model's first token sees no prompt
        assert np.abs(encoder.encode(TEXTS, "query") - encoder.encode(TEXTS, "document")).max() > 1e-3


def test_folder_written_by_sentence_transformers_is_read(tiny_bert: Path, tmp_path: Path) -> None:
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    transformer = Transformer(str(tiny_bert))
    peer = SentenceTransformer(modules=[transformer, Pooling(32, "cls"), Normalize()], device="cpu")
    peer.prompts = {"query": "how ", "document": "the "}
    peer.max_seq_length = 12
    peer.save(str(tmp_path / "peer"))
    encoder = Encoder.load(str(tmp_path / "peer"), device="cpu")
    assert (encoder.settings.pooling, encoder.settings.normalize, encoder.max_length) == ("cls", True, 12)
    assert (encoder.settings.query_prompt, encoder.settings.document_prompt) == ("how ", "the ")
    assert np.abs(encoder.encode(TEXTS, "query") - peer.encode_query(TEXTS)).max() < 1e-5
    assert np.abs(encoder.encode(TEXTS, "document") - peer.encode_document(TEXTS)).max() < 1e-5


def test_plain_folder_defaults_to_normalised_mean_and_says_so(
    tiny_bert: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        encoder = Encoder.load(str(tiny_bert), device="cpu")
    settings = encoder.settings
    assert (settings.pooling, settings.normalize, encoder.max_length, encoder.dimension) == ("mean", True, 64, 32)
    assert "mean of its tokens" in caplog.text


def test_prompts_of_a_folder_are_said_once_when_it_is_loaded(
    tiny_bert: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Encoder.load(str(tiny_bert), query_prompt="Instruct: find\nQuery: ").save(tmp_path / "m")
    caplog.clear()
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            Encoder.load(str(tmp_path / "m"))
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"{tmp_path / 'm'}: queries begin with 'Instruct: find\\nQuery: ', passages have no prompt"]


@pytest.mark.parametrize("max_tokens", [1, 7, 30, 10_000])
def test_vectors_do_not_depend_on_how_texts_are_cut_into_passes(encoder: Encoder, max_tokens: int) -> None:
    one_by_one = np.concatenate([encoder.encode([text], "document") for text in TEXTS])
    together = encoder.encode(TEXTS, "document", max_tokens_per_batch=max_tokens)
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, one_by_one, atol=2e-6)


def test_embed_has_a_gradient_and_equals_encode(encoder: Encoder) -> None:
    vectors = encoder.embed(TEXTS, "document")
    np.testing.assert_allclose(vectors.detach().numpy(), encoder.encode(TEXTS, "document"), atol=2e-6)
    vectors[0, 0].backward()
    gradient = encoder.transformer.get_parameter("embeddings.word_embeddings.weight").grad
    assert gradient is not None and gradient.abs().sum() > 0


def test_encode_switches_dropout_off_and_back_on(tiny_bert: Path) -> None:
    encoder = Encoder.load(str(tiny_bert), device="cpu").train()
    encoder.set_dropout(0.5)
    np.testing.assert_array_equal(encoder.encode(TEXTS, "query"), encoder.encode(TEXTS, "query"))
    assert encoder.training
    assert not torch.equal(encoder.embed(TEXTS, "query"), encoder.embed(TEXTS, "query"))
    encoder.set_dropout(0.0)
    assert torch.equal(encoder.embed(TEXTS, "query"), encoder.embed(TEXTS, "query"))


def test_dropout_of_attention_is_set_where_the_model_says_0(tiny_qwen: Path) -> None:
    encoder = Encoder.load(str(tiny_qwen), device="cpu").train()
    attention = encoder.transformer.get_submodule("layers.0.self_attn")
    attention.attention_dropout = 0  # type: ignore[assignment]
    encoder.set_dropout(0.5)
    assert attention.attention_dropout == 0.5


def test_long_texts_are_cut_and_counted(tiny_bert: Path) -> None:
    encoder = Encoder.load(str(tiny_bert), device="cpu", max_length=10)
    assert all(len(ids) <= 10 for ids in encoder.tokenize(TEXTS, "document"))
    whole = Encoder.load(str(tiny_bert), device="cpu").tokenize(TEXTS, "document")
    assert encoder.num_truncated == sum(len(ids) > 10 for ids in whole) > 0


def test_fingerprint_covers_weights_prompts_pooling_and_length(tiny_bert: Path) -> None:
    def load(**values: object) -> Encoder:
        return Encoder.load(str(tiny_bert), device="cpu", **values)  # type: ignore[arg-type]

    base = load().fingerprint()
    assert base == load().fingerprint()
    altered = load()
    with torch.no_grad():
        next(altered.parameters()).view(-1)[0] += 1e-3
    cased, wider = load(), load()
    cased.tokenizer.backend_tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    wider.transformer.config.layer_norm_eps = 1e-3  # type: ignore[union-attr]
    others = [load(pooling="cls"), load(normalize=False), load(query_prompt="q"), load(max_length=20)]
    keys = {base, *(other.fingerprint() for other in (*others, altered, cased, wider))}
    assert len(keys) == 8
    used = load()
    used.encode(TEXTS, "query")
    assert used.fingerprint() == base


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "mps"])
def test_a_device_that_is_not_there_is_one_line(device: str, tiny_bert: Path) -> None:
    with pytest.raises(InputError, match=f"'device': cannot use '{device}': "):
        Encoder.load(str(tiny_bert), device=device)


def test_save_replaces_an_older_model_whole_and_leaves_nothing_else(encoder: Encoder, tmp_path: Path) -> None:
    encoder.save(tmp_path / "m")
    (tmp_path / "m" / "stale.txt").write_text("old")
    with torch.no_grad():
        next(encoder.parameters()).mul_(2)
    encoder.save(tmp_path / "m")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert not (tmp_path / "m" / "stale.txt").exists()
    assert Encoder.load(str(tmp_path / "m"), device="cpu").fingerprint() == encoder.fingerprint()


def test_save_does_not_overwrite_other_folders(encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="something else"):
        encoder.save(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_no_python_or_pickle_is_written_or_needed(encoder: Encoder, tmp_path: Path) -> None:
    encoder.save(tmp_path / "m")
    suffixes = {path.suffix for path in (tmp_path / "m").rglob("*") if path.is_file()}
    assert suffixes <= {".json", ".safetensors", ".txt"}


def setting(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: (m / "model.safetensors").unlink(), "no .safetensors weights"),
        (lambda m: (m / "model.safetensors").write_bytes(b"broken"), "cannot load the model"),
        (lambda m: (m / "modules.json").write_text("[]"), "not a list of sentence-transformers modules"),
        (lambda m: setting(m / "config.json", num_attention_heads=-1), "'num_attention_heads': expected 1 to 65536"),
        (lambda m: setting(m / "config.json", num_hidden_layers=10**30), "'num_hidden_layers': expected 1 to 10000"),
        (lambda m: setting(m / "config_sentence_transformers.json", prompts=True), "'prompts': expected an object"),
    ],
)
def test_folders_that_cannot_be_reproduced_exactly_are_refused(change, words, encoder: Encoder, tmp_path: Path) -> None:
    encoder.save(tmp_path / "m")
    change(tmp_path / "m")
    with pytest.raises(InputError, match=words):
        Encoder.load(str(tmp_path / "m"), device="cpu")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("./not-there", "unknown model './not-there'"),
        ("bundled:other", "unknown bundled model"),
    ],
)
def test_unknown_models_are_one_line(spec: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        Encoder.load(spec)
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_finite_are_refused(encoder: Encoder, tmp_path: Path) -> None:
    with torch.no_grad():
        next(encoder.parameters()).view(-1)[3] = float("nan")
    encoder.save(tmp_path / "m")
    with pytest.raises(InputError, match="NaN or infinity"):
        Encoder.load(str(tmp_path / "m"), device="cpu")


@pytest.mark.parametrize("max_length", [0, 2, 65])
def test_a_length_that_the_model_cannot_take_is_refused(max_length: int, tiny_bert: Path) -> None:
    with pytest.raises(InputError, match="max_length"):
        Encoder.load(str(tiny_bert), max_length=max_length)


def test_of_the_folder_of_a_run_the_model_that_it_trained_is_taken(tiny_bert: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_bert, tmp_path / "train" / "model")
    (tmp_path / "train" / "config.json").write_text("{}", encoding="utf-8")
    for given in (tmp_path, tmp_path / "train", tmp_path / "train" / "model"):
        assert find_model_folder(str(given)) == tmp_path / "train" / "model"
    (tmp_path / "train" / "model").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="nor model/ in it"):
        find_model_folder(str(tmp_path))
