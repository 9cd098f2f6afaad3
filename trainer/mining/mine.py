"""Hard negatives from the corpus: rank it for each query, drop what may be relevant, keep some of the rest."""

import logging
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from data.base.errors import BadRows
from data.base.files import write_json
from data.base.options import shared_options
from data.base.outputs import Outputs
from data.base.text import same_text_key
from data.readers.source import read_source
from data.records import Negative, Row
from data.retrieval_set import RetrievalSet
from data.row_files import write_rows
from trainer.distributed import join_world
from trainer.encoder import Encoder
from trainer.encoder.encoder import Indices
from trainer.mining.config import MineConfig
from trainer.mining.embedding_cache import cached_embeddings
from trainer.mining.rules import CODE, KEPT, RULES, Floats, Limits, apply_rules
from trainer.mining.search import CPU, ApproximateIndex, top_k

log = logging.getLogger(__name__)
_ROWS_AT_ONCE = 4096
# Passages up to which exact search is used.
_EXACT_UP_TO = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class MineReport:
    """Counts of a mining run. `dropped` counts ranked passages by the first rule that they broke.

    `truncated_texts` counts among those that this run encoded, not among those that came from the cache.
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
    advice: str

    def summary(self) -> str:
        """A closing table of a few lines."""
        reasons = ", ".join(f"{count} by {rule.replace('_', ' ')}" for rule, count in self.dropped.items() if count)
        return (
            f"mined {self.taken} negatives for {self.queries} queries from {self.corpus} passages\n"
            f"  queries: {self.queries_full} with all they asked for, {self.queries_short} with fewer, "
            f"{self.queries_empty} with none\n"
            f"  of {self.ranked} ranked passages {self.kept} passed the rules; dropped: {reasons or 'none'}\n"
            f"  {self.advice}\n"
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
    with join_world(config.device) as (world, device):
        encoder = Encoder.load(replace(config, device=device))
        passages_PD = cached_embeddings(encoder, list(data.passages.values()), "document", config.cache, world)
        queries_QD = cached_embeddings(encoder, [row.query for row in rows], "query", config.cache, world)
        mined, counts = mine_rows(rows, data, queries_QD, passages_PD, config, encoder.device)
        truncated = int(world.all_reduce_sum([encoder.num_truncated], encoder.device)[0])
        report = _report(mined, counts, data, config, truncated)
        if world.is_main:
            write_rows(config.out, mined)
            write_json(report_file, {"config": asdict(config)} | asdict(report))
            outputs.record()
    return report


def mine_rows(
    rows: Sequence[Row],
    data: RetrievalSet,
    queries_QD: Floats,
    passages_PD: Floats,
    config: MineConfig,
    device: torch.device = CPU,
) -> tuple[list[Row], Counter[str]]:
    """Each row with its mined negatives in place of any that it had, and how many ranked passages were kept or dropped.

    `passages_PD` is in the order of `data.passages`, `queries_QD` in the order of `rows`; `device` searches.
    """
    corpus = Corpus(data)
    search = _search(passages_PD, queries_QD, config, device)
    mined: list[Row] = []
    counts: Counter[str] = Counter()
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = rows[start : start + _ROWS_AT_ONCE]
        queries = queries_QD[start : start + _ROWS_AT_ONCE]
        positives_QS, excluded_QS = corpus.positives(part), corpus.excluded_text_ids(part)
        # Positives and their copies take up places among the best: ask for that many more.
        scores_QK, index_QK = search(queries, config.rank_to + corpus.max_duplicates(part))
        is_positive_QK = _contains(positives_QS, index_QK)
        text_QK = corpus.text_of[index_QK]
        codes_QK = apply_rules(
            scores_QK,
            is_positive_QK,
            _contains(excluded_QS, text_QK) | _repeats(text_QK, is_positive_QK),
            _lowest_scores(queries, passages_PD, positives_QS),
            Limits(**shared_options(config, Limits)),
        )
        codes_QK[index_QK < 0] = CODE["rank_window"]  # an approximate index may find fewer than it was asked for
        for code, count in enumerate(np.bincount(codes_QK.ravel(), minlength=len(RULES) + 1).tolist()):
            counts["kept" if code == KEPT else RULES[code - 1]] += count
        for q, row in enumerate(part):
            chosen = _choose(np.flatnonzero(codes_QK[q] == KEPT), row, config)
            found = zip(index_QK[q, chosen].tolist(), scores_QK[q, chosen].tolist(), strict=True)
            negatives = tuple(
                Negative(text=corpus.texts[i], source="mined", id=corpus.ids[i], score=round(score, 6))
                for i, score in found
            )
            mined.append(replace(row, negatives=negatives))
    return mined, counts


_Search = Callable[[Floats, int], tuple[Floats, Indices]]


def _search(passages_PD: Floats, queries_QD: Floats, config: MineConfig, device: torch.device) -> _Search:
    if config.backend == "exact" or (config.backend == "auto" and len(passages_PD) <= _EXACT_UP_TO):
        return lambda queries, k: top_k(queries, passages_PD, k, device)
    index = ApproximateIndex(passages_PD)
    recall = index.recall(queries_QD, config.rank_to)
    log.info("approximate search finds %.1f %% of the exact top %d", 100 * recall, config.rank_to)
    return index.search


def _choose(kept_k: Indices, row: Row, config: MineConfig) -> Indices:
    if config.sampling == "top" or len(kept_k) <= config.num_negatives:
        return kept_k[: config.num_negatives]
    rng = random.Random(f"mine {config.seed} {row.query_id}")
    return kept_k[sorted(rng.sample(range(len(kept_k)), config.num_negatives))]


def _contains(sets_QS: Indices, values_QK: Indices) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which values of a query are in the query's set; sets are padded with -1, which no value has."""
    found_QK = np.zeros(values_QK.shape, dtype=np.bool_)
    for column in range(sets_QS.shape[1]):
        found_QK |= values_QK == sets_QS[:, column : column + 1]
    return found_QK


