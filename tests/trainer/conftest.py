"""Tiny random encoders of both kinds (BERT-like, causal decoder) with a small tokenizer, built once a test run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoModel, BertConfig, PreTrainedConfig, PreTrainedTokenizerFast, Qwen3Config

from trainer.encoder import Encoder

WORDS = [
    *("how", "long", "can", "we", "restore", "deleted", "files", "from", "the", "bin", "team", "solo", "plan", "owner"),
    *("days", "months", "refund", "invoice", "card", "bank", "pay", "transfer", "fee", "account", "water", "boiler"),
    *("pressure", "tap", "leak", "repair", "winter", "summer", "ticket", "train", "bus", "seat", "cancel"),
]
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def make_tokenizer() -> PreTrainedTokenizerFast:
    # Letters as continuation pieces, so that words that are not listed split into several tokens.
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + list("0123456789.,:?'")
    vocabulary = [*_SPECIAL, *WORDS, *letters, *(f"##{letter}" for letter in letters)]
    tokenizer = Tokenizer(
        models.WordPiece({word: i for i, word in enumerate(dict.fromkeys(vocabulary))}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=64,
    )  # fmt: skip


SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 64, "pad_token_id": 0, "initializer_range": 0.2,
}  # fmt: skip


def save_random(
    folder: Path, config: PreTrainedConfig, *, kind: type = AutoModel, tokenizer: Any = None, seed: int = 0
) -> Path:
    """A model of random weights as transformers saves it, with the small tokenizer (None) or another one."""
    tokenizer = tokenizer or make_tokenizer()
    config.vocab_size = len(tokenizer)
    torch.manual_seed(seed)
    kind.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain transformers folder: 2 layers, width 32, dropout 0.1."""
    return save_random(tmp_path_factory.mktemp("models") / "tiny-bert", BertConfig(**SIZES))


@pytest.fixture
def encoder(tiny_bert: Path) -> Encoder:
    """The tiny BERT, by the mean of its tokens."""
    return Encoder.load(str(tiny_bert), device="cpu")


@pytest.fixture(scope="session")
def tiny_qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain transformers folder of a causal decoder: 2 layers, width 32, grouped-query attention."""
    config = Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=8)
    return save_random(tmp_path_factory.mktemp("models") / "tiny-qwen", config, seed=1)


TEXTS = [
    "How long can we restore deleted files?",
    "refund",
    "Whatever is deleted from a Team workspace sits in the shared bin for 90 days before being erased for good.",
    "the boiler, the tap and the water pressure in winter",
    "refund",
    "card payment",
]
