"""How time and memory grow: mining over more passages, training on more rows. No peer; every size a process of its own.

Vectors are random, texts are a few words and the trained encoder is tiny, so that what is measured is everything around
the encoder: search and rules, reading, batches, the loop and its files.
"""

import json
import logging
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from data.base.errors import InputError
from data.base.files import write_json
from data.base.options import Count, options
from data.records import Negative, Passage, Row
from data.retrieval_set import RetrievalSet
from data.row_files import write_rows
from tests.bench.bench_process import GIB, measure, report_to_parent, run_child
from trainer.config import TrainConfig
from trainer.encoder.model_files import find_model_folder
from trainer.encoder.options import BUNDLED_MODEL
from trainer.loop import train
from trainer.mining.config import MineConfig
from trainer.mining.mine import mine_rows

log = logging.getLogger(__name__)
_NEGATIVES = 2


@options
class BenchScaleConfig:
    """Time and memory of mining and of training as the data grow (a CPU, no peer)."""

    out: str = "runs/bench/scale.json"
    """File for the figures."""

    passages: tuple[Count, ...] = (20_000, 200_000, 1_000_000)
    """Sizes of the corpus that is mined."""

    rows: tuple[Count, ...] = (1_000, 10_000, 100_000)
    """Numbers of rows that are trained on, one epoch each."""

    queries: Count = 500
    """Queries that are mined for, one positive each."""

    width: Count = 384
    """Width of the embeddings that are mined."""

    batch_size: Count = 128
    """Rows of a step."""

    threads: Count = 1
    """Threads of each process."""

    memory_gib: float = 14.0
    """Bound on the memory of each process, in GiB; a size that needs more is reported as such."""

    seed: int = 0
    """Seed of vectors, texts and weights."""

    def __post_init__(self) -> None:
        if any(count < self.queries for count in self.passages):
            raise InputError(f"--passages: expected at least --queries ({self.queries}), got {min(self.passages)}")


def bench_scale(config: BenchScaleConfig) -> dict[str, Any]:
    """Measure every size once, save and return the figures; a size that failed says why."""
    sizes = [("mining", count) for count in config.passages] + [("training", count) for count in config.rows]
    measured = []
    for work, count in sizes:
        result = run_child(
            "tests.bench.bench_scale", {"work": work, "count": count} | asdict(config), config.memory_gib
        )
        found = {"failed": result} if isinstance(result, str) else {
            "seconds": result.seconds, "peak_gib": result.peak / GIB, "matmul_gflops": result.matmul_rate / 1e9
        }  # fmt: skip
        measured.append({"work": work, "count": count} | found)
        log.info("%s of %d: %s", work, count, found)
    figures = {"config": asdict(config), "sizes": measured}
    write_json(config.out, figures)
    return figures


def summary(figures: dict[str, Any]) -> str:
    """The figures as a table of a few lines; growth is by how much each grew over the size before it."""
    lines = [f"{'':10}{'of':>10}{'CPU s':>9}{'peak GiB':>10}   growth of size, time, memory"]
    before: dict[str, dict[str, Any]] = {}
    for found in figures["sizes"]:
        head = f"{found['work']:10}{found['count']:>10}"
        if "failed" in found:
            lines.append(f"{head}  {found['failed']}")
            continue
        last = before.get(found["work"])
        growth = "" if last is None else ", ".join(
            f"{found[name] / last[name]:.1f}x" for name in ("count", "seconds", "peak_gib")
        )  # fmt: skip
        lines.append(f"{head}{found['seconds']:>9.2f}{found['peak_gib']:>10.3f}   {growth}".rstrip())
        before[found["work"]] = found
    return "\n".join(lines) + "\n"


def _mining(count: int, config: BenchScaleConfig) -> Callable[[], object]:
    rng = np.random.default_rng(config.seed)
    passages_PD = rng.standard_normal((count, config.width), dtype=np.float32)
    passages_PD /= np.linalg.norm(passages_PD, axis=1, keepdims=True)
    queries_QD = passages_PD[: config.queries]
    source = RetrievalSet(
        name="bench",
        passages={str(i): f"passage {i} of a corpus" for i in range(count)},
        queries={str(i): f"query {i}" for i in range(config.queries)},
        qrels={str(i): {str(i): 1} for i in range(config.queries)},
    )
    rows = list(source.rows())
    settings = MineConfig(data="-", out="-.jsonl", backend="exact")
    return lambda: mine_rows(rows, source, queries_QD, passages_PD, settings)


def _training(count: int, config: BenchScaleConfig, folder: Path) -> Callable[[], object]:
    rows = (
        Row(
            query_id=str(i),
            query=f"query number {i}",
            positives=(Passage(id=f"{i}", text=f"an answer to number {i}"),),
            negatives=tuple(
                Negative(text=f"no answer to number {i}, text {n}", source="mined") for n in range(_NEGATIVES)
            ),
        )
        for i in range(count)
    )
    write_rows(folder / "rows.jsonl", rows)
    _save_tiny_encoder(folder / "model", config.seed)
    settings = TrainConfig(
        rows=str(folder / "rows.jsonl"), model=str(folder / "model"), out=str(folder / "run"), epochs=1,
        batch_size=config.batch_size, device="cpu",
    )  # fmt: skip
    return lambda: train(settings)


def _save_tiny_encoder(folder: Path, seed: int) -> None:
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(find_model_folder(BUNDLED_MODEL))
    torch.manual_seed(seed)
    shape = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    transformers.BertModel(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _child(job: dict[str, Any]) -> None:
    work, count = job.pop("work"), job.pop("count")
    # JSON has lists for tuples.
    config = BenchScaleConfig(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in job.items()}
    )
    with tempfile.TemporaryDirectory() as folder:
        ready = _mining(count, config) if work == "mining" else _training(count, config, Path(folder))
        report_to_parent(measure(ready, config.threads))


if __name__ == "__main__":
    _child(json.loads(sys.argv[1]))
