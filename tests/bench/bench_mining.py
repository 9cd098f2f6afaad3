"""Our mining beside sentence-transformers' `mine_hard_negatives`: same embeddings, same filters, same selection.

Axes: Q queries, P passages, D width.
"""

import contextlib
import io
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import numpy as np

from data.base.errors import InputError
from data.base.files import write_json
from data.base.options import Count, options
from data.retrieval_set import RetrievalSet
from tests.bench.bench_process import TurnsOptions, against, in_turns, measure, median_and_range, report_to_parent
from trainer.encoder.encoder import Floats
from trainer.mining.config import MineConfig
from trainer.mining.mine import mine_rows

VARIANTS = ("peer", "ours")
NUM_NEGATIVES, RANK_TO, RELATIVE_MARGIN = 15, 100, 0.05


@options
class BenchMiningConfig(TurnsOptions):
    """Time mining from given embeddings, ours and sentence-transformers' with FAISS (extra `bench`)."""

    out: str = "runs/bench/mining.json"
    """File for the figures."""

    passages: int = 20_000
    """Passages of the corpus."""

    queries: Count = 2_000
    """Queries, one positive each."""

    width: Count = 384
    """Width of the embeddings."""

    seed: int = 0
    """Seed of the embeddings."""

    def __post_init__(self) -> None:
        if self.passages < self.queries:
            raise InputError(f"--passages: expected at least --queries ({self.queries}), got {self.passages}")


def bench_mining(config: BenchMiningConfig) -> dict[str, Any]:
    """Run all variants in turns, save and return the figures; says too how many queries got the same negatives."""
    found = in_turns("tests.bench.bench_mining", VARIANTS, config)
    figures = {
        "config": asdict(config),
        "variants": {
            variant: {
                "queries_per_cpu_second": median_and_range([config.queries / m.seconds for m in measured]),
                **against(found["peer"], measured),
            }
            for variant, measured in found.items()
        },
        "equal_selections": _equal_selections(config),
    }
    write_json(config.out, figures)
    return figures


def _equal_selections(config: BenchMiningConfig) -> float:
    ours, theirs = _ours(config)(), _peer(config)()
    same = sum(ours[query] == theirs.get(query, []) for query in ours if len(ours[query]) == NUM_NEGATIVES)
    return same / max(1, sum(len(texts) == NUM_NEGATIVES for texts in ours.values()))


def _embeddings(config: BenchMiningConfig) -> tuple[Floats, Floats]:
    """Passages around shared topics and queries near their positives, so that margins have something to drop."""
    rng = np.random.default_rng(config.seed)
    topics = rng.normal(size=(max(1, config.passages // 40), config.width))
    passages_PD = topics[rng.integers(len(topics), size=config.passages)] + rng.normal(
        size=(config.passages, config.width)
    )
    queries_QD = passages_PD[: config.queries] + rng.normal(size=(config.queries, config.width))
    return tuple((x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32) for x in (queries_QD, passages_PD))


def _texts(config: BenchMiningConfig) -> tuple[list[str], list[str]]:
    filler = "one passage of a corpus whose texts are all different and as long as a short abstract " * 3
    return [f"query {i}" for i in range(config.queries)], [f"passage {i} {filler}" for i in range(config.passages)]


def _ours(config: BenchMiningConfig) -> Callable[[], dict[str, list[str]]]:
    queries_QD, passages_PD = _embeddings(config)
    queries, passages = _texts(config)
    source = RetrievalSet(
        name="bench",
        passages={str(i): text for i, text in enumerate(passages)},
        queries={str(i): text for i, text in enumerate(queries)},
        qrels={str(i): {str(i): 1} for i in range(config.queries)},
    )
    rows = list(source.rows())
    settings = MineConfig(
        data="-", out="-.jsonl", num_negatives=NUM_NEGATIVES, rank_to=RANK_TO, relative_margin=RELATIVE_MARGIN,
    )  # fmt: skip

    def work() -> dict[str, list[str]]:
        mined, _ = mine_rows(rows, source, queries_QD, passages_PD, settings)
        return {row.query: [negative.text for negative in row.negatives] for row in mined}

    return work


def _peer(config: BenchMiningConfig) -> Callable[[], dict[str, list[str]]]:
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives, pairwise_cos_sim

    queries_QD, passages_PD = _embeddings(config)
    queries, passages = _texts(config)
    # Stands in for the model: the embeddings are given, only the mining is measured.
    model = SimpleNamespace(
        device="cpu",
        encode_query=lambda texts, **_: queries_QD,
        encode_document=lambda texts, **_: passages_PD,
        get_embedding_dimension=lambda: config.width,
        similarity_pairwise=pairwise_cos_sim,
    )
    dataset = Dataset.from_dict({"anchor": queries, "positive": passages[: config.queries]})

    def work() -> dict[str, list[str]]:
        with contextlib.redirect_stdout(io.StringIO()):
            mined = mine_hard_negatives(
                dataset, model, corpus=passages, num_negatives=NUM_NEGATIVES, range_max=RANK_TO, use_faiss=True,
                relative_margin=RELATIVE_MARGIN, output_format="n-tuple", sampling_strategy="top", verbose=False,
            )  # fmt: skip
            columns = [mined[f"negative_{i}"] for i in range(1, NUM_NEGATIVES + 1)]
            return {query: list(texts) for query, *texts in zip(mined["anchor"], *columns, strict=True)}

    return work


def summary(figures: dict[str, Any]) -> str:
    """The figures as a table of a few lines."""
    lines = [f"{'':12}{'queries/s':>11}{'peak GiB':>10}{'against peer':>14}"]
    for variant, values in figures["variants"].items():
        rate, peak, speed = values["queries_per_cpu_second"], values["peak_gib"], values["speed"]
        lines.append(
            f"{variant:12}{rate['median']:>11.0f}{peak['median']:>10.2f}{speed['median']:>13.2f}x"
            f" ({speed['min']:.2f} to {speed['max']:.2f})"
        )
    lines.append(
        f"same negatives as the peer for {figures['equal_selections']:.1%} of the queries that got all of them"
    )
    return "\n".join(lines) + "\n"


def _child(job: dict[str, Any]) -> None:
    variant = job.pop("variant")
    config = BenchMiningConfig(**job)
    # FAISS and torch take their number of threads from OMP_NUM_THREADS, which the parent sets.
    work = _peer(config) if variant == "peer" else _ours(config)
    report_to_parent(measure(work, config.threads))


if __name__ == "__main__":
    _child(json.loads(sys.argv[1]))
