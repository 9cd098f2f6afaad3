"""The gradient of one optimiser step, summed exactly from parts that fit into memory.

Both losses are means over rows, so parts of whole rows add up when each is divided by the step's own row counts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from trainer.batches import Example, make_batch
from trainer.config import TrainConfig
from trainer.encoder import Encoder
from trainer.losses import LossSums, loss_sums
from trainer.tokens import Tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What one optimiser step measured; means over its rows (NaN where no row has a generated negative)."""

    loss: float
    info_nce: float
    query_view: float
    entropy_ratio: float
    generated_mass: float
    expected_mass: float
    num_rows: int
    num_texts: int
    num_tokens: int


def accumulate_gradients(encoder: Encoder, batches: Sequence[Sequence[Example]], config: TrainConfig) -> StepReport:
    """Run every batch forward and backward, adding to the parameters' gradients; returns the step's means."""
    num_rows = sum(len(batch) for batch in batches)
    num_generated_rows = sum(bool(example.generated) for batch in batches for example in batch)
    sums: list[LossSums] = []
    num_texts = num_tokens = 0
    for batch in batches:
        tokens = _tokenize(encoder, batch)
        for part in _parts(batch, tokens, config):
            layout = make_batch(part, config.in_batch != "none")
            ids = [tokens["query", text] for text in layout.queries] + [
                tokens["document", text] for text in layout.passages
            ]
            embeddings = encoder(ids)
            device = embeddings.device
            part_sums = loss_sums(
                embeddings[: len(layout.queries)],
                embeddings[len(layout.queries) :],
                layout.candidates_BN.to(device),
                layout.valid_BN.to(device),
                layout.generated_BN.to(device),
                temperature=config.temperature,
                entropy_temperature=config.entropy_temperature,
                in_batch_BP=None if layout.in_batch_BP is None else layout.in_batch_BP.to(device),
            )
            loss = part_sums.info_nce / num_rows
            if config.entropy_weight > 0 and part_sums.num_generated_rows:
                loss = loss + config.entropy_weight * part_sums.query_view / num_generated_rows
            loss.backward()  # type: ignore[no-untyped-call]
            sums.append(part_sums)
            num_texts += len(ids)
            num_tokens += sum(map(len, ids))
    return _report(sums, config, num_texts, num_tokens)


def _tokenize(encoder: Encoder, batch: Sequence[Example]) -> dict[tuple[str, str], Tokens]:
    queries = list(dict.fromkeys(example.query for example in batch))
    passages = list(dict.fromkeys(text for e in batch for text in (e.positive, *e.mined, *e.generated)))
    found = {("query", text): ids for text, ids in zip(queries, encoder.tokenize(queries, "query"), strict=True)}
    documents = encoder.tokenize(passages, "document")
    return found | {("document", text): ids for text, ids in zip(passages, documents, strict=True)}


def _parts(
    batch: Sequence[Example], tokens: dict[tuple[str, str], Tokens], config: TrainConfig
) -> Iterator[Sequence[Example]]:
    if config.in_batch != "none":
        yield batch  # every row sees all passages
        return
    part: list[Example] = []
    size = 0
    for example in batch:
        texts = (example.positive, *example.mined, *example.generated)
        length = len(tokens["query", example.query]) + sum(len(tokens["document", text]) for text in texts)
        if part and size + length > config.max_tokens_per_step:
            yield part
            part, size = [], 0
        part.append(example)
        size += length
    yield part


def _report(sums: Sequence[LossSums], config: TrainConfig, num_texts: int, num_tokens: int) -> StepReport:
    num_rows = sum(part.num_rows for part in sums)
    num_generated_rows = sum(part.num_generated_rows for part in sums)

    def per_generated_row(values: Sequence[float]) -> float:
        return sum(values) / num_generated_rows if num_generated_rows else float("nan")

    # One transfer from the device for both sums of all parts.
    info_nce, query_view = (
        torch.stack([torch.stack([p.info_nce.detach(), p.query_view.detach()]) for p in sums]).sum(0).tolist()
    )
    view = query_view / num_generated_rows if num_generated_rows else 0.0
    return StepReport(
        loss=info_nce / num_rows + config.entropy_weight * view,
        info_nce=info_nce / num_rows,
        query_view=per_generated_row([query_view]),
        entropy_ratio=per_generated_row([part.entropy_ratio for part in sums]),
        generated_mass=per_generated_row([part.mass for part in sums]),
        expected_mass=per_generated_row([part.expected_mass for part in sums]),
        num_rows=num_rows,
        num_texts=num_texts,
        num_tokens=num_tokens,
    )
