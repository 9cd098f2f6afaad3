"""Every file and key that sentence-transformers reads is reproduced, or refused in a line that names it.

A reproduced folder gives sentence-transformers' vectors and its similarity's ranking; so does the folder saved again.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from data.base.errors import InputError
from tests.trainer.conftest import SIZES, TEXTS, make_tokenizer, save_random
from trainer.encoder.encoder import Encoder
from trainer.encoder.st_folder import _LEGACY_FLAGS, _TRANSFORMER_FILES, read_modules

QUERIES = ["How long can we RESTORE files?", "ΣΊΣΥΦΟΣ refund ΟΔΟΣ", "card İstanbul"]
Change = Callable[[Path], Any]


def write(file: str, **values: Any) -> Change:
    """Set keys of a JSON file of the folder, which may not be there yet; None leaves a key out."""

    def change(folder: Path) -> None:
        path = folder / file
        before = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps(before | values))

    return change


def only(file: str, **values: Any) -> Change:
    return lambda folder: (folder / file).write_text(json.dumps(values))


def transformer(**values: Any) -> Change:
    return write("sentence_bert_config.json", **values)


def overall(**values: Any) -> Change:
    return write("config_sentence_transformers.json", **values)


def renamed_transformer_file(name: str) -> Change:
    def change(folder: Path) -> None:
        (folder / "sentence_bert_config.json").unlink()
        only(name, max_seq_length=9, do_lower_case=True)(folder)

    return change


def modules(*kinds: str, **changes: Any) -> Change:
    paths = {"Transformer": "", "Pooling": "1_Pooling"}
    listed = [
        {
            "idx": i,
            "name": str(i),
            "path": paths.get(kind, f"{i}_{kind}"),
            "type": f"sentence_transformers.models.{kind}",
        }
        | changes
        for i, kind in enumerate(kinds)
    ]
    return lambda folder: (folder / "modules.json").write_text(json.dumps(listed))


def cased_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    found = json.loads(path.read_text())
    found["normalizer"] = {"type": "NFC"}
    path.write_text(json.dumps(found))


def both(*changes: Change) -> Change:
    def change(folder: Path) -> None:
        for one in changes:
            one(folder)

    return change


def reordered(folder: Path) -> None:
    path = folder / "modules.json"
    listed = json.loads(path.read_text())
    for module, idx in zip(listed, (7, 5, 6), strict=True):
        module["idx"] = idx
    path.write_text(json.dumps(listed))


def in_subfolder(folder: Path) -> None:
    (folder / "0_Transformer").mkdir()
    for path in list(folder.iterdir()):
        if path.is_file() and path.name not in ("modules.json", "config_sentence_transformers.json"):
            path.rename(folder / "0_Transformer" / path.name)
    listed = json.loads((folder / "modules.json").read_text())
    listed[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(listed))


def without_pooler(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("pooler.")}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


REPRODUCED: dict[str, Change] = {
    "as it is": lambda folder: None,
    **{f"pooling_mode {mode}": only("1_Pooling/config.json", embedding_dimension=32, pooling_mode=mode)
       for mode in _LEGACY_FLAGS.values()},
    **{flag: only("1_Pooling/config.json", word_embedding_dimension=32, **{flag: True}) for flag in _LEGACY_FLAGS},
    "no pooling flag": only("1_Pooling/config.json", word_embedding_dimension=32),
    "pooling_mode before flags": only("1_Pooling/config.json", embedding_dimension=32, pooling_mode=["max"],
                                      pooling_mode_cls_token=True),
    "no Normalize": modules("Transformer", "Pooling"),
    "no Normalize, dot": both(modules("Transformer", "Pooling"), overall(similarity_fn_name="dot")),
    "no Normalize, no similarity": both(modules("Transformer", "Pooling"), overall(similarity_fn_name=None)),
    "no Normalize, cut": both(modules("Transformer", "Pooling"), overall(similarity_fn_name="cosine", truncate_dim=6)),
    "no Normalize, dot, cut": both(
        modules("Transformer", "Pooling"), overall(similarity_fn_name="dot", truncate_dim=6)
    ),
    "Normalize, dot": overall(similarity_fn_name="dot"),
    "truncate_dim": overall(truncate_dim=6),
    "truncate_dim beyond the width": overall(truncate_dim=99),
    "order of modules.json": reordered,
    "transformer in a folder of its own": in_subfolder,
    "prompts": overall(prompts={"query": "how ", "document": "the plan: "}),
    "prompts under other names": overall(prompts={"query": "how ", "passage": "the plan: ", "corpus": "bank "}),
    "default_prompt_name": overall(prompts={"sts": "plan: "}, default_prompt_name="sts"),
    "no prompts": only("config_sentence_transformers.json", __version__={"sentence_transformers": "2.2.0"}),
    "max_seq_length": transformer(max_seq_length=9),
    "max_seq_length null": transformer(max_seq_length=None),
    "max_seq_length above the tokenizer's": both(write("tokenizer_config.json", model_max_length=9),
                                                 transformer(max_seq_length=30)),
    "the tokenizer's length": both(
        write("tokenizer_config.json", model_max_length=9), transformer(max_seq_length=None)
    ),
    "tokenizer_args": transformer(tokenizer_args={"model_max_length": 9, "truncation_side": "left"}),
    "processor_kwargs": transformer(processor_kwargs={"model_max_length": 8}),
    "config_args": transformer(config_args={"num_hidden_layers": 1}),
    "config_kwargs": transformer(config_kwargs={"hidden_act": "relu"}),
    "model_args": transformer(model_args={"attn_implementation": "eager", "torch_dtype": "float32"}),
    "do_lower_case": both(cased_tokenizer, transformer(do_lower_case=True)),
    "do_lower_case of a tokenizer that does": transformer(do_lower_case=True),
    "cased": cased_tokenizer,
    "unpad_inputs": transformer(unpad_inputs=False),
    "modality_config": transformer(
        transformer_task="feature-extraction", module_output_name="token_embeddings",
        modality_config={"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    ),
    "truncation from the left": write("tokenizer_config.json", truncation_side="left", model_max_length=9),
    "padding on the left": write("tokenizer_config.json", padding_side="left"),
    "no pooler": without_pooler,
    **{name: renamed_transformer_file(name) for name in _TRANSFORMER_FILES},
}  # fmt: skip


def same_as_peer(encoder: Encoder, folder: Path) -> None:
    peer = SentenceTransformer(str(folder), device="cpu")
    # One text at a time: without padding, whose place among absolute positions would matter.
    theirs = [np.concatenate([encode([text], convert_to_numpy=True) for text in texts])
              for encode, texts in ((peer.encode_query, QUERIES), (peer.encode_document, TEXTS))]  # fmt: skip
    ours = [encoder.encode(QUERIES, "query"), encoder.encode(TEXTS, "document")]
    for mine, other in zip(ours, theirs, strict=True):
        # Where the peer compares by cosine, ours are normalised.
        scale = np.linalg.norm(other, axis=1, keepdims=True) if encoder.settings.normalize else 1
        assert np.abs(mine - other / scale).max() < 2e-5
    expected = peer.similarity(*theirs).numpy()
    if encoder.settings.normalize and peer.similarity_fn_name == "cosine":
        np.testing.assert_allclose(ours[0] @ ours[1].T, expected, atol=1e-5)
    for mine, other in zip(ours[0] @ ours[1].T, expected, strict=True):
        order = np.argsort(-mine)
        assert (np.diff(other[order]) < 1e-5).all()


@pytest.fixture
def folder(encoder: Encoder, tmp_path: Path) -> Path:
    encoder.save(tmp_path / "m")
    return tmp_path / "m"


@pytest.mark.parametrize("name", REPRODUCED)
def test_a_setting_is_reproduced_and_saved_again(name: str, folder: Path, tmp_path: Path) -> None:
    REPRODUCED[name](folder)
    encoder = Encoder.load(str(folder), device="cpu")
    same_as_peer(encoder, folder)
    encoder.save(tmp_path / "again")
    again = Encoder.load(str(tmp_path / "again"), device="cpu")
    assert again.settings == encoder.settings
    same_as_peer(again, tmp_path / "again")


REFUSED: dict[str, tuple[Change, str]] = {
    "unknown pooling": (only("1_Pooling/config.json", pooling_mode="first"), "1_Pooling/config.json: pools by first"),
    "two poolings": (only("1_Pooling/config.json", pooling_mode=["cls", "mean"]), r"/config.json: .*cls \+ mean"),
    "include_prompt": (write("1_Pooling/config.json", include_prompt=False), "1_Pooling/config.json: .*include_prompt"),
    "another module": (modules("Transformer", "Pooling", "Dense"), "modules.json: .*Dense"),
    "code of its own": (modules("Transformer", "Pooling", type="custom.Pooling"), "modules.json: .*Pooling"),
    "two names": (modules("Transformer", "Pooling", name="a"), "modules.json: field 'name'"),
    "a name that is no text": (modules("Transformer", "Pooling", name={"a": 1}), "modules.json: .*idx, name, path"),
    "euclidean": (overall(similarity_fn_name="euclidean"), "transformers.json: field 'similarity_fn_name'.*euclidean"),
    "dot after a cut": (overall(similarity_fn_name="dot", truncate_dim=6), "transformers.json: field 'truncate_dim'"),
    "truncate_dim 0": (overall(truncate_dim=0), "transformers.json: field 'truncate_dim'"),
    "another kind": (overall(model_type="SparseEncoder"), "transformers.json: field 'model_type'"),
    "max_seq_length": (transformer(max_seq_length=65), "bert_config.json: field 'max_seq_length'.*64.*got 65"),
    "max_seq_length text": (transformer(max_seq_length="9"), "bert_config.json: field 'max_seq_length'"),
    "normalised elsewhere": (
        lambda m: write("2_Normalize/config.json", module_input_name="token_embeddings")(m),
        "2_Normalize/config.json: field 'module_input_name'",
    ),
    **{
        key: (transformer(**{key: value}), f"bert_config.json: field '{key}'")
        for key, value in {
            "transformer_task": "fill-mask", "module_output_name": "scores", "query_length": 8, "document_length": 8,
            "processing_kwargs": {"text": {"max_length": 8}}, "query_expansion": {"length": 8},
            "tokenizer_name_or_path": "x", "a_new_key": 1,
            "modality_config": {"text": {"method": "forward", "method_output_name": "pooler_output"}},
        }.items()
    },
    "half precision": (transformer(model_args={"torch_dtype": "float16"}), "bert_config.json: field 'model_kwargs'"),
    "another vocabulary": (transformer(tokenizer_args={"vocab_file": "/x"}), "config.json: field 'processor_kwargs'"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_reproduced_is_refused_by_file_and_setting(name: str, folder: Path) -> None:
    change, words = REFUSED[name]
    change(folder)
    with pytest.raises(InputError, match=words) as caught:
        Encoder.load(str(folder), device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "0.auto_model.", "encoder.", None])
def test_weights_that_the_files_lack_are_not_made_up(prefix: str | None, folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    if prefix is None:
        weights = {name: tensor for name, tensor in weights.items() if ".layer.1." not in name}
    save_file({f"{prefix or ''}{name}": tensor for name, tensor in weights.items()}, folder / "model.safetensors",
              {"format": "pt"})  # fmt: skip
    with pytest.raises(InputError, match=r"lacks the weight .*\(\d+ in all\)"):
        Encoder.load(str(folder), device="cpu")


def test_a_pooler_that_is_not_there_changes_no_key(folder: Path) -> None:
    without_pooler(folder)
    keys = {Encoder.load(str(folder), device="cpu").fingerprint() for _ in range(2)}
    assert len(keys) == 1


def test_an_adapter_is_merged_trained_and_saved(tiny_bert: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(
        transformers.AutoModel.from_pretrained(tiny_bert), LoraConfig(r=2, target_modules=["query"])
    )
    torch.manual_seed(4)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    Encoder.load(str(tiny_bert), device="cpu").save(tmp_path / "m")
    for file in ("model.safetensors", "config.json"):
        (tmp_path / "m" / file).unlink()
    adapted.save_pretrained(tmp_path / "m")
    encoder = Encoder.load(str(tmp_path / "m"), device="cpu")
    same_as_peer(encoder, tmp_path / "m")
    assert (
        np.abs(encoder.encode(TEXTS, "query") - Encoder.load(str(tiny_bert), device="cpu").encode(TEXTS, "query")).max()
        > 1e-3
    )
    encoder.embed(TEXTS, "query").sum().backward()
    encoder.save(tmp_path / "again")
    same_as_peer(Encoder.load(str(tmp_path / "again"), device="cpu"), tmp_path / "again")
    encoder.add_lora(2)


def test_a_decoder_without_a_token_to_pad_with_gets_one(tiny_qwen: Path, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.pad_token = None
    transformers.AutoModel.from_pretrained(tiny_qwen).save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    encoder = Encoder.load(str(tmp_path / "m"), device="cpu", pooling="lasttoken")
    encoder.save(tmp_path / "saved")
    peer = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert np.abs(peer.encode_document(TEXTS) - encoder.encode(TEXTS, "document")).max() < 1e-5


POSITIONS = {
    "roberta": 2, "xlm-roberta": 2, "xlm-roberta-xl": 2, "camembert": 2, "data2vec-text": 2, "xmod": 2, "luke": 2,
    "longformer": 2, "esm": 2, "mpnet": 2, "bert": 0, "distilbert": 0, "electra": 0, "gpt2": 0, "ibert": 2,
}  # fmt: skip


@pytest.mark.parametrize(("kind", "offset"), POSITIONS.items())
def test_a_text_of_the_greatest_length_has_positions(kind: str, offset: int, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = 1000
    extra: dict[str, dict[str, Any]] = {
        "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
        "longformer": {"attention_window": 8},
        "esm": {"position_embedding_type": "absolute"},
    }
    sizes = SIZES | {"max_position_embeddings": 40, "pad_token_id": 1} | extra.get(kind, {})
    save_random(tmp_path / "m", transformers.AutoConfig.for_model(kind, **sizes), tokenizer=tokenizer)
    encoder = Encoder.load(str(tmp_path / "m"), device="cpu")
    assert encoder.max_length == 40 - offset
    assert np.isfinite(encoder.encode(["how long can we restore " * 20], "document")).all()
    assert encoder.num_truncated == 1


def test_a_tokenizer_in_python_is_cached_and_counts_what_it_cuts(tiny_bert: Path, tmp_path: Path) -> None:
    words = ["how", "long", "can", "we", "restore", "deleted", "files", "refund", "card"]
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "vocab.txt").write_text("".join(f"{word}</w> 1\n" for word in words))
    (tmp_path / "m" / "bpe.codes").write_text("".join(f"{a} {b} 1\n" for a, b in [("r", "e"), ("f", "u")]))
    tokenizer = transformers.PhobertTokenizer(str(tmp_path / "m" / "vocab.txt"), str(tmp_path / "m" / "bpe.codes"))
    config = transformers.RobertaConfig(**SIZES | {"max_position_embeddings": 66, "pad_token_id": 1})
    save_random(tmp_path / "m", config, tokenizer=tokenizer)
    load = lambda **more: Encoder.load(str(tmp_path / "m"), device="cpu", **more)  # noqa: E731
    encoder = load(max_length=6)
    assert not encoder.tokenizer.is_fast
    encoder.encode(["refund", "how long can we restore deleted files"], "document")
    assert encoder.num_truncated == 1
    assert load().fingerprint() == load().fingerprint() != load(max_length=7).fingerprint()
    encoder.save(tmp_path / "saved")
    same_as_peer(encoder, tmp_path / "saved")


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("config.json", {"hidden_size": True}),
        ("config.json", {"hidden_act": {"a": 1}}),
        ("tokenizer.json", {"version": -1}),
        ("tokenizer.json", {"added_tokens": [1.5]}),
        ("tokenizer_config.json", {"model_max_length": {}}),
        ("tokenizer_config.json", {"tokenizer_class": 5}),
        ("tokenizer_config.json", {"a": "\ud800"}),
    ],
)
def test_a_setting_of_a_wrong_type_is_one_line(file: str, values: dict[str, Any], folder: Path) -> None:
    write(file, **values)(folder)
    with pytest.raises(InputError):
        Encoder.load(str(folder), device="cpu")


@pytest.mark.parametrize("length", [-1, 0, 2])
def test_a_tokenizer_that_takes_no_text_is_refused_unless_a_length_is_given(
    length: int, tiny_bert: Path, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_bert, tmp_path / "plain")
    for each in (tmp_path / "plain", folder):
        write("tokenizer_config.json", model_max_length=length)(each)
    with pytest.raises(InputError, match=f"takes {length} tokens by its files, expected at least 3"):
        Encoder.load(str(tmp_path / "plain"), device="cpu")
    assert Encoder.load(str(tmp_path / "plain"), device="cpu", max_length=9).max_length == 9
    assert Encoder.load(str(folder), device="cpu").max_length == 64


def test_modules_that_are_too_deep_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(InputError, match="is not a list of"):
        read_modules(tmp_path / "modules.json")
