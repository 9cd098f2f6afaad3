"""Our training step beside sentence-transformers': the same texts, dropout, optimiser and number of threads.

Every measurement is a process of its own; the variants take turns, so that a busy minute of the machine hits all.
"""

import json
import logging
import random
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, Literal

import torch

from data.base.errors import InputError
from data.base.files import write_json
from data.base.options import options
from tests.bench.bench_losses import bench_losses
from tests.bench.bench_process import (
    GIB,
    Measurement,
    TextsOptions,
    TurnsOptions,
    measure,
    median_and_range,
    report_to_parent,
    require_peer,
    run_child,
)
from trainer.config import TrainConfig
from trainer.encoder import Encoder
from trainer.encoder.model_files import find_model_folder
from trainer.encoder.options import Precision
from trainer.encoder.precision import autocast_type
from trainer.step.batches import Example
from trainer.step.gradients import accumulate_gradients
from trainer.step.optimizer import make_optimizer

log = logging.getLogger(__name__)

NUM_MINED, NUM_GENERATED = 15, 3
PEERS = {"peer", "peer cached"}
# What each of ours is compared with, by number of rows.
COMPARISONS = {"ours": ("peer", "peer cached"), "ours in-batch": ("peer cached",)}


@options
class BenchTrainerConfig(TurnsOptions, TextsOptions):
    """Time one training step of ours and of sentence-transformers (extra `bench`), and the losses alone."""

    out: str = "runs/bench/trainer.json"
    """File for the figures."""

    small: int = 4
    """Rows per step in the comparison with MultipleNegativesRankingLoss (its memory grows with this; 0: skip)."""

    large: int = 16
    """Rows per step in the comparison with CachedMultipleNegativesRankingLoss (0: skip)."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Device of both: on a GPU time goes by the clock, and memory is the GPU's."""

    precision: Precision = "float32"
    """Precision of our encoder's matrix products, and of the product that the rate of both is compared with."""

    peer_precision: Precision | None = None
    """Precision of the peer's (None: ours). float32 is what a user of it gets who sets nothing."""

    memory_gib: float = 14.0
    """Bound on the memory of each process on a CPU, in GiB; a variant that needs more is reported as such."""

    def __post_init__(self) -> None:
        self.check_lengths()


def bench_trainer(config: BenchTrainerConfig) -> dict[str, Any]:
    """Run all variants in turns, save and return the figures. Raises InputError without sentence-transformers."""
    require_peer()
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: PyTorch finds no GPU here")
    variants = [
        (variant, rows, dropout)
        for rows, names in ((config.small, ("peer", "ours")), (config.large, ("peer cached", "ours", "ours in-batch")))
        if rows
        for dropout in (0.1, 0.0)
        for variant in names
    ]
    found: dict[tuple[str, int, float], list[Measurement]] = {key: [] for key in variants}
    failed: dict[tuple[str, int, float], str] = {}
    for number in range(config.rounds):
        for key in variants:
            variant, rows, dropout = key
            if key in failed:
                continue
            job = {"variant": variant, "rows": rows, "dropout": dropout, "round": number} | asdict(config)
            result = run_child("tests.bench.bench_trainer", job, config.memory_gib if config.device == "cpu" else None)
            if isinstance(result, str):
                failed[key] = result
                log.warning("warning: %s at %d rows, dropout %s: %s", variant, rows, dropout, result)
            else:
                found[key].append(result)
                log.info(
                    "round %d: %s at %d rows, dropout %s: %.2f s", number + 1, variant, rows, dropout, result.seconds
                )
    figures = {
        "config": asdict(config),
        "steps": [_figures(key, found[key], config) | {"failed": failed.get(key)} for key in variants],
        "ratios": [ratio for key in variants for ratio in _ratios(key, found)],
        "losses": bench_losses(config.rounds, config.seed),
    }
    write_json(config.out, figures)
    return figures


def _figures(key: tuple[str, int, float], found: list[Measurement], config: BenchTrainerConfig) -> dict[str, Any]:
    variant, rows, dropout = key
    named = {"variant": variant, "rows": rows, "dropout": dropout}
    if not found:
        return named
    tokens = sum(len(text.split()) + 2 for example in examples(config, rows, ["word"]) for text in _texts(example))
    operations = flops(config.model, tokens)
    return named | {
        "rows_per_second": median_and_range([rows / m.seconds for m in found]),
        "tokens_per_second": median_and_range([tokens / m.seconds for m in found]),
        "peak_gib": median_and_range([m.peak / GIB for m in found]),
        "tflop_per_second": median_and_range([operations / m.seconds / 1e12 for m in found]),
        "share_of_matmul_rate": median_and_range([operations / m.seconds / m.matmul_rate for m in found]),
    }


def _ratios(
    key: tuple[str, int, float], found: dict[tuple[str, int, float], list[Measurement]]
) -> list[dict[str, Any]]:
    variant, rows, dropout = key
    ratios = []
    for peer in COMPARISONS.get(variant, ()):
        pairs = list(zip(found[key], found.get((peer, rows, dropout), []), strict=False))
        if pairs:
            # Round by round, as the two of a round ran one after the other.
            ratios.append({
                "variant": variant, "against": peer, "rows": rows, "dropout": dropout,
                "speed": median_and_range([theirs.seconds / ours.seconds for ours, theirs in pairs]),
                "peak_share": median_and_range([ours.peak / theirs.peak for ours, theirs in pairs]),
            })  # fmt: skip
    return ratios


