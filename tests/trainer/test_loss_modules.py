"""The modules say what the pure functions say, and sentence-transformers' trainer takes the loss as it is."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from data.formats.convert import write_format
from data.records import Negative, Passage, Row
from trainer.loss_modules import CounterfactualLoss, InfoNCE, QueryViewEntropy
from trainer.losses import candidate_scores, graded_info_nce, info_nce, loss_sums

GENERATED = torch.tensor([[False, False, True, True], [False, False, False, False], [False, True, False, False]])
VALID = torch.tensor([[True, True, True, True], [True, True, False, False], [True, True, True, False]])


@pytest.fixture
def embeddings() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    # Small, so that no softmax is so sharp that a gradient rounds to zero.
    queries = 0.3 * torch.randn(3, 6, generator=generator, dtype=torch.float64)
    candidates = 0.3 * torch.randn(3, 4, 6, generator=generator, dtype=torch.float64)
    return queries.requires_grad_(), candidates.requires_grad_()


def test_the_modules_are_the_functions(embeddings: tuple[Tensor, Tensor]) -> None:
    queries, candidates = embeddings
    sums = loss_sums(
        queries, candidates.flatten(0, 1), torch.arange(12).view(3, 4), VALID, GENERATED,
        temperature=0.05, entropy_temperature=0.1,
    )  # fmt: skip
    torch.testing.assert_close(InfoNCE()(queries, candidates, VALID), sums.info_nce / 3)
    torch.testing.assert_close(QueryViewEntropy()(queries, candidates, GENERATED, VALID), sums.query_view / 2)
    assert repr(QueryViewEntropy(0.2)) == "QueryViewEntropy(temperature=0.2)"


def test_the_entropy_term_moves_generated_candidates_alone(embeddings: tuple[Tensor, Tensor]) -> None:
    queries, candidates = embeddings
    QueryViewEntropy()(queries, candidates, GENERATED, VALID).backward()
    assert queries.grad is None
    assert candidates.grad is not None
    moved = candidates.grad.abs().sum(dim=-1) > 0
    # A row's only generated negative has no entropy to gain but still a mass to lose.
    assert moved.equal(GENERATED)


def test_without_generated_negatives_the_term_is_zero_and_differentiable(embeddings: tuple[Tensor, Tensor]) -> None:
    queries, candidates = embeddings
    loss = QueryViewEntropy()(queries, candidates, torch.zeros_like(GENERATED))
    assert loss == 0
    (loss + InfoNCE()(queries, candidates)).backward()
    assert candidates.grad is not None and candidates.grad.isfinite().all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda q, c: InfoNCE(0.0), "temperature"),
        (lambda q, c: QueryViewEntropy(math.nan), "temperature"),
        (lambda q, c: InfoNCE()(q, c[:2]), r"queries \[B, D\]"),
        (lambda q, c: InfoNCE()(q, c, VALID.long()), "masks of True and False"),
        (lambda q, c: InfoNCE()(q, c, ~VALID), "column 0"),
        (lambda q, c: QueryViewEntropy()(q, c, VALID), "column 0"),
        (lambda q, c: QueryViewEntropy()(q, c, GENERATED, ~GENERATED), "must be valid"),
        (lambda q, c: CounterfactualLoss(torch.nn.Identity(), entropy_temperature=0.0), "^entropy_temperature"),
        (lambda q, c: CounterfactualLoss(torch.nn.Identity(), generated_weight=0.0), "generated_weight"),
        (lambda q, c: CounterfactualLoss(torch.nn.Identity(), entropy_weight=-1), "entropy_weight"),
        (lambda q, c: CounterfactualLoss(torch.nn.Identity(), grade_sharpness=0.0), "grade_sharpness"),
    ],
)
def test_what_does_not_fit_is_refused(call, words: str, embeddings: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match=words):
        call(*embeddings)


class Lookup(torch.nn.Module):
    """Stands for a SentenceTransformer: features are the embeddings."""

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"sentence_embedding": features["x"]}


@pytest.fixture
def unit(embeddings: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The embeddings at length 1, without a gradient."""
    queries, candidates = (torch.nn.functional.normalize(e.detach(), dim=-1) for e in embeddings)
    return queries, candidates


def columns(queries: Tensor, candidates: Tensor) -> list[dict[str, Tensor]]:
    return [{"x": x} for x in (queries, *candidates.unbind(dim=1))]


def all_scores(queries: Tensor, candidates: Tensor, in_batch: bool) -> Tensor:
    """Those of a row's own candidates, and then of the other rows'."""
    scores = candidate_scores(queries, candidates)
    if not in_batch:
        return scores
    others = torch.stack([torch.cat([candidates[j] for j in range(3) if j != i]) for i in range(3)])
    return torch.cat([scores, candidate_scores(queries, others)], dim=1)


