"""The closing advice of a mining run: which change of setting would fill the queries that got too few negatives."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np

from data.base.options import shared_options
from data.records import Row
from trainer.encoder.encoder import Floats, Indices
from trainer.mining.config import MarginAnchor, MineConfig
from trainer.mining.ranked import Ranked, Ranker
from trainer.mining.rules import KEPT, Limits

# Queries on which the changes are tried, evenly chosen, and the most ranked passages that are held for them.
_MOST_TRIED, _MOST_RANKED = 1000, 4_000_000
# The same where a cross-encoder reads each of them.
_MOST_RESCORED = 5000
_WIDER = (2, 5, 10)
# A milder change is named where it brings at least this share of what the strongest brings.
_NEARLY = 0.8


def advice(mined: Sequence[Row], queries_QD: Floats | None, ranker: Ranker, config: MineConfig) -> str:
    """One line: the mildest change of one setting that brings nearly as much as any, and what it would bring.

    `mined` are the rows of `queries_QD` with their negatives; each change is tried on those that got too few.
    """
    short = [q for q, row in enumerate(mined) if len(row.negatives) < config.num_negatives]
    if not short:
        return "every query has all its negatives; nothing needs to change"
    wider = 1 if config.rescore else max(_WIDER)
    num_ranked = min(wider * config.rank_to, len(ranker.corpus.ids))
    most_ranked = _MOST_RESCORED if config.rescore else _MOST_RANKED
    num_tried = min(len(short), _MOST_TRIED, max(1, most_ranked // num_ranked))
    tried = [short[i] for i in np.linspace(0, len(short) - 1, num_tried).astype(int)]
    rows = [mined[q] for q in tried]
    ranked = ranker.rank(rows, None if queries_QD is None else queries_QD[tried], num_ranked)
    had_Q = np.array([len(row.negatives) for row in rows])
    found = {change: _num_negatives(ranked, changed) - had_Q for change, changed in _changes(config, ranker)}
    most = max((int(more_Q.sum()) for more_Q in found.values()), default=0)
    lacking = f"{len(short)} queries got fewer than {config.num_negatives}"
    if most <= 0:
        return f"{lacking}: no change of one setting brings more; the corpus has too few other passages for them"
    change, more_Q = next((change, more_Q) for change, more_Q in found.items() if more_Q.sum() >= _NEARLY * most)
    left = int(((had_Q + more_Q) == 0).sum())
    sample = "" if len(tried) == len(short) else f" of the {len(tried)} that it was tried on"
    return (
        f"{lacking}: {change} would bring {int(more_Q.sum())} more to {int((more_Q > 0).sum())} of them{sample}, and "
        f"leave {left} with none"
    )


def _num_negatives(ranked: Ranked, config: MineConfig) -> Indices:
    codes_QK = ranked.codes(Limits(**shared_options(config, Limits)), config.margin_anchor)
    kept_Q: Indices = (codes_QK == KEPT).sum(axis=1)
    return np.minimum(kept_Q, config.num_negatives)


def _changes(config: MineConfig, ranker: Ranker) -> Iterator[tuple[str, MineConfig]]:
    """Changes of one setting in words, the mildest first: what lets in likely false negatives comes last."""

    def change(name: str, value: Any) -> tuple[str, MineConfig]:
        flag, now = name.replace("_", "-"), getattr(config, name)
        return f"{flag}={value} (now {now})", replace(config, **{name: value})

    num_passages = len(ranker.corpus.ids)
    ranks = [] if config.rescore else _wider(config.rank_to, num_passages)
    wider = [change("rank_to", rank_to) for rank_to in ranks]
    yield from wider[:1]
    margins = {name: getattr(config, name) for name in ("relative_margin", "absolute_margin")}
    on = {name: margin for name, margin in margins.items() if margin is not None}
    if on:
        yield from (change("margin_anchor", kind) for kind in get_args(MarginAnchor) if kind != config.margin_anchor)
    yield from wider[1:]
    yield from (change(name, round(margin / 2, 6)) for name, margin in on.items() if margin)
    if config.rank_from > 1:
        yield change("rank_from", 1)
    yield from (change(name, 0.0) for name, margin in on.items() if margin)
    if config.max_score is not None:
        yield change("max_score", None)
    yield from (change(name, None) for name in on)


def _wider(rank_to: int, num_passages: int) -> list[int]:
    """Later last ranks, each once, and none beyond the corpus."""
    ranks = dict.fromkeys(min(times * rank_to, num_passages) for times in _WIDER)
    return [rank for rank in ranks if rank > rank_to]
