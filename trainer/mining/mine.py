"""Hard negatives from the corpus: rank it for each query, drop what may be relevant, keep some of the rest."""

import logging
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

from data.base.errors import BadRows, InputError
from data.base.files import write_json
from data.base.options import shared_options
from data.base.outputs import Outputs
from data.readers.source import read_source
from data.records import Negative, Row
from data.retrieval_set import RetrievalSet
from data.row_files import write_rows
from trainer.distributed import ALONE, World, join_world
from trainer.encoder import Encoder
from trainer.encoder.encoder import Floats, Indices, default_device
from trainer.mining.advice import advice
from trainer.mining.config import MineConfig
from trainer.mining.embedding_cache import cached_embeddings
from trainer.mining.ranked import Ranker
from trainer.mining.rules import KEPT, RULES, Limits
from trainer.mining.search import CPU

log = logging.getLogger(__name__)
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class MineReport:
    """Counts of a mining run. `dropped` counts ranked passages by the first rule that they broke.

    `rescored_pairs` are those that the cross-encoder read; `found_by` counts the negatives by what found them, where
    that was not the encoder alone. `truncated_texts` counts among those that this run encoded, not among those that
    came from the cache.
    """

    queries: int
    corpus: int
    queries_full: int
    queries_short: int
    queries_empty: int
    ranked: int
    kept: int
    taken: int
    dropped: dict[str, int]
    truncated_texts: int
    rescored_pairs: int
    found_by: dict[str, int]
    advice: str

    def summary(self) -> str:
        """A closing table of a few lines."""
        reasons = ", ".join(f"{count} by {rule.replace('_', ' ')}" for rule, count in self.dropped.items() if count)
        return (
            f"mined {self.taken} negatives for {self.queries} queries from {self.corpus} passages\n"
            f"  queries: {self.queries_full} with all they asked for, {self.queries_short} with fewer, "
            f"{self.queries_empty} with none\n"
            f"  of {self.ranked} ranked passages {self.kept} passed the rules; dropped: {reasons or 'none'}\n"
            + (f"  found by: {', '.join(f'{n} {by}' for by, n in self.found_by.items())}\n" if self.found_by else "")
            + (f"  the cross-encoder read {self.rescored_pairs} pairs\n" if self.rescored_pairs else "")
            + f"  {self.advice}\n"
        )


def mine(config: MineConfig) -> MineReport:
    """Rank, filter, sample, write `config.out` and its report. Raises InputError; leaves nothing half-written."""
    report_file = f"{config.out}.report.json"
    outputs = Outputs(
        "mine", [config.out, report_file], inputs=[config.data, config.corpus, config.model], force=config.force
    )
    bad_rows = BadRows(config.skip_bad_rows)
    data = read_source(config.data, config.split, bad_rows, config)
    bad_rows.warn()
    rows = list(data.rows())
    if not rows:
        raise InputError("has no query with a relevant passage that the corpus holds", file=config.data)
    with join_world(config.device) as (world, device):
        passages_PD, queries_QD, truncated, precision = None, None, 0, None
        search_on = torch.device(default_device(device))
        if config.source != "bm25":
            encoder = Encoder.load(replace(config, device=device))
            world.agree_on_precision(encoder)
            search_on, precision = encoder.device, encoder.precision
            passages_PD = cached_embeddings(encoder, list(data.passages.values()), "document", config.cache, world)
            queries_QD = cached_embeddings(encoder, [row.query for row in rows], "query", config.cache, world)
            truncated = int(world.all_reduce_sum([encoder.num_truncated], encoder.device)[0])
        ranker = Ranker(data, passages_PD, queries_QD, config, search_on, world)
        mined, counts = _select(rows, queries_QD, ranker, config)
        num_rescored = ranker.num_rescored
        report = _report(
            mined, counts, data, config, truncated, advice(mined, queries_QD, ranker, config), num_rescored
        )
        if world.is_main:
            write_rows(config.out, mined)
            write_json(report_file, {"config": asdict(config), "precision": precision} | asdict(report))
            outputs.record()
    return report


def mine_rows(
    rows: Sequence[Row],
    data: RetrievalSet,
    queries_QD: Floats,
    passages_PD: Floats,
    config: MineConfig,
    device: torch.device = CPU,
    world: World = ALONE,
) -> tuple[list[Row], Counter[str]]:
    """Each row with its mined negatives in place of any that it had, and how many ranked passages were kept or dropped.

    `passages_PD` is in the order of `data.passages`, `queries_QD` in the order of `rows`; `device` searches.
    """
    return _select(rows, queries_QD, Ranker(data, passages_PD, queries_QD, config, device, world), config)


def _select(
    rows: Sequence[Row], queries_QD: Floats | None, ranker: Ranker, config: MineConfig
) -> tuple[list[Row], Counter[str]]:
    corpus, limits = ranker.corpus, Limits(**shared_options(config, Limits))
    mined: list[Row] = []
    counts: Counter[str] = Counter()
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = rows[start : start + _ROWS_AT_ONCE]
        part_QD = None if queries_QD is None else queries_QD[start : start + _ROWS_AT_ONCE]
        ranked = ranker.rank(part, part_QD, config.rank_to)
        codes_QK = ranked.codes(limits, config.margin_anchor)
        codes_n = codes_QK[ranked.index_QK >= 0]  # not of places for which a source found no passage
        for code, count in enumerate(np.bincount(codes_n, minlength=len(RULES) + 1).tolist()):
            counts["kept" if code == KEPT else RULES[code - 1]] += count
        for q, row in enumerate(part):
            chosen = _choose(np.flatnonzero(codes_QK[q] == KEPT), row, config)
            negatives = tuple(
                Negative(
                    text=corpus.texts[i],
                    source="mined",
                    id=corpus.ids[i],
                    score=ranked.similarity(q, column),
                    found=ranked.found_by(q, column),
                )
                for column, i in zip(chosen.tolist(), ranked.index_QK[q, chosen].tolist(), strict=True)
            )
            mined.append(replace(row, negatives=negatives))
    return mined, counts


def _choose(kept_k: Indices, row: Row, config: MineConfig) -> Indices:
    if config.sampling == "top" or len(kept_k) <= config.num_negatives:
        return kept_k[: config.num_negatives]
    rng = random.Random(f"mine {config.seed} {row.query_id}")
    return kept_k[sorted(rng.sample(range(len(kept_k)), config.num_negatives))]


def _report(
    mined: list[Row],
    counts: Counter[str],
    data: RetrievalSet,
    config: MineConfig,
    num_truncated: int,
    advice: str,
    num_rescored: int,
) -> MineReport:
    sizes = [len(row.negatives) for row in mined]
    full = sum(size == config.num_negatives for size in sizes)
    empty = sum(size == 0 for size in sizes)
    dropped = {rule: counts[rule] for rule in RULES}
    ranked_by = (
        " and ".join(f.by for f in n.found if f.rank)
        for row in mined
        for n in row.negatives
        if config.source != "dense"
    )
    found_by = Counter(by if " and " in by or config.source == "bm25" else f"{by} alone" for by in ranked_by)
    return MineReport(
        queries=len(mined),
        corpus=len(data.passages),
        queries_full=full,
        queries_short=len(mined) - full - empty,
        queries_empty=empty,
        ranked=sum(counts.values()),
        kept=counts["kept"],
        taken=sum(sizes),
        dropped=dropped,
        truncated_texts=num_truncated,
        rescored_pairs=num_rescored,
        found_by=dict(sorted(found_by.items())),
        advice=advice,
    )
