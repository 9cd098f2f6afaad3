"""Packed encoding gives what padding gives: vectors and gradients, for every architecture that it is used for."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import transformers

from data.base.errors import InputError
from tests.trainer.conftest import SIZES, TEXTS, save_random
from trainer.encoder.encoder import Encoder
from trainer.encoder.packed import PACKABLE, Packing, pack, packed_attention
from trainer.encoder.pooling import POOLINGS

LONG = [*TEXTS, "how long can we restore deleted files from the bin " * 4, "tap", "card payment"]


def tiny_config(kind: str) -> transformers.PretrainedConfig:
    common = SIZES | {"max_position_embeddings": 80}
    if kind in ("qwen2", "qwen3", "llama", "mistral"):
        common |= {"num_key_value_heads": 2, "head_dim": 8, "attention_dropout": 0.1}
    if kind == "mistral":
        common |= {"sliding_window": 6}
    return transformers.AutoConfig.for_model(kind, **common)


@pytest.fixture(params=sorted(PACKABLE))
def model_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A tiny random model of each packable architecture."""
    return save_random(tmp_path / "m", tiny_config(request.param), seed=3)


def encoder(folder: Path, packed: bool, pooling: str) -> Encoder:
    loaded = Encoder.load(str(folder), device="cpu", pooling=pooling, max_length=60)
    assert loaded.packed
    if not packed:
        loaded.packed = False
        loaded.transformer.set_attn_implementation("sdpa")  # type: ignore[operator]
    return loaded


