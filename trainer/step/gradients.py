"""The gradient of one optimiser step, summed exactly from parts that fit into memory and from all processes.

Both losses are means over rows. Divided by the step's own row counts, the parts of a batch, and the shares of several
processes, add up to what one pass over the whole batch would give; the weight of the entropy term does not depend on
how many processes there are.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainer.config import TrainConfig
from trainer.distributed import ALONE, World
from trainer.encoder import Encoder
from trainer.encoder.embedding import rows_added
from trainer.encoder.packed import Tokens, token_chunks
from trainer.losses import LossSums, loss_sums
from trainer.step.batches import Batch, Example, make_batch


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What one optimiser step measured, at full width: means over rows (NaN where none has a generated negative).

    num_masked: negatives left out as likely relevant, None without `mask_above`.
    """

    loss: float
    info_nce: float
    query_view: float
    entropy_ratio: float
    generated_mass: float
    expected_mass: float
    num_rows: int
    num_texts: int
    num_tokens: int
    num_truncated: int
    num_masked: int | None


def accumulate_gradients(
    encoder: Encoder,
    batches: Sequence[Sequence[Example]],
    config: TrainConfig,
    world: World = ALONE,
    scaled: Callable[[Tensor], Tensor] = lambda loss: loss,
) -> StepReport:
    """Run the batches of one step forward and backward; every process ends with the whole step's gradients and means.

    Every process is given all rows and takes its share. `scaled` multiplies what goes backward (see `loss_scaler`).
    """
    step = _Step(encoder, config, batches, scaled)
    with rows_added(encoder):
        for batch in batches:
            mine = [batch[i] for i in world.share(len(batch))]
            if config.loss.in_batch == "cross-device":
                step.with_shared_passages(batch, world)
            elif config.loss.in_batch == "in-batch" and mine:
                step.with_shared_passages(mine, ALONE)
            else:
                step.own_candidates_only(mine)
    world.sum_gradients(encoder.parameters())
    return step.report(world)


class _Step:
    """The row counts that the step's means divide by, and the sums collected so far."""

    def __init__(
        self,
        encoder: Encoder,
        config: TrainConfig,
        batches: Sequence[Sequence[Example]],
        scaled: Callable[[Tensor], Tensor],
    ):
        self.encoder, self.config, self.scaled = encoder, config, scaled
        self.settings = config.loss
        self.num_rows = sum(len(batch) for batch in batches)
        self.num_generated_rows = sum(bool(example.generated) for batch in batches for example in batch)
        self.sums: list[LossSums] = []
        self.num_texts = self.num_tokens = 0
        self.truncated_before = encoder.num_truncated

    def own_candidates_only(self, examples: Sequence[Example]) -> None:
        """Rows that see only their own candidates: parts of whole rows, each forward and backward once."""
        tokens = _tokenize(self.encoder, examples)
        for part in self._parts(examples, tokens):
            batch = make_batch(part, in_batch=False)
            ids = [tokens[key] for key in _texts(batch)]
            self._count(ids)
            self._loss(self.encoder(ids), batch).backward()  # type: ignore[no-untyped-call]

    def with_shared_passages(self, examples: Sequence[Example], world: World) -> None:
        """Rows that see each other's passages: all texts, shared out among the processes, by gradient caching."""
        batch = make_batch(examples, in_batch=True)
        texts = _texts(batch)
        share = world.share(len(texts))
        ids = _tokenize_texts(self.encoder, [texts[i] for i in share])
        self._count(ids)

        def gradient_of_mine(mine_nD: Tensor) -> Tensor:
            # Every process computes the loss of the whole batch and keeps the gradient of what it has encoded.
            embeddings_BD = world.gather(mine_nD, len(texts)).requires_grad_()
            loss = self._loss(embeddings_BD, batch, counted=world.is_main)
            return torch.autograd.grad(loss, embeddings_BD)[0][share.start :: share.step]

        cached_backward(self.encoder, ids, self.config.max_tokens_per_step, gradient_of_mine)

    def _loss(self, embeddings_BD: Tensor, batch: Batch, counted: bool = True) -> Tensor:
        """The batch's part of the step's loss: the mean over the full width and the Matryoshka widths."""
        loss = self._loss_at_width(embeddings_BD, batch, counted)
        for width in self.config.matryoshka:
            narrow_BD = nn.functional.normalize(embeddings_BD[:, :width], dim=-1)
            loss = loss + self._loss_at_width(narrow_BD, batch, counted=False)
        return self.scaled(loss / (1 + len(self.config.matryoshka)))

    def _loss_at_width(self, embeddings_BD: Tensor, batch: Batch, counted: bool) -> Tensor:
        device, settings = embeddings_BD.device, self.settings
        sums = loss_sums(
            embeddings_BD[: len(batch.queries)],
            embeddings_BD[len(batch.queries) :],
            batch.candidates_BN.to(device),
            batch.valid_BN.to(device),
            batch.generated_BN.to(device),
            temperature=settings.temperature,
            entropy_temperature=settings.entropy_temperature,
            generated_weight=settings.generated_weight,
            grades_BN=batch.grades_BN.to(device) if settings.graded else None,
            grade_sharpness=settings.grade_sharpness,
            mask_above=settings.mask_above,
            in_batch_BP=None if batch.in_batch_BP is None else batch.in_batch_BP.to(device),
        )
        if counted:
            self.sums.append(sums)
        loss = sums.info_nce / self.num_rows
        if settings.entropy_weight > 0 and sums.num_generated_rows:
            loss = loss + settings.entropy_weight * sums.query_view / self.num_generated_rows
        return loss

    def _parts(self, examples: Sequence[Example], tokens: "dict[_Text, Tokens]") -> Iterator[Sequence[Example]]:
        most = self.encoder.part_tokens(self.config.max_tokens_per_step)
        part: list[Example] = []
        size = 0
        for example in examples:
            length = len(tokens[example.query, True]) + sum(len(tokens[text, False]) for text in example.passages)
            if part and size + length > most:
                yield part
                part, size = [], 0
            part.append(example)
            size += length
        if part:
            yield part

    def _count(self, ids: Sequence[Tokens]) -> None:
        self.num_texts += len(ids)
        self.num_tokens += sum(map(len, ids))

    def report(self, world: World) -> StepReport:
        """The step's means, the same on every process."""
        device = self.encoder.device
        losses = [torch.zeros(2, device=device)]  # a process may have no row
        losses += [torch.stack([part.info_nce.detach(), part.query_view.detach()]) for part in self.sums]
        # Added up off the device: not every device has double precision.
        summed = torch.stack(losses).cpu().double().sum(dim=0)
        info_nce, query_view, ratio, mass, expected, num_masked, num_texts, num_tokens, num_truncated = (
            world.all_reduce_sum(
                [
                    *summed.tolist(),
                    sum(part.entropy_ratio for part in self.sums),
                    sum(part.mass for part in self.sums),
                    sum(part.expected_mass for part in self.sums),
                    sum(part.num_masked for part in self.sums),
                    self.num_texts,
                    self.num_tokens,
                    self.encoder.num_truncated - self.truncated_before,
                ],
                device,
            )
        )
        rows = self.num_generated_rows or float("nan")
        view = query_view / self.num_generated_rows if self.num_generated_rows else 0.0
        return StepReport(
            loss=info_nce / self.num_rows + self.settings.entropy_weight * view,
            info_nce=info_nce / self.num_rows,
            query_view=query_view / rows,
            entropy_ratio=ratio / rows,
            generated_mass=mass / rows,
            expected_mass=expected / rows,
            num_rows=self.num_rows,
            num_texts=int(num_texts),
            num_tokens=int(num_tokens),
            num_truncated=int(num_truncated),
            num_masked=None if self.settings.mask_above is None else int(num_masked),
        )


