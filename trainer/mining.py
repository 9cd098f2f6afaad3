"""Hard negatives from the corpus: rank it for each query, drop what may be relevant, keep some of the rest."""

import logging
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from data.base.errors import require
from data.base.files import write_json
from data.readers.source import read_source
from data.records import Negative, Row
from data.retrieval_set import RetrievalSet
from data.row_files import BadRows, write_rows
from trainer.approximate import ApproximateIndex
from trainer.corpus import Corpus
from trainer.distributed import join_world
from trainer.embedding_cache import cached_embeddings
from trainer.encoder.encoder import Encoder, Indices
from trainer.encoder.model_files import BUNDLED_MODEL
from trainer.filters import CODE, KEPT, RULES, Floats, Limits, apply_rules
from trainer.search import top_k

log = logging.getLogger(__name__)
_ROWS_AT_ONCE = 4096
# Passages up to which exact search is used.
_EXACT_UP_TO = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class MineConfig:
    """Mine hard negatives for the queries of a retrieval data set with an encoder."""

    data: str
    """Queries, corpus and judgements: a BEIR folder, pairs .jsonl, a data set folder, hub:ORG/NAME or mteb:TASK."""

    out: str
    """Training rows to write (.jsonl); the report goes beside it as OUT.report.json."""

    split: str = "train"
    """Split of the data."""

    model: str = BUNDLED_MODEL
    """Encoder that ranks: bundled:all-MiniLM-L6-v2, a local folder, or a hub name (org/name)."""

    revision: str | None = None
    """Revision of a hub model (None: its main branch)."""

    num_negatives: int = 15
    """Negatives per query; fewer where the rules leave fewer."""

    rank_from: int = 1
    """First rank that may be taken, 1 for the best passage that is not a positive."""

    rank_to: int = 100
    """Last rank that may be taken."""

    max_score: float | None = None
    """Highest similarity of a negative (None: no bound)."""

    absolute_margin: float | None = None
    """A negative scores below the query's lowest positive minus this, in units of similarity (None: off)."""

    relative_margin: float | None = 0.05
    """A negative scores below the query's lowest positive minus this share of its size (0.05: 5 %; None: off)."""

    sampling: Literal["top", "random"] = "top"
    """Which of the passages left: the best-ranked (top), or a seeded sample (random)."""

    seed: int = 0
    """Seed of random sampling; a query's sample does not depend on the other queries."""

    max_length: int | None = None
    """Longest text in tokens, special tokens included (None: the model's own)."""

    dimensions: int | None = None
    """Numbers that an embedding is cut to, as sentence-transformers' truncate_dim does (None: the model's own)."""

    query_prompt: str | None = None
    """Instruction in front of every query (None: the model's own, which may be none)."""

    document_prompt: str | None = None
    """Instruction in front of every passage (None: the model's own, which may be none)."""

    backend: Literal["auto", "torch", "faiss", "ivf", "hnsw"] = "auto"
    """Exact search by torch or faiss, approximate by ivf or hnsw; auto is torch up to a million passages, then ivf."""

    cache: str | None = None
    """Folder that keeps embeddings for later runs with the same model, prompts and texts (None: not kept)."""

    device: str | None = None
    """Device of the encoder, like cpu or cuda:0 (None: a GPU if there is one)."""

    skip_bad_rows: bool = False
    """Count and skip bad rows of the data instead of stopping at the first."""

    def __post_init__(self) -> None:
        self._check("num_negatives", self.num_negatives >= 1, "at least 1")
        self._check("dimensions", self.dimensions is None or self.dimensions >= 1, "at least 1")
        self._check("rank_from", self.rank_from >= 1, "at least 1")
        self._check("rank_to", self.rank_to >= self.rank_from, f"at least --rank-from ({self.rank_from})")
        for name in ("absolute_margin", "relative_margin"):
            margin = getattr(self, name)
            self._check(name, margin is None or (math.isfinite(margin) and margin >= 0), "a number of at least 0")
        self._check("max_score", self.max_score is None or math.isfinite(self.max_score), "a finite number")
        self._check("out", self.out.endswith(".jsonl"), "a file name that ends in .jsonl")

    def _check(self, name: str, right: bool, expected: str) -> None:
        require(right, name, expected, getattr(self, name))

    @property
    def limits(self) -> Limits:
        return Limits(
            rank_from=self.rank_from,
            rank_to=self.rank_to,
            max_score=self.max_score,
            absolute_margin=self.absolute_margin,
            relative_margin=self.relative_margin,
        )


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
    bad_rows = BadRows() if config.skip_bad_rows else None
    data = read_source(config.data, config.split, bad_rows)
    if bad_rows is not None and bad_rows.count:
        log.warning("warning: %s", bad_rows.summary())
    rows = list(data.rows())
    with join_world(config.device) as (world, device):
        encoder = Encoder.load(
            config.model, revision=config.revision, max_length=config.max_length, dimensions=config.dimensions,
            query_prompt=config.query_prompt, document_prompt=config.document_prompt, device=device,
        )  # fmt: skip
        passages_PD = cached_embeddings(encoder, list(data.passages.values()), "document", config.cache, world)
        queries_QD = cached_embeddings(encoder, [row.query for row in rows], "query", config.cache, world)
        mined, counts = mine_rows(rows, data, queries_QD, passages_PD, config)
        truncated = int(world.sum_values([encoder.num_truncated], encoder.device)[0])
        report = _report(mined, counts, data, config, truncated)
        if world.is_main:
            write_rows(config.out, mined)
            write_json(f"{config.out}.report.json", {"config": asdict(config)} | asdict(report))
    return report


def mine_rows(
    rows: Sequence[Row], data: RetrievalSet, queries_QD: Floats, passages_PD: Floats, config: MineConfig
) -> tuple[list[Row], Counter[str]]:
    """Each row with its mined negatives in place of any that it had, and how many ranked passages were kept or dropped.

    `passages_PD` is in the order of `data.passages`, `queries_QD` in the order of `rows`.
    """
    corpus = Corpus(data)
    search = _search(passages_PD, queries_QD, config)
    mined: list[Row] = []
    counts: Counter[str] = Counter()
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = rows[start : start + _ROWS_AT_ONCE]
        queries = queries_QD[start : start + _ROWS_AT_ONCE]
        positives_QS, taken_QS = corpus.positives(part), corpus.taken_texts(part)
        # Positives and their copies take up places among the best: ask for that many more.
        scores_QK, index_QK = search(queries, config.rank_to + corpus.most_copies(part))
        is_positive_QK = _contains(positives_QS, index_QK)
        text_QK = corpus.text_of[index_QK]
        codes_QK = apply_rules(
            scores_QK,
            is_positive_QK,
            _contains(taken_QS, text_QK) | _repeats(text_QK, is_positive_QK),
            _lowest_scores(queries, passages_PD, positives_QS),
            config.limits,
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


def _search(passages_PD: Floats, queries_QD: Floats, config: MineConfig) -> _Search:
    backend = config.backend
    if backend == "auto":
        backend = "torch" if len(passages_PD) <= _EXACT_UP_TO else "ivf"
    if backend == "torch" or backend == "faiss":
        return lambda queries, k: top_k(queries, passages_PD, k, backend=backend)
    index = ApproximateIndex(passages_PD, backend)
    recall = index.recall(queries_QD, config.rank_to)
    log.info("approximate search (%s) finds %.1f %% of the exact top %d", backend, 100 * recall, config.rank_to)
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