def flops(model: str, tokens: int) -> float:
    """Operations of one step forward and backward in the layers' matrices (attention products left out)."""
    config = json.loads((find_model_folder(model) / "config.json").read_text())
    width, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    return float(6 * tokens * layers * (4 * width * width + 2 * width * inner))


def examples(config: BenchTrainerConfig, rows: int, words: list[str]) -> list[Example]:
    """Rows of random words, one token each; equal for all variants."""
    rng = random.Random(config.seed)

    def text() -> str:
        return " ".join(rng.choice(words) for _ in range(rng.randint(config.min_tokens, config.max_tokens) - 2))

    return [
        Example(
            query=text(),
            positive=text(),
            mined=tuple(text() for _ in range(NUM_MINED)),
            generated=tuple(text() for _ in range(NUM_GENERATED)),
            known_positives=frozenset(),
            grades=(1.0, *[0.0] * (NUM_MINED + NUM_GENERATED)),
        )
        for _ in range(rows)
    ]


def _texts(example: Example) -> tuple[str, ...]:
    return (example.query, *example.passages)


def one_token_words(tokenizer: Any) -> list[str]:
    """Words that are one token each, so that a text's length is known."""
    return sorted(
        word for word in tokenizer.get_vocab() if word.isascii() and word.isalpha() and word.islower() and len(word) > 2
    )


Step = Callable[[list[Example]], None]


def _our_step(job: dict[str, Any], config: BenchTrainerConfig) -> tuple[Step, list[str]]:
    """One of our steps, and the words for its texts."""
    encoder = Encoder.load(config.model, device=config.device).train()
    encoder.set_dropout(job["dropout"])
    encoder.autocast = autocast_type(config.precision, encoder.device)
    settings = TrainConfig(rows="-", out="-", in_batch="in-batch" if job["variant"] == "ours in-batch" else "none")
    optimizer = make_optimizer(encoder, settings)
    words = one_token_words(encoder.tokenizer)

    def step(batch: list[Example]) -> None:
        accumulate_gradients(encoder, [batch], settings)
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step, words


def _peer_step(job: dict[str, Any], config: BenchTrainerConfig) -> tuple[Step, list[str]]:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import losses

    model = SentenceTransformer(str(find_model_folder(config.model)), device=config.device).train()
    half = autocast_type(config.peer_precision or config.precision, model.device)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = job["dropout"]
    kind = (
        losses.MultipleNegativesRankingLoss if job["variant"] == "peer" else losses.CachedMultipleNegativesRankingLoss
    )
    loss = kind(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5)
    words = one_token_words(model.tokenizer)

    def step(batch: list[Example]) -> None:
        columns = zip(*(_texts(example) for example in batch), strict=True)
        features = [
            {name: value.to(model.device) if isinstance(value, torch.Tensor) else value for name, value in part.items()}
            for part in (model.preprocess(list(column)) for column in columns)
        ]
        with torch.autocast(model.device.type, dtype=half, enabled=half is not None):
            found = loss(features, torch.arange(len(batch), device=model.device))
        found.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step, words


def summary(figures: dict[str, Any]) -> str:
    """The figures as a table of a few lines."""
    heads = f"{'rows/s':>9}{'tokens/s':>10}{'peak GiB':>10}{'TFLOP/s':>9}{'of matmul rate':>16}"
    lines = [f"{'':14}{'rows':>5}{'dropout':>9}{heads}"]
    for step in figures["steps"]:
        head = f"{step['variant']:14}{step['rows']:>5}{step['dropout']:>9}"
        if step["failed"]:
            lines.append(f"{head}  {step['failed']}")
            continue
        names = ("rows_per_second", "tokens_per_second", "peak_gib", "tflop_per_second", "share_of_matmul_rate")
        rows, tokens, peak, tflop, share = (step[name]["median"] for name in names)
        lines.append(f"{head}{rows:>9.2f}{tokens:>10.0f}{peak:>10.2f}{tflop:>9.3g}{share:>15.0%} ")
    for ratio in figures["ratios"]:
        speed, peak = ratio["speed"], ratio["peak_share"]["median"]
        lines.append(
            f"{ratio['variant']} against {ratio['against']}, {ratio['rows']} rows, dropout {ratio['dropout']}: "
            f"{speed['median']:.2f}x ({speed['min']:.2f} to {speed['max']:.2f}), memory {peak:.0%}"
        )
    for name, loss in figures["losses"].items():
        lines.append(
            f"{name}: {loss['speed']['median']:.1f}x the loop over samples, gradients within {loss['difference']:.0e}"
        )
    return "\n".join(lines) + "\n"


def _child(job: dict[str, Any]) -> None:
    names = BenchTrainerConfig.__dataclass_fields__.keys()
    config = BenchTrainerConfig(**{name: value for name, value in job.items() if name in names})
    torch.manual_seed(job["round"])
    step, words = (_peer_step if job["variant"] in PEERS else _our_step)(job, config)
    device = torch.device(config.device)
    dtype = autocast_type(config.precision, device) or torch.float32
    # The first of a training's many steps builds kernels, and gets memory that those after it use again.
    others = examples(replace(config, seed=config.seed + 1), job["rows"], words)
    batch = examples(config, job["rows"], words)
    report_to_parent(measure(lambda: step(batch), config.threads, device, dtype, warm_up=lambda: step(others)))


if __name__ == "__main__":
    _child(json.loads(sys.argv[1]))
