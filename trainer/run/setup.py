"""What a run needs before its first step: data, encoder and optimiser, each checked against the configuration."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from data.base.errors import BadRows, InputError
from data.readers.source import read_source
from data.records import Row
from data.retrieval_set import RetrievalSet
from data.row_files import read_rows
from trainer.config import TrainConfig
from trainer.encoder import Encoder
from trainer.step.batches import Examples

log = logging.getLogger(__name__)


def read_data(config: TrainConfig) -> tuple[list[Row], RetrievalSet | None]:
    """The training rows, at least one, and the dev data if there is any."""
    bad_rows, bad_dev = BadRows(config.skip_bad_rows), BadRows(config.skip_bad_rows)
    rows = list(read_rows(config.rows, bad_rows))
    if not rows:
        raise InputError("holds no rows", file=config.rows)
    dev = None if config.dev is None else read_source(config.dev, config.dev_split, bad_dev)
    for bad in (bad_rows, bad_dev):
        bad.warn()
    return rows, dev


def data_key(rows: Sequence[Row], corpus: Mapping[str, str]) -> str:
    """A key over what training uses of the rows and of the corpus: a checkpoint of others is not gone on with."""
    digest = hashlib.blake2b(digest_size=16)
    for row in rows:
        positives = [(passage.id, passage.text) for passage in row.positives]
        digest.update(repr((row.query, positives, [(n.source, n.text, n.relevance) for n in row.negatives])).encode())
    for passage in corpus.items():
        digest.update(repr(passage).encode())
    return digest.hexdigest()


def check_negatives(examples: Examples, config: TrainConfig, num_processes: int) -> None:
    """Refuse rows that have nothing to learn from; say what was left out."""
    num_without = examples.num_rows_without_negatives
    together = config.batch_size // (num_processes if config.loss.in_batch == "in-batch" else 1)
    if num_without == len(examples) and (config.loss.in_batch == "none" or min(together, len(examples)) == 1):
        raise InputError(
            "has no negatives in any row: mine or synthesize some, or train with --in-batch in-batch and more than one "
            "row in a batch of each process",
            file=config.rows,
        )
    if config.relevance == "graded" and (unjudged := examples.unjudged):
        raise InputError(
            f"--relevance graded: in {len(unjudged)} of {len(examples)} rows a generated negative has no verdict "
            f"(first in query {unjudged[0].query_id!r}): judge them with `just verify rows=... out=...`, or train "
            "with --relevance plain",
            file=config.rows,
        )
    if num_without:
        log.warning("warning: %d of %d rows have no negatives of their own", num_without, len(examples))
    if examples.num_duplicates:
        log.info("%d negatives repeat a positive or another negative and are left out", examples.num_duplicates)


def load_encoder(config: TrainConfig, device: str | None) -> Encoder:
    """The encoder to train, with every option of the run that concerns it."""
    encoder = Encoder.load(replace(config, device=device))
    if config.dropout is not None:
        encoder.set_dropout(config.dropout)
    if config.lora_rank:
        torch.manual_seed(config.seed)  # the updates begin at random
        encoder.add_lora(config.lora_rank)
    if config.gradient_checkpointing:
        encoder.checkpoint_gradients()
    if any(width >= encoder.dimension for width in config.matryoshka):
        raise InputError(
            f"--matryoshka: expected widths below the embeddings' {encoder.dimension}, not {config.matryoshka}"
        )
    if config.matryoshka and not encoder.settings.normalize:
        raise InputError("--matryoshka: needs a model that normalises its embeddings")
    return encoder
