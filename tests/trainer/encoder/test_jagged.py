"""Attention of all texts in one kernel: equal to text by text, and only used where it is."""

from itertools import accumulate
from pathlib import Path

import pytest
import torch

from tests.trainer.conftest import TEXTS
from trainer.encoder import jagged, packed
from trainer.encoder.encoder import Encoder
from trainer.encoder.jagged import has_jagged_attention, jagged_attention

LENGTHS = [9, 9, 4, 1]


@pytest.mark.parametrize("key_heads", [4, 2])
def test_equal_to_each_text_by_itself(key_heads: int) -> None:
    made = torch.manual_seed(0)
    query, key, value = (
        torch.randn(sum(LENGTHS), heads, 8, dtype=torch.float64, generator=made).requires_grad_()
        for heads in (4, key_heads, key_heads)
    )
    weights = torch.randn(query.shape, dtype=torch.float64, generator=made)

    def gradients(output: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad((output * weights).sum(), (query, key, value))

    offsets = torch.tensor([0, *accumulate(LENGTHS)])
    ends = (min(LENGTHS), max(LENGTHS))
    together = jagged_attention(query, key, value, offsets, ends, causal=False, scaling=0.3)
    alone = torch.cat([
        torch.nn.functional.scaled_dot_product_attention(
            *(tensor.transpose(0, 1).unsqueeze(0) for tensor in text), scale=0.3, enable_gqa=True
        )[0].transpose(0, 1)
        for text in zip(*(tensor.split(LENGTHS) for tensor in (query, key, value)), strict=True)
    ])  # fmt: skip
    assert (together - alone).abs().max() < 1e-13
    for one, other in zip(gradients(together), gradients(alone), strict=True):
        assert (one - other).abs().max() < 1e-13


def test_the_trial_on_a_device_measures_values_and_gradients() -> None:
    # A processor has the kernel without causal masks and lacks it with them: both ends of the trial.
    assert jagged._difference(torch.device("cpu"), torch.float64, False) < 1e-12
    with pytest.raises(RuntimeError):  # in other words where PyTorch was built for GPUs
        jagged._difference(torch.device("cpu"), torch.float64, True)


def test_a_wrong_kernel_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = jagged.jagged_attention
    monkeypatch.setattr(jagged, "jagged_attention", lambda *tensors, **how: right(*tensors, **how) * 1.2)
    assert jagged._difference(torch.device("cpu"), torch.float64, False) > 0.05


def test_a_kernel_whose_gradient_is_not_a_number_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = jagged.jagged_attention

    def broken(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rest: object, **how: object) -> object:
        value.register_hook(lambda gradient: gradient * float("nan"))
        return right(query, key, value, *rest, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(jagged, "jagged_attention", broken)
    jagged.agrees.cache_clear()
    assert not jagged.agrees(torch.device("cpu"), torch.float64, False)
    jagged.agrees.cache_clear()


def test_not_used_on_a_processor() -> None:
    assert not has_jagged_attention(torch.device("cpu"), torch.float32, False)


def test_an_encoder_on_a_device_that_has_it_gives_the_same(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Encoder.load(str(tiny_bert), device="cpu").double()
    groups = made.embed(TEXTS, "document")
    calls = []

    def attention(*tensors: torch.Tensor, **how: object) -> torch.Tensor:
        calls.append(tensors)
        return jagged_attention(*tensors, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(packed, "has_jagged_attention", lambda device, dtype, causal: True)
    monkeypatch.setattr(packed, "jagged_attention", attention)
    assert (made.embed(TEXTS, "document") - groups).abs().max() < 1e-13
    assert len(calls) == made.transformer.config.num_hidden_layers  # type: ignore[union-attr]


def test_the_trial_may_run_inside_a_layer_that_is_computed_again(
    tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    differences: list[float] = []

    def tried(device: torch.device, dtype: torch.dtype, causal: bool) -> bool:
        if not differences:
            differences.append(jagged._difference(device, dtype, causal))
        return False  # what a processor computes there cannot be computed again

    monkeypatch.setattr(packed, "has_jagged_attention", tried)

    def gradients(recomputed: bool) -> list[torch.Tensor]:
        differences.clear()
        made = Encoder.load(str(tiny_bert), device="cpu")
        made.set_dropout(0.0)
        if recomputed:
            made.checkpoint_gradients()
        made.train().embed(TEXTS, "document")[:, 0].sum().backward()
        assert differences[0] < 1e-4
        return [parameter.grad for parameter in made.parameters() if parameter.grad is not None]

    for one, other in zip(gradients(True), gradients(False), strict=True):
        assert torch.equal(one, other)


def test_what_is_tried_is_the_type_of_autocast(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.dtype] = []
    monkeypatch.setattr(packed, "has_jagged_attention", lambda device, dtype, causal: asked.append(dtype))
    made = Encoder.load(str(tiny_bert), device="cpu")
    made.embed(TEXTS, "document")
    made.autocast = torch.bfloat16
    made.embed(TEXTS, "document")
    assert asked == [torch.float32, torch.float32, torch.bfloat16, torch.bfloat16]