# A text to encode: the text, and whether it is a query.
_Text = tuple[str, bool]


def _texts(batch: Batch) -> list[_Text]:
    return [(text, True) for text in batch.queries] + [(text, False) for text in batch.passages]


def _tokenize(encoder: Encoder, examples: Sequence[Example]) -> dict[_Text, Tokens]:
    texts = list(dict.fromkeys(key for e in examples for key in ((e.query, True), *((t, False) for t in e.passages))))
    return dict(zip(texts, _tokenize_texts(encoder, texts), strict=True))


def _tokenize_texts(encoder: Encoder, texts: Sequence[_Text]) -> list[Tokens]:
    queries = iter(encoder.tokenize([text for text, is_query in texts if is_query], "query"))
    documents = iter(encoder.tokenize([text for text, is_query in texts if not is_query], "document"))
    return [next(queries) if is_query else next(documents) for _, is_query in texts]


def cached_backward(
    encoder: Encoder, tokens: Sequence[Tokens], max_tokens: int, embeddings_gradient: Callable[[Tensor], Tensor]
) -> None:
    """Add to the parameters' gradients what a loss over all texts sends back.

    `embeddings_gradient` takes the embeddings [B, D] of all texts, detached, and returns the loss's gradient with
    respect to them, [B, D]. Where all texts fit into `max_tokens`, their graphs are kept; else all are encoded twice.
    """
    padded = not encoder.packed
    kept = len(token_chunks(tokens, max_tokens, padded)) <= 1
    parts = token_chunks(tokens, encoder.part_tokens(max_tokens), padded)
    graphs: list[Any] = []
    states: list[Any] = []
    embeddings_BD = torch.empty(len(tokens), encoder.dimension, device=encoder.device, dtype=encoder.dtype)
    for part in parts:
        states.append(_random_state(encoder.device))
        with torch.set_grad_enabled(kept):
            graphs.append(encoder([tokens[i] for i in part]))
        embeddings_BD[part] = graphs[-1].detach().to(embeddings_BD.dtype)
    gradient_BD = embeddings_gradient(embeddings_BD)
    end = _random_state(encoder.device)
    for part, graph, state in zip(parts, graphs, states, strict=True):
        if not kept:
            _set_random_state(state, encoder.device)
            graph = encoder([tokens[i] for i in part])
        graph.backward(gradient_BD[part].to(graph.dtype))
    _set_random_state(end, encoder.device)


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