def vectors_and_gradients(made: Encoder) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    vectors = made.embed(LONG, "document")
    weights = torch.randn(vectors.shape, generator=torch.manual_seed(0), dtype=torch.float64).to(vectors)
    (vectors * weights).sum().backward()
    return vectors.detach(), {n: p.grad for n, p in made.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize(
    ("precision", "vectors_within", "gradients_within"),
    [(torch.float64, 1e-13, 1e-11), (torch.float32, 1e-5, 1e-4)],
    ids=["float64", "float32"],
)
def test_packed_equals_padded(
    model_folder: Path, pooling: str, precision: torch.dtype, vectors_within: float, gradients_within: float
) -> None:
    padded, padded_gradients = vectors_and_gradients(encoder(model_folder, False, pooling).to(precision))
    packed, packed_gradients = vectors_and_gradients(encoder(model_folder, True, pooling).to(precision))
    if precision == torch.float64 and hasattr(transformers.AutoConfig.from_pretrained(model_folder), "rms_norm_eps"):
        # transformers computes RMSNorm and rotary positions in float32 whatever the model's precision.
        vectors_within, gradients_within = 1e-6, 1e-5
    assert (packed - padded).abs().max() < vectors_within
    assert packed_gradients.keys() == padded_gradients.keys()
    # A key's bias has no effect under softmax: its gradient is rounding noise, so the scale has a floor.
    floor = 1e-3 * max(float(gradient.abs().max()) for gradient in padded_gradients.values())
    for name, gradient in padded_gradients.items():
        scale = gradient.abs().max().clamp(min=floor)
        assert ((packed_gradients[name] - gradient).abs().max() / scale) < gradients_within, name


def test_texts_do_not_see_each_other(tiny_qwen: Path) -> None:
    made = Encoder.load(str(tiny_qwen), device="cpu", pooling="lasttoken")
    alone = np.concatenate([made.encode([text], "document") for text in LONG])
    np.testing.assert_allclose(made.encode(LONG, "document"), alone, atol=2e-6)


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_a_decoder_that_looks_both_ways(kind: str, tmp_path: Path) -> None:
    config = tiny_config(kind)
    config.is_causal = False
    save_random(tmp_path / "m", config)
    both_ways = [encoder(tmp_path / "m", packed, "mean").encode(LONG, "document") for packed in (True, False)]
    np.testing.assert_allclose(*both_ways, atol=1e-5)
    causal = Encoder.load(str(tmp_path / "m"), device="cpu", pooling="mean", max_length=60)
    causal.transformer.config.is_causal = True  # type: ignore[union-attr]
    assert np.abs(causal.encode(LONG, "document") - both_ways[0]).max() > 1e-2


def test_an_architecture_that_is_not_known_is_padded(tmp_path: Path) -> None:
    save_random(tmp_path / "m", tiny_config("mpnet"))
    made = Encoder.load(str(tmp_path / "m"), device="cpu")
    assert not made.packed
    alone = np.concatenate([made.encode([text], "document") for text in LONG])
    np.testing.assert_allclose(made.encode(LONG, "document"), alone, atol=1e-5)


def test_equal_texts_are_encoded_once(tiny_bert: Path) -> None:
    made = Encoder.load(str(tiny_bert), device="cpu").train()
    seen: list[int] = []
    made.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    vectors = made.embed(["refund", "card", "refund"], "document")
    assert seen == [6]
    assert torch.equal(vectors[0], vectors[2]) and not torch.equal(vectors[0], vectors[1])


@pytest.mark.parametrize("packed", [True, False])
def test_an_unknown_pooling_is_refused_packed_and_padded(
    packed: bool, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not packed:
        monkeypatch.setattr("trainer.encoder.encoder.use_packed_attention", lambda transformer: False)
    made = Encoder.load(str(tiny_bert), device="cpu")
    assert made.packed is packed
    made.settings = dataclasses.replace(made.settings, pooling="first")
    with pytest.raises(InputError, match=r"expected one of mean, cls, .* got 'first'"):
        made.embed(["refund"], "query")


def attention_layer(causal: bool) -> torch.nn.Module:
    layer = torch.nn.Module()
    layer.is_causal, layer.config = causal, SimpleNamespace()  # type: ignore[assignment]
    return layer


def packing_of(lengths: list[int]) -> Packing:
    return pack([[1] * length for length in lengths], torch.device("cpu"))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("length", [7, 1025])
def test_attention_in_half_precision_is_that_of_float32(causal: bool, window: int | None, length: int) -> None:
    packing, generator = packing_of([length, length, 3]), torch.manual_seed(0)
    # Four heads of queries share two of keys and values.
    inputs = [torch.randn(1, heads, 2 * length + 3, 8, generator=generator) for heads in (4, 2, 2)]
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        leaves = [tensor.to(dtype).requires_grad_() for tensor in inputs]
        attended, _ = packed_attention(
            attention_layer(causal), *leaves, None, packing=packing, scaling=8**-0.5, sliding_window=window
        )
        assert attended.dtype == dtype
        results.append([attended, *torch.autograd.grad(attended.float().square().sum(), leaves)])
    for exact, half in zip(*results, strict=True):
        assert float((exact - half).detach().norm() / exact.detach().norm()) < 0.01


def test_a_cpu_attends_in_float32_whatever_autocast_would_round(monkeypatch: pytest.MonkeyPatch) -> None:
    fused = Mock(side_effect=torch.nn.functional.scaled_dot_product_attention)
    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", fused)
    query, packing = torch.randn(1, 2, 5, 8), packing_of([5])
    exact, _ = packed_attention(attention_layer(False), query, query, query, None, packing=packing, scaling=1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded, _ = packed_attention(attention_layer(False), query, query, query, None, packing=packing, scaling=1.0)
    assert [call.args[0].dtype for call in fused.call_args_list] == [torch.float32, torch.float32]
    assert rounded.dtype == torch.bfloat16 and torch.equal(rounded, exact.bfloat16())


def test_half_precision_on_a_cpu_meets_few_numbers_of_tokens(tiny_bert: Path) -> None:
    made = Encoder.load(str(tiny_bert), device="cpu", precision="bfloat16")
    exact = Encoder.load(str(tiny_bert), device="cpu", precision="float32")
    seen: list[int] = []
    for encoder in (made, exact):
        encoder.transformer.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
        )
    texts = LONG * 2  # twice: equal ones are computed once
    np.testing.assert_allclose(made.encode(texts, "document"), exact.encode(texts, "document"), atol=0.02)
    assert seen[0] % 64 == 0 and 0 < seen[0] - seen[1] < 64
