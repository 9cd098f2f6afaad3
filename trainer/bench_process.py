"""Measure a piece of work in a process of its own: CPU time, memory over base, and the matmul rate beside it."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from data.errors import InputError

GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One run of a piece of work: CPU and wall seconds, peak memory in bytes over what was held before it began.

    `matmul_rate` is the mean of two measurements, before and after, in floating-point operations per CPU second.
    """

    cpu: float
    wall: float
    peak: int
    matmul_rate: float


def measure(work: Callable[[], Any], threads: int) -> Measurement:
    """Run `work` once. Counts CPU time, as other programs may share the machine; memory is Linux's resident size."""
    torch.set_num_threads(threads)
    before = matmul_rate()
    base = _reset_peak()
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    peak = _status("VmHWM") - base
    return Measurement(cpu=cpu, wall=wall, peak=peak, matmul_rate=(before + matmul_rate()) / 2)


def matmul_rate() -> float:
    """Operations per CPU second of the matrix product that a MiniLM layer does most."""
    left, right = torch.randn(2048, 384), torch.randn(384, 1536)
    left @ right
    cpu = time.process_time()
    for _ in range(10):
        left @ right
    return 10 * 2 * 2048 * 384 * 1536 / (time.process_time() - cpu)


def _reset_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back to VmRSS
    return _status("VmRSS")


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise InputError("memory is measured through /proc, which only Linux has")


def run_child(module: str, job: dict[str, Any], memory_gib: float) -> Measurement | str:
    """Run `python -m MODULE JOB` with a bound on its memory; its Measurement, or why there is none."""

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (int(memory_gib * GIB), int(memory_gib * GIB)))

    child = subprocess.run(
        [sys.executable, "-m", module, json.dumps(job)],
        capture_output=True, text=True, check=False, preexec_fn=bound,
        env=os.environ | {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": str(job.get("threads", 1))},
    )  # fmt: skip
    if child.returncode != 0:
        last = (child.stderr.strip().splitlines() or ["no message"])[-1]
        return f"more than {memory_gib} GiB" if "memory" in child.stderr else last
    return Measurement(**json.loads(child.stdout.strip().splitlines()[-1]))


def report_to_parent(measurement: Measurement) -> None:
    """The last line that a child prints."""
    sys.stdout.write(json.dumps(asdict(measurement)) + "\n")


def middle(values: list[float]) -> dict[str, float]:
    """Median and spread of repeated measurements."""
    return {"median": median(values), "min": min(values), "max": max(values)}