def _repeats(
    text_QK: Indices, is_positive_QK: np.ndarray[Any, np.dtype[np.bool_]]
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which ranked passages have the text of one that is ranked above them."""
    order_QK = np.argsort(text_QK, axis=1, kind="stable")
    sorted_QK = np.take_along_axis(text_QK, order_QK, axis=1)
    repeats_QK = np.zeros(text_QK.shape, dtype=np.bool_)
    np.put_along_axis(repeats_QK, order_QK[:, 1:], sorted_QK[:, 1:] == sorted_QK[:, :-1], axis=1)
    return repeats_QK & ~is_positive_QK


def _lowest_scores(queries_QD: Floats, passages_PD: Floats, positives_QS: Indices) -> Floats:
    lowest_Q = np.full(len(queries_QD), np.inf, dtype=np.float32)
    for column in range(positives_QS.shape[1]):
        has = positives_QS[:, column] >= 0
        scores = np.einsum("qd,qd->q", queries_QD[has], passages_PD[positives_QS[has, column]])
        lowest_Q[has] = np.minimum(lowest_Q[has], scores)
    return lowest_Q


def _report(
    mined: list[Row], counts: Counter[str], data: RetrievalSet, config: MineConfig, num_truncated: int
) -> MineReport:
    sizes = [len(row.negatives) for row in mined]
    full = sum(size == config.num_negatives for size in sizes)
    empty = sum(size == 0 for size in sizes)
    dropped = {rule: counts[rule] for rule in RULES}
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
        advice=_advice(dropped, len(mined) - full, config),
    )


def _advice(dropped: dict[str, int], num_short: int, config: MineConfig) -> str:
    if not num_short:
        return "every query has all its negatives; nothing needs to change"
    rules: dict[str, Any] = {
        "relative_margin": f"lower --relative-margin (now {config.relative_margin})",
        "absolute_margin": f"lower --absolute-margin (now {config.absolute_margin})",
        "max_score": f"raise --max-score (now {config.max_score})",
    }
    worst = max(rules, key=lambda rule: dropped[rule])
    widen = f"raise --rank-to (now {config.rank_to})"
    change = f"{widen}, or {rules[worst]}, which dropped the most" if dropped[worst] else widen
    return f"{num_short} queries got fewer than {config.num_negatives}: {change}"


class Corpus:
    """`ids[i]` and `texts[i]` of passage i; `text_of[i]` is equal for passages of the same text."""

    def __init__(self, data: RetrievalSet):
        self.ids, self.texts = list(data.passages), list(data.passages.values())
        self._position = {passage_id: i for i, passage_id in enumerate(self.ids)}
        self._text_number: dict[str, int] = {}
        numbers = (self._text_number.setdefault(same_text_key(t), len(self._text_number)) for t in self.texts)
        self.text_of = np.fromiter(numbers, dtype=np.int64, count=len(self.texts))
        self._copies = np.bincount(self.text_of)

    def positives(self, rows: Sequence[Row]) -> Indices:
        """Positions of each row's positives, [Q, S]."""
        return _padded([{self._position[passage.id] for passage in row.positives} for row in rows])

    def excluded_text_ids(self, rows: Sequence[Row]) -> Indices:
        """Numbers of the texts of each row's positives and of its query, if the corpus has that text, [Q, S]."""
        return _padded([self._excluded(row) for row in rows])

    def max_duplicates(self, rows: Sequence[Row]) -> int:
        """The most passages that a row's positives and their copies take up among its best."""
        return max((int(self._copies[sorted(self._excluded(row))].sum()) for row in rows), default=0)

    def _excluded(self, row: Row) -> set[int]:
        texts = {int(self.text_of[self._position[passage.id]]) for passage in row.positives}
        number = self._text_number.get(same_text_key(row.query))
        return texts if number is None else texts | {number}


def _padded(sets: Sequence[Iterable[int]]) -> Indices:
    lists = [sorted(members) for members in sets]
    padded_QS = np.full((len(lists), max(map(len, lists), default=0)), -1, dtype=np.int64)
    for q, members in enumerate(lists):
        padded_QS[q, : len(members)] = members
    return padded_QS
