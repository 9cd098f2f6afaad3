"""Hard negatives from the corpus: rank it for each query, drop what may be relevant, keep some of the rest."""

import logging
import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from data.errors import InputError
from data.files import write_json
from data.jsonl import BadRows, write_rows
from data.records import Negative, Row
from data.retrieval_set import RetrievalSet
from data.sources import read_source
from data.text import same_text_key
from trainer.bundled import BUNDLED_MODEL
from trainer.encoder import Encoder
from trainer.filters import KEPT, RULES, Floats, Limits, apply_rules
from trainer.search import Backend, top_k

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class MineConfig:
    """Mine hard negatives for the queries of a retrieval data set with an encoder."""

    data: str
    """Queries, corpus and judgements: a BEIR folder, pairs .jsonl, a data set folder or hub:ORG/NAME."""

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

    backend: Backend = "torch"
    """Exact search by blocks in torch (faster here) or in FAISS; both give the same passages."""

    device: str | None = None
    """Device of the encoder, like cpu or cuda:0 (None: a GPU if there is one)."""

    skip_bad_rows: bool = False
    """Count and skip bad rows of the data instead of stopping at the first."""

    def __post_init__(self) -> None:
        self._check("num_negatives", self.num_negatives >= 1, "at least 1")
        self._check("rank_from", self.rank_from >= 1, "at least 1")
        self._check("rank_to", self.rank_to >= self.rank_from, f"at least --rank-from ({self.rank_from})")
        for name in ("absolute_margin", "relative_margin"):
            margin = getattr(self, name)
            self._check(name, margin is None or (math.isfinite(margin) and margin >= 0), "a number of at least 0")
        self._check("max_score", self.max_score is None or math.isfinite(self.max_score), "a finite number")
        self._check("out", self.out.endswith(".jsonl"), "a file name that ends in .jsonl")

    def _check(self, name: str, right: bool, expected: str) -> None:
        if not right:
            raise InputError(f"--{name.replace('_', '-')}: expected {expected}, got {getattr(self, name)}")

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
    """Counts of a mining run. `dropped` counts ranked passages by the first rule that they broke."""

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
    source = read_source(config.data, config.split, bad_rows)
    if bad_rows is not None and bad_rows.count:
        log.warning("warning: %s", bad_rows.summary())
    encoder = Encoder.load(config.model, max_length=config.max_length, device=config.device, revision=config.revision)
    rows = list(source.rows())
    passages_PD = encoder.encode(list(source.passages.values()), "document", progress=True)
    queries_QD = encoder.encode([row.query for row in rows], "query", progress=True)
    mined = mine_rows(rows, source, queries_QD, passages_PD, config)
    report = _report(mined, source, config, encoder.num_truncated)
    write_rows(config.out, (row for row, _ in mined))
    write_json(f"{config.out}.report.json", {"config": asdict(config)} | asdict(report))
    return report


def mine_rows(
    rows: Sequence[Row], source: RetrievalSet, queries_QD: Floats, passages_PD: Floats, config: MineConfig
) -> list[tuple[Row, Counter[str]]]:
    """Each row with its mined negatives in place of any that it had, and the counts of what was dropped by which rule.

    `passages_PD` is in the order of `source.passages`, `queries_QD` in the order of `rows`.
    """
    corpus = _Corpus(source)
    excluded = [corpus.excluded(row) for row in rows]
    # Positives and their copies take up places among the best: ask for that many more.
    asked = config.rank_to + max((len(positives | copies) for positives, copies in excluded), default=0)
    scores_QK, index_QK = top_k(queries_QD, passages_PD, asked, backend=config.backend)
    out = []
    for q, (row, (positives, copies)) in enumerate(zip(rows, excluded, strict=True)):
        lowest = np.float32((passages_PD[sorted(positives)] @ queries_QD[q]).min())
        ranked = index_QK[q].tolist()
        seen = set(copies)
        same_text = [i in copies or corpus.repeats(i, seen) for i in ranked]
        codes_K = apply_rules(
            scores_QK[q : q + 1],
            np.array([[i in positives for i in ranked]]),
            np.array([same_text]),
            np.array([lowest]),
            config.limits,
        )[0]
        # Behind the window lies only what was asked for on behalf of other queries.
        counted = Counter(RULES[code - 1] for code in codes_K.tolist() if code != KEPT)
        kept = np.flatnonzero(codes_K == KEPT).tolist()
        counted["kept"] = len(kept)
        negatives = tuple(
            Negative(
                text=corpus.texts[ranked[k]],
                source="mined",
                id=corpus.ids[ranked[k]],
                score=round(float(scores_QK[q, k]), 6),
            )
            for k in _choose(kept, row, config)
        )
        out.append((_with_negatives(row, negatives), counted))
    return out


class _Corpus:
    """Passages by position, and which of them share a text."""

    def __init__(self, source: RetrievalSet):
        self.ids, self.texts = list(source.passages), list(source.passages.values())
        self._position = {pid: i for i, pid in enumerate(self.ids)}
        self._keys = [same_text_key(text) for text in self.texts]
        self._by_key: dict[str, list[int]] = {}
        for i, key in enumerate(self._keys):
            self._by_key.setdefault(key, []).append(i)

    def excluded(self, row: Row) -> tuple[set[int], set[int]]:
        """Positions of the row's positives, and of other passages with the text of a positive or of the query."""
        positives = {self._position[passage.id] for passage in row.positives}
        keys = {self._keys[i] for i in positives} | {same_text_key(row.query)}
        copies = {i for key in keys for i in self._by_key.get(key, ())} - positives
        return positives, copies

    def repeats(self, i: int, seen: set[int]) -> bool:
        """Whether an equal text was ranked before; remembers this one."""
        twins = self._by_key[self._keys[i]]
        repeated = len(twins) > 1 and any(twin in seen for twin in twins)
        seen.add(i)
        return repeated


def _choose(kept: list[int], row: Row, config: MineConfig) -> list[int]:
    if config.sampling == "top" or len(kept) <= config.num_negatives:
        return kept[: config.num_negatives]
    rng = random.Random(f"mine {config.seed} {row.query_id}")
    return sorted(rng.sample(kept, config.num_negatives))


def _with_negatives(row: Row, negatives: tuple[Negative, ...]) -> Row:
    return Row(
        query_id=row.query_id,
        query=row.query,
        positives=row.positives,
        negatives=negatives,
        requirements=row.requirements,
    )


def _report(
    mined: list[tuple[Row, Counter[str]]], source: RetrievalSet, config: MineConfig, num_truncated: int
) -> MineReport:
    counts: Counter[str] = sum((counted for _, counted in mined), Counter())
    sizes = [len(row.negatives) for row, _ in mined]
    full = sum(size == config.num_negatives for size in sizes)
    empty = sum(size == 0 for size in sizes)
    dropped = {rule: counts[rule] for rule in RULES}
    return MineReport(
        queries=len(mined),
        corpus=len(source.passages),
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
