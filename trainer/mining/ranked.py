"""The best passages of each query with what the rules ask about them: positives, copies, and the margins' anchors.

Axes: Q queries, K ranked passages, S positives of a query, P passages, D width.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from data.base.text import same_text_key
from data.records import Found, Row
from data.retrieval_set import RetrievalSet
from trainer.distributed import ALONE, World
from trainer.encoder.encoder import Floats, Indices
from trainer.mining.config import MarginAnchor, MineConfig
from trainer.mining.cross_encoder import CrossEncoder
from trainer.mining.rules import CODE, KEPT, Codes, Flags, Limits, apply_rules
from trainer.mining.search import CPU
from trainer.mining.sources import Bm25, Dense, Source, fuse


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """The best passages of some queries, the best first; `index_QK` is -1 where a source found fewer.

    `scores_QK` are those that the rules count on, `similarities_QK` the encoder's (None without one). `found` holds the
    scores and passages of every source by its name, and those of "rescore". `positive_scores_QS` is NaN where a query
    has fewer positives, `nearest_QK` the column of the positive that a passage is most similar to.
    """

    scores_QK: Floats
    index_QK: Indices
    is_positive_QK: Flags
    is_same_text_QK: Flags
    positive_scores_QS: Floats
    nearest_QK: Indices
    similarities_QK: Floats | None
    found: dict[str, tuple[Floats, Indices]]

    def anchor(self, kind: MarginAnchor) -> Floats:
        """The score of the positive that margins count from, [Q, K] for the nearest, else [Q, 1]."""
        if kind == "nearest":
            return np.take_along_axis(self.positive_scores_QS, self.nearest_QK, axis=1)
        reduce = np.nanmin if kind == "lowest" else np.nanmean
        return np.asarray(reduce(self.positive_scores_QS, axis=1, keepdims=True), dtype=np.float32)

    def similarity(self, q: int, column: int) -> float | None:
        """The encoder's score of a ranked passage as rows record it; None without an encoder."""
        return None if self.similarities_QK is None else round(float(self.similarities_QK[q, column]), 6)

    def found_by(self, q: int, column: int) -> tuple[Found, ...]:
        """What found or judged a ranked passage, with its rank and score there; nothing of the encoder alone."""
        if self.found.keys() == {"dense"}:
            return ()
        found = []
        for name, (scores_QK, index_QK) in self.found.items():
            place = np.flatnonzero(index_QK[q] == self.index_QK[q, column])
            if len(place):
                # A search sums in another order than a look-up, so that the same score has two last digits.
                score = self.similarity(q, column) if name == "dense" else round(float(scores_QK[q, place[0]]), 6)
                found.append(Found(by=name, rank=None if name == "rescore" else int(place[0]) + 1, score=score))
        return tuple(found)

    def codes(self, limits: Limits, anchor: MarginAnchor) -> Codes:
        """The code of the first rule that each passage breaks."""
        codes_QK = apply_rules(self.scores_QK, self.is_positive_QK, self.is_same_text_QK, self.anchor(anchor), limits)
        codes_QK[self.index_QK < 0] = CODE["rank_window"]
        return codes_QK


