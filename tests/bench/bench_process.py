"""Measure a piece of work in a process of its own: time, memory over base, and the matmul rate beside it."""

import ctypes
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import torch

from data.base.errors import InputError
from data.base.options import Count, options
from trainer.encoder.options import BUNDLED_MODEL

log = logging.getLogger(__name__)
GIB = 2**30
CPU = torch.device("cpu")
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One run of a piece of work: its seconds, and peak memory in bytes over what was held before it began.

    Seconds are CPU time, as other programs may share the machine; on a GPU they go by the clock. `matmul_rate` is the
    mean of two measurements, before and after, in floating-point operations per such second.
    """

    seconds: float
    peak: int
    matmul_rate: float


def measure(
    work: Callable[[], Any],
    threads: int,
    device: torch.device = CPU,
    dtype: torch.dtype = torch.float32,
    warm_up: Callable[[], Any] | None = None,
) -> Measurement:
    """Run `work` once. Memory is Linux's resident size, or the GPU's own count; that of `warm_up`, which chooses
    kernels, counts as well, as `work` uses what it freed."""
    torch.set_num_threads(threads)
    before = matmul_rate(device, dtype)
    base = _reset_peak(device)
    if warm_up is not None:
        warm_up()
    seconds = _seconds(work, device)
    peak = _peak(device) - base
    return Measurement(seconds=seconds, peak=peak, matmul_rate=(before + matmul_rate(device, dtype)) / 2)


def matmul_rate(device: torch.device = CPU, dtype: torch.dtype = torch.float32) -> float:
    """Operations per second of the matrix product that a MiniLM layer does most, on a GPU of one that fills it."""
    rows, inner, columns = (8192, 8192, 8192) if device.type == "cuda" else (2048, 384, 1536)
    left, right = (torch.randn(size, device=device, dtype=dtype) for size in ((rows, inner), (inner, columns)))
    left @ right

    def ten() -> None:
        for _ in range(10):
            left @ right

    return 10 * 2 * rows * inner * columns / _seconds(ten, device)


def _seconds(work: Callable[[], Any], device: torch.device) -> float:
    if device.type != "cuda":
        began = time.process_time()
        work()
        return time.process_time() - began
    torch.cuda.synchronize(device)
    began = time.perf_counter()
    work()
    torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _reset_peak(device: torch.device) -> int:
    """What is held now; the peak is counted from here."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back to VmRSS
    return _status("VmRSS")


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status("VmHWM")


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise InputError("memory is measured through /proc, which only Linux has")


def run_child(module: str, job: dict[str, Any], memory_gib: float | None) -> Measurement | str:
    """Run `python -m MODULE JOB` with a bound on its memory (None: none); its Measurement, or why there is none."""

    def bound() -> None:
        # A measurement whose reader was killed would go on, and disturb the next one.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if memory_gib is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (int(memory_gib * GIB), int(memory_gib * GIB)))

    child = subprocess.run(
        [sys.executable, "-m", module, json.dumps(job)],
        capture_output=True, text=True, check=False, preexec_fn=bound,
        env=os.environ | {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": str(job.get("threads", 1))},
    )  # fmt: skip
    if child.returncode != 0:
        last = (child.stderr.strip().splitlines() or ["no message"])[-1]
        return f"more than {memory_gib} GiB" if memory_gib and "memory" in child.stderr else last
    return Measurement(**json.loads(child.stdout.strip().splitlines()[-1]))


@options
class TurnsOptions:
    """How variants are measured in turns."""

    rounds: Count = 5
    """Measurements of each variant; medians and ranges are reported."""

    threads: Count = 1
    """Threads of each process."""

    memory_gib: float = 8.0
    """Bound on the memory of each process, in GiB."""


@options
class TextsOptions:
    """The model of both, and the texts that it is given."""

    model: str = BUNDLED_MODEL
    """Encoder of both."""

    min_tokens: int = 35
    """Shortest text in tokens."""

    max_tokens: int = 155
    """Longest text in tokens."""

    seed: int = 0
    """Seed of the texts."""

    def check_lengths(self) -> None:
        """Raises InputError where no text has such a length."""
        if not 3 <= self.min_tokens <= self.max_tokens:
            raise InputError("--min-tokens: expected at least 3 and at most --max-tokens")


def in_turns(module: str, variants: Iterable[str], config: TurnsOptions) -> dict[str, list[Measurement]]:
    """The measurements of each variant, one a round, the variants one after the other within it.

    Raises InputError without sentence-transformers, and for a variant that failed.
    """
    require_peer()
    found: dict[str, list[Measurement]] = {variant: [] for variant in variants}
    for number in range(config.rounds):
        for variant, measured in found.items():
            result = run_child(module, {"variant": variant} | asdict(config), config.memory_gib)
            if isinstance(result, str):
                raise InputError(f"the bench of {variant} failed: {result}")
            measured.append(result)
            log.info("round %d: %s: %.2f s CPU", number + 1, variant, result.seconds)
    return found


def against(peer: list[Measurement], measured: list[Measurement]) -> dict[str, Any]:
    """Memory, and how many times as fast as the peer round by round."""
    return {
        "peak_gib": median_and_range([m.peak / GIB for m in measured]),
        "speed": median_and_range([p.seconds / m.seconds for p, m in zip(peer, measured, strict=True)]),
    }


def require_peer() -> None:
    """Raise InputError where what the benches compare with is not installed."""
    if find_spec("sentence_transformers") is None:
        raise InputError("the bench compares with sentence-transformers: pip install 'causalneg[bench]'")


def report_to_parent(measurement: Measurement) -> None:
    """The last line that a child prints."""
    sys.stdout.write(json.dumps(asdict(measurement)) + "\n")


def median_and_range(values: list[float]) -> dict[str, float]:
    """Median and spread of repeated measurements."""
    return {"median": median(values), "min": min(values), "max": max(values)}
