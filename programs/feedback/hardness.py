"""The band of hardness that accepted drafts are written for, and how they lie in it at the end."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from programs.feedback.score import Bands, Facts, assess, describe
from programs.lm.servers.recorded import CORPORA
from programs.modules.candidates import BandPlace, Hardness, Synthesis
from programs.options import read_band

if TYPE_CHECKING:
    from programs.feedback.retriever import Retriever, Vector

# Rows that are embedded together: about a thousand texts.
_ROWS_AT_ONCE = 64
# The weights between which accepted negatives are counted.
_EDGES = (0.0, 0.001, 0.01, 0.1, 0.5, 1.0)


class RetrieverScorer:
    """Scores drafts by a retriever, in one thread beside the event loop, those of all rows that wait together.

    `low` to `high` is the band of InfoNCE weight. A draft below it is too easy. One above it, or whose similarity to
    the query exceeds the positive's by more than the margin of `bands`, may well be relevant.
    """

    def __init__(self, retriever: "Retriever", fingerprint: str, *, low: float, high: float, bands: Bands):
        self.name, self.fingerprint = retriever.name, fingerprint
        self.low, self.high, self.bands = low, high, bands
        self._retriever = retriever
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="retriever")
        self._waiting: list[tuple[str, list[str], asyncio.Future[list[Vector]]]] = []
        self._turn: asyncio.Task[None] | None = None

    @property
    def key(self) -> list[str | float]:
        """All that decides a score."""
        return [self.fingerprint, self.bands.temperature, self.low, self.high, self.bands.margin]

    def settings(self) -> dict[str, Any]:
        """For summary.json."""
        return {
            "retriever": self.name,
            "fingerprint": self.fingerprint,
            "ranking_temperature": self.bands.temperature,
            "band": [self.low, self.high],
            "judge_twice_above": self.bands.margin,
        }

    async def score(
        self, query: str, positives: Sequence[str], mined: Sequence[str], drafts: Sequence[str]
    ) -> list[Hardness]:
        """The hardness of each draft of one row, beside its positives and mined negatives."""
        queried, *vectors = await self._embed(query, [*positives, *mined, *drafts])
        similarities = [float(queried @ vector) for vector in vectors]
        positive, rest = max(similarities[: len(positives)]), similarities[len(positives) :]
        return [self._hardness(similarity, positive, rest[: len(mined)]) for similarity in rest[len(mined) :]]

    def _hardness(self, similarity: float, positive: float, mined: Sequence[float]) -> Hardness:
        # Only accepted drafts are scored.
        facts = Facts(similarity=similarity, positive=positive, mined=mined, relevant=False, target_broken=True)
        terms = assess(facts, self.bands)
        place: BandPlace = "within"
        if terms.signal > self.high or similarity > positive + self.bands.margin:
            place = "above"
        elif terms.signal < self.low:
            place = "below"
        words = describe(facts, terms, self.bands, too_easy=place == "below")
        return Hardness(weight=terms.signal, similarity=similarity, positive=positive, place=place, words=words)

    async def _embed(self, query: str, texts: list[str]) -> "list[Vector]":
        """The embeddings of the query and of the texts, with those of the other rows that ask meanwhile."""
        future: asyncio.Future[list[Vector]] = asyncio.get_running_loop().create_future()
        self._waiting.append((query, texts, future))
        if self._turn is None or self._turn.done():
            self._turn = asyncio.create_task(self._take_turns())
        return await future

    async def _take_turns(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            rows, self._waiting = self._waiting[:_ROWS_AT_ONCE], self._waiting[_ROWS_AT_ONCE:]
            try:
                found = await loop.run_in_executor(self._thread, self._embed_rows, [row[:2] for row in rows])
            except Exception as error:  # noqa: BLE001 - whatever it is, those who wait are told
                for *_, future in rows:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (*_, future), vectors in zip(rows, found, strict=True):
                if not future.done():
                    future.set_result(vectors)

    def _embed_rows(self, rows: Sequence[tuple[str, list[str]]]) -> "list[list[Vector]]":
        queries = self._retriever.embed([query for query, _ in rows], "query")
        vectors = iter(self._retriever.embed([text for _, texts in rows for text in texts], "document"))
        return [[query, *(next(vectors) for _ in texts)] for query, (_, texts) in zip(queries, rows, strict=True)]


def open_scorer(model: str, hardness: str | None, bands: Bands) -> RetrieverScorer:
    """The scorer of a model for the band `hardness`. It works on the CPU, so that a run that goes on scores the same.
    Raises InputError for a model that cannot be loaded."""
    # Imported here: every synthesis reads this file, and few of them score; torch takes longer to load than the rest.
    from programs.feedback.retriever import EncoderRetriever
    from trainer.encoder import Encoder

    low, high = read_band(hardness)
    encoder = Encoder.load(model, device="cpu")
    return RetrieverScorer(EncoderRetriever(encoder), encoder.fingerprint(), low=low, high=high, bands=bands)


@dataclass(slots=True)
class HardnessSpread:
    """How the accepted negatives of a run lie, seen from the band; those of rows that are left out do not count."""

    weights: list[float] = field(default_factory=list)
    places: Counter[str] = field(default_factory=Counter)
    below_at_first: int = 0
    judged_twice: int = 0
    doubted: int = 0

    def add(self, synthesis: Synthesis) -> None:
        """Count the candidates of one row."""
        for candidate in synthesis.candidates:
            self.judged_twice += candidate.judged_twice
            self.doubted += candidate.doubted
            self.below_at_first += candidate.first_place == "below"
            if candidate.fate == "accepted" and candidate.hardness is not None:
                self.weights.append(candidate.hardness.weight)
                self.places[candidate.hardness.place] += 1

    def as_dict(self, scorer: RetrieverScorer) -> dict[str, Any]:
        """For summary.json and the report."""
        counts, _ = np.histogram(self.weights, bins=_EDGES)
        between = zip(_EDGES, _EDGES[1:], counts.tolist(), strict=False)
        quantiles = np.quantile(self.weights, [0.1, 0.5, 0.9]).tolist() if self.weights else [None] * 3
        return scorer.settings() | {
            "scored": len(self.weights),
            **{place: self.places[place] for place in ("below", "within", "above")},
            "below_at_first": self.below_at_first,
            "weight": dict(zip(("tenth", "median", "ninetieth"), quantiles, strict=True)),
            "histogram": [{"from": low, "to": high, "count": count} for low, high, count in between],
            "judged_twice": self.judged_twice,
            "doubted": self.doubted,
        }


def hardness_lines(found: dict[str, Any] | None, generator: str) -> list[str]:
    """`HardnessSpread.as_dict` in words; nothing where no retriever scored."""
    if found is None:
        return []
    low, high = found["band"]
    lines = [
        f"hardness for {found['retriever']}, as InfoNCE weight beside the positives and the mined negatives "
        f"(temperature {found['ranking_temperature']:g}): of {found['scored']} accepted "
        f"{found['below']} are below {low:g}, "
        f"{found['within']} within the band, {found['above']} above {high:g} or above the positive by more than "
        f"{found['judge_twice_above']:g}"
    ]
    if found["scored"]:
        weight = found["weight"]
        lines.append(
            f"- weights: median {weight['median']:.3f}, 80% between {weight['tenth']:.3f} and {weight['ninetieth']:.3f}"
        )
    if generator in CORPORA:
        lines.append(f"- {generator} has no second drafts: those below the band stay as they are")
    else:
        lines.append(f"- below the band before repairs: {found['below_at_first']}")
    lines.append(f"- judged twice: {found['judged_twice']}, of which the second verdict refused {found['doubted']}")
    return lines