class Ranker:
    """Ranks a corpus for rows of its queries.

    `passages_PD` is in the order of `data.passages`; `device` searches and rescores, which the processes of `world`
    share. `queries_QD` are examples of queries, on which an approximate index is measured. Without embeddings (None)
    the source must be bm25.
    """

    def __init__(
        self,
        data: RetrievalSet,
        passages_PD: Floats | None,
        queries_QD: Floats | None,
        config: MineConfig,
        device: torch.device = CPU,
        world: World = ALONE,
    ):
        self.corpus = Corpus(data)
        self.num_rescored = 0
        self._world = world
        self._sources: dict[str, Source] = {}
        if config.source != "bm25" and passages_PD is not None and queries_QD is not None:
            self._sources["dense"] = Dense(passages_PD, queries_QD, config, device)
        if config.source != "dense":
            self._sources["bm25"] = Bm25(self.corpus.texts)
        self._cross_encoder = None if config.rescore is None else CrossEncoder.load(config.rescore, device)

    def rank(self, rows: Sequence[Row], queries_QD: Floats | None, num_ranked: int) -> Ranked:
        """The `num_ranked` best passages that are no positives, and the positives and copies among them."""
        positives_QS, excluded_QS = self.corpus.positives(rows), self.corpus.excluded_text_ids(rows)
        # Positives and their copies take up places among the best: ask for that many more.
        num_asked = num_ranked + self.corpus.max_duplicates(rows)
        queries = {
            name: source.queries([row.query for row in rows]) if isinstance(source, Bm25) else queries_QD
            for name, source in self._sources.items()
        }
        found = {name: source.search(queries[name], num_asked) for name, source in self._sources.items()}
        # The encoder's scores are what margins count on, where there are any.
        name, source = next(iter(self._sources.items()))
        scores_QK, index_QK = found[name]
        if len(found) > 1:
            index_QK = fuse(found["dense"][1], found["bm25"][1], num_asked)
            scores_QK = source.scores(queries[name], index_QK)
        is_positive_QK = _contains(positives_QS, index_QK)
        text_QK = self.corpus.text_of[index_QK]
        ranked = Ranked(
            scores_QK=scores_QK,
            index_QK=index_QK,
            is_positive_QK=is_positive_QK,
            is_same_text_QK=_contains(excluded_QS, text_QK) | _repeats(text_QK, is_positive_QK),
            positive_scores_QS=source.scores(queries[name], positives_QS),
            nearest_QK=_nearest_positives(source, index_QK, positives_QS),
            similarities_QK=scores_QK if name == "dense" else None,
            found=found,
        )
        if self._cross_encoder is None:
            return ranked
        return self._rescored(self._cross_encoder, ranked, rows, positives_QS, num_ranked)

    def _rescored(
        self, cross_encoder: CrossEncoder, ranked: Ranked, rows: Sequence[Row], positives_QS: Indices, num_ranked: int
    ) -> Ranked:
        """With the cross-encoder's scores of the positives and the `num_ranked` best others; NaN elsewhere."""
        window = Limits(rank_to=num_ranked)
        asked = [(ranked.index_QK, ranked.codes(window, "lowest") == KEPT), (positives_QS, positives_QS >= 0)]
        pairs = [
            (rows[q].query, self.corpus.texts[index[q, column]])
            for index, chosen in asked
            for q, column in np.argwhere(chosen).tolist()
        ]
        scores = cross_encoder.scores(pairs, self._world)
        self.num_rescored += len(pairs)
        placed = []
        for _, chosen in asked:
            values = np.full(chosen.shape, np.nan, dtype=np.float32)
            values[chosen], scores = scores[: chosen.sum()], scores[chosen.sum() :]
            placed.append(values)
        found = ranked.found | {"rescore": (placed[0], ranked.index_QK)}
        return replace(ranked, scores_QK=placed[0], positive_scores_QS=placed[1], found=found)


def _contains(sets_QS: Indices, values_QK: Indices) -> Flags:
    """Which values of a query are in the query's set; sets are padded with -1, which no value has."""
    found_QK = np.zeros(values_QK.shape, dtype=np.bool_)
    for column in range(sets_QS.shape[1]):
        found_QK |= values_QK == sets_QS[:, column : column + 1]
    return found_QK


def _repeats(text_QK: Indices, is_positive_QK: Flags) -> Flags:
    """Which ranked passages have the text of one that is ranked above them."""
    order_QK = np.argsort(text_QK, axis=1, kind="stable")
    sorted_QK = np.take_along_axis(text_QK, order_QK, axis=1)
    repeats_QK = np.zeros(text_QK.shape, dtype=np.bool_)
    np.put_along_axis(repeats_QK, order_QK[:, 1:], sorted_QK[:, 1:] == sorted_QK[:, :-1], axis=1)
    return repeats_QK & ~is_positive_QK


def _nearest_positives(source: Source, index_QK: Indices, positives_QS: Indices) -> Indices:
    nearest_QK = np.zeros(index_QK.shape, dtype=np.int64)
    several_Q = np.flatnonzero((positives_QS >= 0).sum(axis=1) > 1)
    # One query at a time: all at once would hold the embeddings of every ranked passage.
    for q in several_Q.tolist():
        nearest_QK[q] = np.argmax(source.similarities(index_QK[q], positives_QS[q, positives_QS[q] >= 0]), axis=1)
    return nearest_QK


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
