"""Mined negatives found anew while training, with the weights of the moment and the rules of an earlier `mine`.

Axes: R training rows, M mined negatives of a row.
"""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from data.base.errors import BadRows, InputError
from data.base.files import read_json_object
from data.readers.source import read_source
from data.records import Row
from trainer.config import TrainConfig
from trainer.distributed import World
from trainer.encoder import Encoder
from trainer.mining.config import MineConfig
from trainer.mining.embedding_cache import cached_embeddings
from trainer.mining.mine import mine_rows
from trainer.mining.rules import RULES
from trainer.step.batches import Examples

log = logging.getLogger(__name__)


class Remining:
    """Replaces the mined negatives of `examples`; the generated ones stay, and so do rows whose query is unknown.

    `mined_RM` says what is mined now as places in the corpus, -1 where a row has fewer; None before the first time.
    With the rows and the corpus it is all that a resumed run needs.
    """

    def __init__(self, config: TrainConfig, rows: Sequence[Row], examples: Examples):
        assert config.remine_like is not None
        self._rules = read_rules(config.remine_like)
        if self._rules.source == "bm25":
            raise InputError("was mined by bm25 alone, which training does not change", file=config.remine_like)
        self.data = read_source(self._rules.data, self._rules.split, BadRows(self._rules.skip_bad_rows), self._rules)
        self._examples, self._num_rows = examples, len(rows)
        self._embeddings = Path(config.out) / "remining"
        known = {row.query_id: row for row in self.data.rows()}
        # The data's row knows every positive by its id in the corpus.
        self._known = {
            r: known[row.query_id]
            for r, row in enumerate(rows)
            if row.query_id in known and known[row.query_id].query == row.query
        }
        if not self._known:
            raise InputError(
                f"none of the training rows has its query (id and text) in {self._rules.data}, "
                f"split {self._rules.split}, which was mined",
                file=config.remine_like,
            )
        log.info(
            "mining anew every %d steps for %d of %d rows%s", config.remine_every, len(self._known), len(rows),
            "" if len(self._known) == len(rows) else "; the others' queries are not in the data that was mined",
        )  # fmt: skip
        self._texts = list(self.data.passages.values())
        self.mined_RM: Tensor | None = None

    def mine(self, encoder: Encoder, world: World) -> dict[str, int]:
        """Mine with the encoder as it is now. Returns counts for the step's metrics: rows, taken, new, dropped by rule.

        The corpus' embeddings go through a memory-mapped file in the run folder, which is removed afterwards.
        """
        rows = list(self._known.values())
        queries_QD = world.encode(encoder, [row.query for row in rows], "query")
        passages_PD = cached_embeddings(encoder, self._texts, "document", self._embeddings, world)
        found, counts = mine_rows(rows, self.data, queries_QD, passages_PD, self._rules, encoder.device, world)
        del passages_PD
        place = {passage_id: i for i, passage_id in enumerate(self.data.passages)}
        mined_RM = torch.full((self._num_rows, self._rules.num_negatives), -1)
        for r, row in zip(self._known, found, strict=True):
            mined_RM[r, : len(row.negatives)] = torch.tensor([place[n.id or ""] for n in row.negatives])
        # Rounding may differ between machines: all train on what the main process has found.
        on_device = mined_RM.to(encoder.device)
        world.broadcast([on_device])
        num_new = self.restore(on_device.cpu())
        world.barrier()
        if world.is_main:
            shutil.rmtree(self._embeddings, ignore_errors=True)
        taken = int((on_device >= 0).sum())
        dropped = {rule: counts[rule] for rule in RULES if counts[rule]}
        log.info(
            "mined %d negatives anew for %d rows, %d of them new to their row; dropped: %s", taken, len(rows), num_new,
            ", ".join(f"{count} by {rule.replace('_', ' ')}" for rule, count in dropped.items()),
        )  # fmt: skip
        report = {"remined_rows": len(rows), "remined_taken": taken, "remined_new": num_new}
        return report | {f"remined_dropped_{rule}": count for rule, count in dropped.items()}

    def restore(self, mined_RM: Tensor) -> int:
        """Make the passages at these places the mined negatives; returns how many of them a row had not before."""
        if mined_RM.shape != (self._num_rows, self._rules.num_negatives):
            raise InputError(f"holds mined negatives of the shape {tuple(mined_RM.shape)}: it belongs to another run")
        self.mined_RM = mined_RM
        return self._examples.replace_mined(
            {r: tuple(self._texts[i] for i in mined_RM[r].tolist() if i >= 0) for r in self._known}
        )


def read_rules(path: str) -> MineConfig:
    """What `mine` was asked for, from the report that it wrote beside its rows. Raises InputError."""
    settings = read_json_object(path).get("config")
    try:
        # The encoder is the one in training, with its own width, prompts and length. Reports without an anchor are of a
        # version that counted margins from the lowest positive.
        return replace(MineConfig(**({"margin_anchor": "lowest"} | (settings or {}))), cache=None)
    except TypeError as error:
        raise InputError(
            "is no report of this `mine` (it writes OUT.report.json beside its rows)", file=path
        ) from error
