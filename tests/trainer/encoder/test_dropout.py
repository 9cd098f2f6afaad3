"""The cheaper dropout drops as often as PyTorch's, scales alike, and repeats with the seed."""

import pytest
import torch
from torch import nn

from trainer.encoder.dropout import FastDropout, dropout, keep_mask, use_fast_dropout


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_share_dropped_and_scale(probability: float) -> None:
    torch.manual_seed(0)
    mask = keep_mask(torch.Size([400, 999]), probability)
    kept = (mask > 0).double().mean().item()
    error = 4 * (probability * (1 - probability) / mask.numel()) ** 0.5
    assert kept == pytest.approx(1 - probability, abs=error + 1e-5)
    assert mask.unique().tolist() == pytest.approx([0.0, 1 / (1 - probability)], rel=2e-4)
    assert mask.mean().item() == pytest.approx(1.0, abs=2 * error / (1 - probability))


def test_the_four_elements_of_one_random_number_are_independent() -> None:
    torch.manual_seed(1)
    kept = (keep_mask(torch.Size([100_000, 4]), 0.3) > 0).double()
    correlation = torch.corrcoef(kept.T) - torch.eye(4, dtype=torch.float64)
    assert correlation.abs().max() < 0.015
    assert (kept.mean(dim=0) - 0.7).abs().max() < 0.01


def test_gradient_passes_where_the_value_passed() -> None:
    torch.manual_seed(2)
    values = torch.ones(50, 7, requires_grad=True)
    out = dropout(values, 0.4)
    out.sum().backward()
    assert values.grad is not None and torch.equal(values.grad, out.detach())


def test_seed_repeats_and_evaluation_does_nothing() -> None:
    module = FastDropout(0.5)
    values = torch.randn(31)
    torch.manual_seed(3)
    first = module(values)
    torch.manual_seed(3)
    assert torch.equal(first, module(values))
    assert torch.equal(module.eval()(values), values)


def test_every_dropout_of_a_module_is_replaced() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.2), nn.Sequential(nn.Dropout(0.3)))
    use_fast_dropout(module)
    assert [m.p for m in module.modules() if isinstance(m, FastDropout)] == [0.2, 0.3]
    assert not [m for m in module.modules() if type(m) is nn.Dropout]
