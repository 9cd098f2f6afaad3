"""Token embeddings that add their gradient row by row give autograd's own, to the bit."""

import torch
from torch import nn

from trainer.encoder.embedding import RowEmbedding, rows_added, use_row_embeddings

IDS = [torch.tensor([[3, 1, 3, 0, 7]]), torch.tensor([[7, 7, 2, 3]]), torch.tensor([[0]])]


def gradient(model: nn.Module, weights: list[torch.Tensor]) -> torch.Tensor:
    for ids, factors in zip(IDS, weights, strict=True):
        (model(ids) * factors).sum().backward()
    (weight,) = model.parameters()
    assert weight.grad is not None
    return weight.grad


def test_the_gradient_of_several_parts_is_that_of_autograd_to_the_bit() -> None:
    torch.manual_seed(0)
    for padding in (None, 0):
        plain = nn.Sequential(nn.Embedding(9, 4, padding_idx=padding))
        ours = nn.Sequential(nn.Embedding(9, 4, padding_idx=padding))
        ours.load_state_dict(plain.state_dict())
        use_row_embeddings(ours)
        assert type(ours[0]) is RowEmbedding
        factors = [torch.randn(*ids.shape, 4) for ids in IDS]
        with rows_added(ours):
            assert torch.equal(ours(IDS[0]), plain(IDS[0]))
            found = gradient(ours, factors)
        assert torch.equal(found, gradient(plain, factors))
        assert bool(found[[1, 2, 3, 7]].any(dim=1).all()) and not found[[4, 5, 6, 8]].any()


def test_outside_of_a_step_the_gradient_is_handed_to_autograd() -> None:
    model = nn.Sequential(nn.Embedding(9, 4))
    use_row_embeddings(model)
    with rows_added(model):
        pass
    (found,) = torch.autograd.grad(model(IDS[0]).sum(), list(model.parameters()))
    assert found[3].tolist() == [2.0] * 4
    assert model[0].weight.grad is None


def test_frozen_tables_and_those_with_rules_of_their_own_stay_as_they_are() -> None:
    model = nn.Sequential(nn.Embedding(9, 4, max_norm=1.0), nn.Embedding(9, 4, sparse=True))
    use_row_embeddings(model)
    assert [type(child) for child in model] == [nn.Embedding, nn.Embedding]
    frozen = nn.Sequential(nn.Embedding(9, 4))
    use_row_embeddings(frozen.requires_grad_(False))
    with rows_added(frozen):
        assert not frozen(IDS[0]).requires_grad