@pytest.mark.parametrize("in_batch", [False, True])
def test_the_loss_for_tuples(in_batch: bool, unit: tuple[Tensor, Tensor]) -> None:
    queries, candidates = unit
    features, labels = columns(*unit), GENERATED[:, 1:].long()
    loss = CounterfactualLoss(Lookup(), in_batch=in_batch, generated_weight=1.0)(features, labels)
    scores = all_scores(*unit, in_batch)
    expected = info_nce(scores, torch.ones_like(scores, dtype=torch.bool), 0.05).mean()
    torch.testing.assert_close(loss["info_nce"], expected)
    torch.testing.assert_close(loss["query_view"], 0.05 * QueryViewEntropy()(queries, candidates, GENERATED))
    quieter = CounterfactualLoss(Lookup(), in_batch=in_batch)(features, labels)
    assert quieter["info_nce"] < expected and quieter["query_view"] == loss["query_view"]
    plain = CounterfactualLoss(Lookup(), in_batch=in_batch)(features)
    torch.testing.assert_close(plain["info_nce"], expected)
    assert plain["query_view"] == 0
    with pytest.raises(ValueError, match="one label a negative"):
        CounterfactualLoss(Lookup())(features, labels[:, :1])
    with pytest.raises(ValueError, match="anchor, positive"):
        CounterfactualLoss(Lookup())(features[:1])


@pytest.mark.parametrize("in_batch", [False, True])
def test_the_graded_loss_for_tuples(in_batch: bool, unit: tuple[Tensor, Tensor]) -> None:
    features = columns(*unit)
    grades = torch.tensor([[-1.0, 0.5, 0.25], [-1, 0.9, -1], [1.0, -1, 0.5]], dtype=torch.float64)
    labels = torch.stack([GENERATED[:, 1:].double(), grades], dim=-1)
    loss = CounterfactualLoss(Lookup(), in_batch=in_batch, grade_sharpness=4.0)(features, labels)
    own = torch.cat([torch.ones(3, 1), torch.where(GENERATED[:, 1:], grades, 0.0)], dim=1)
    scores = all_scores(*unit, in_batch)
    padded = torch.nn.functional.pad(own, (0, scores.shape[1] - 4))
    expected = graded_info_nce(scores, torch.ones_like(scores, dtype=torch.bool), padded, 0.05, 4.0).mean()
    torch.testing.assert_close(loss["info_nce"], expected)
    # Graded, the entropy term is off unless it is asked for; plain, the grades are not looked at.
    assert loss["query_view"] == 0
    plain = CounterfactualLoss(Lookup(), in_batch=in_batch)
    assert plain(features, labels) == plain(features, labels[..., 0])
    with pytest.raises(ValueError, match="st-graded"):
        CounterfactualLoss(Lookup(), grade_sharpness=4.0)(features, labels[..., 0])


@pytest.mark.parametrize("in_batch", [False, True])
def test_half_precision_embeddings_lose_nothing_more(in_batch: bool, unit: tuple[Tensor, Tensor]) -> None:
    def losses(kind: torch.dtype) -> dict[str, Tensor]:
        features = columns(*(embeddings.bfloat16().to(kind) for embeddings in unit))
        return CounterfactualLoss(Lookup(), in_batch=in_batch)(features, GENERATED[:, 1:].long())

    exact = losses(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast = losses(torch.bfloat16)
    for name, value in losses(torch.bfloat16).items():
        torch.testing.assert_close(value, exact[name])
        torch.testing.assert_close(autocast[name], exact[name])


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["st-origins", "st-graded"])
def test_sentence_transformers_trains_with_the_loss(layout: str, tiny_bert: Path, tmp_path: Path) -> None:
    import datasets
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers.sentence_transformer.training_args import SentenceTransformerTrainingArguments

    rows = [
        Row(
            query_id=f"q{i}",
            query=f"how long can we restore deleted files {i}",
            positives=(Passage(id=f"p{i}", text=f"{i} days"),),
            negatives=tuple(
                Negative(text=f"{word} {i}", source=source, grade=0.5)
                for word, source in (("refund", "mined"), ("invoice", "generated"), ("card", "generated"))
            ),
        )
        for i in range(4)
    ]
    write_format(tmp_path / "tuples.jsonl", layout, rows, 3)
    table = datasets.load_dataset(
        "json", data_files=str(tmp_path / "tuples.jsonl"), split="train", cache_dir=str(tmp_path / "cache")
    )
    model = SentenceTransformer(str(tiny_bert), device="cpu")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(tmp_path / "out"), max_steps=2, per_device_train_batch_size=2, report_to=[],
            save_strategy="no", use_cpu=True, learning_rate=0.01, logging_steps=1,
        ),
        train_dataset=table,
        loss=CounterfactualLoss(
            model, entropy_weight=0.05, grade_sharpness=4.0 if layout == "st-graded" else None
        ),
    )  # fmt: skip
    run.train()
    assert any(not value.equal(before[name]) for name, value in model.state_dict().items())
    # That trainer logs both terms; the entropy of two is at most log 2.
    (first, *_) = run.state.log_history
    assert -0.05 * math.log(2) <= first["query_view"] < 0 and first["info_nce"] > 0
