"""Encoding a corpus beside sentence-transformers' `encode`: the same model, the same texts, vectors compared.

Every measurement is a process of its own; the variants take turns, so that a busy minute of the machine hits all.
"""

import json
import random
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from data.base.files import write_json
from data.base.options import Count, options
from tests.bench.bench_process import (
    TextsOptions,
    TurnsOptions,
    against,
    in_turns,
    measure,
    median_and_range,
    report_to_parent,
)
from tests.bench.bench_trainer import one_token_words
from trainer.encoder import Encoder
from trainer.encoder.encoder import Floats
from trainer.encoder.model_files import find_model_folder
from trainer.encoder.options import Precision

PEER = "peer"
OURS: dict[str, Precision] = {"ours float32": "float32", "ours bfloat16": "bfloat16"}
VARIANTS = (PEER, *OURS)
_COMPARED = 64


@options
class BenchEncodeConfig(TurnsOptions, TextsOptions):
    """Time the encoding of a corpus on a CPU, ours and sentence-transformers' in float32 (extra `bench`)."""

    out: str = "runs/bench/encode.json"
    """File for the figures."""

    texts: Count = 500
    """Texts, of random words."""

    def __post_init__(self) -> None:
        self.check_lengths()


def bench_encode(config: BenchEncodeConfig) -> dict[str, Any]:
    """Run all variants in turns, save and return the figures; says too how near the vectors are to the peer's."""
    found = in_turns("tests.bench.bench_encode", VARIANTS, config)
    sample = _texts(config, Encoder.load(config.model, device="cpu").tokenizer)[:_COMPARED]
    vectors = {variant: _encoder(variant, config)[0](sample) for variant in VARIANTS}
    figures = {
        "config": asdict(config),
        "variants": {
            variant: {
                "texts_per_second": median_and_range([config.texts / m.seconds for m in measured]),
                **against(found[PEER], measured),
                "lowest_cosine": float((vectors[variant] * vectors[PEER]).sum(axis=1).min()),
            }
            for variant, measured in found.items()
        },
    }
    write_json(config.out, figures)
    return figures


def _texts(config: BenchEncodeConfig, tokenizer: Any) -> list[str]:
    rng, words = random.Random(config.seed), one_token_words(tokenizer)
    lengths = [rng.randint(config.min_tokens, config.max_tokens) - 2 for _ in range(config.texts)]
    return [" ".join(rng.choices(words, k=length)) for length in lengths]


def _encoder(variant: str, config: BenchEncodeConfig) -> tuple[Callable[[list[str]], Floats], Any]:
    """How a variant encodes, and its tokenizer."""
    if variant != PEER:
        encoder = Encoder.load(config.model, device="cpu", precision=OURS[variant])
        return lambda texts: encoder.encode(texts, "document"), encoder.tokenizer
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(find_model_folder(config.model)), device="cpu")
    return lambda texts: np.asarray(model.encode(texts, show_progress_bar=False)), model.tokenizer


def summary(figures: dict[str, Any]) -> str:
    """The figures as a table of a few lines."""
    lines = [f"{'':15}{'texts/s':>9}{'peak GiB':>10}{'against peer':>14}{'':16}{'lowest cosine':>14}"]
    for variant, values in figures["variants"].items():
        speed = values["speed"]
        spread = f"({speed['min']:.2f} to {speed['max']:.2f})"
        lines.append(
            f"{variant:15}{values['texts_per_second']['median']:>9.1f}{values['peak_gib']['median']:>10.2f}"
            f"{speed['median']:>13.2f}x {spread:<15}{values['lowest_cosine']:>14.6f}"
        )
    return "\n".join(lines) + "\n"


def _child(job: dict[str, Any]) -> None:
    variant = job.pop("variant")
    config = BenchEncodeConfig(**job)
    encode, tokenizer = _encoder(variant, config)
    texts = _texts(config, tokenizer)
    encode(texts[:4])  # a first time chooses kernels
    report_to_parent(measure(lambda: encode(texts), config.threads))


if __name__ == "__main__":
    _child(json.loads(sys.argv[1]))
