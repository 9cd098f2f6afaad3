"""Training that is killed: it goes on to the same bits, and a survivor of several processes ends with a line."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from transformers import BertConfig

from data.row_files import write_rows
from tests.chaos.promises import PATIENCE_S, exit_code, promise, start_command
from tests.fakes.fake_process import ROOT
from tests.trainer.conftest import SIZES, save_random
from tests.trainer.runs import free_port, one_of_two
from tests.trainer.tiny_data import training_rows

_STEPS = 60


def write_tiny_training(folder: Path) -> list[str]:
    """A tiny encoder and rows to train it on; returns the flags of a run of 60 steps but for its --out."""
    save_random(folder / "tiny", BertConfig(**SIZES))
    write_rows(folder / "rows.jsonl", training_rows())
    return [
        f"--rows={folder / 'rows.jsonl'}", f"--model={folder / 'tiny'}", "--batch-size=4", f"--epochs={_STEPS // 3}",
        "--lr=0.001", "--checkpoint-every=4", "--device=cpu",
    ]  # fmt: skip


def kill_and_resume(folder: Path, *, loops: int = 20, seed: int = 0) -> dict[str, Any]:
    """So many runs, each killed at a random instant and started again: all end with the bits of an undisturbed one."""
    flags, rng = write_tiny_training(folder), random.Random(seed)
    whole = folder / "whole"
    promise(_train([*flags, f"--out={whole}"]) == 0, "the undisturbed run failed")
    wanted = _weights(whole)
    killed, differing, resumed_late = 0, 0, 0
    for number in range(loops):
        out = folder / f"run{number}"
        process = start_command("trainer", ["train", *flags, f"--out={out}"])
        _wait_for_lines(out / "metrics.jsonl", rng.randrange(_STEPS - 5), process)
        time.sleep(rng.uniform(0, 0.02))
        killed += process.is_alive()
        process.kill()
        process.join(PATIENCE_S)
        resumed_late += any((out / "checkpoints").glob("step-*"))
        promise(_train([*flags, f"--out={out}"]) == 0, f"run {number} did not go on")
        differing += _weights(out) != wanted
    promise(differing == 0, f"{differing} of {loops} resumed runs ended with other weights")
    promise(killed >= loops // 2, f"only {killed} of {loops} runs were still going when they were to be killed")
    return {
        "loops": loops,
        "steps": _STEPS,
        "killed": killed,
        "resumed_from_a_checkpoint": resumed_late,
        "runs_with_other_weights": differing,
    }


def worker_killed(folder: Path) -> dict[str, Any]:
    """One of two processes is killed while they train together."""
    flags = [*write_tiny_training(folder), f"--out={folder / 'run'}", f"--epochs={_STEPS * 1000}"]
    port = free_port()
    survivor, victim = (
        subprocess.Popen(
            [sys.executable, "-m", "trainer", "train", *flags],
            cwd=ROOT,
            env=os.environ | one_of_two(rank, port) | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    )
    metrics = folder / "run" / "metrics.jsonl"
    while _num_lines(metrics) <= 5 and survivor.poll() is None:
        time.sleep(0.05)
    promise(survivor.poll() is None, "the run ended by itself")
    victim.send_signal(signal.SIGKILL)
    began = time.monotonic()
    try:
        _, errors = survivor.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        survivor.kill()
        survivor.communicate()
        promise(False, "the survivor hangs")
    victim.communicate()
    seconds, line = time.monotonic() - began, errors.strip().splitlines()[-1]
    promise(survivor.returncode == 2, f"exit code {survivor.returncode}: {errors[-2000:]}")
    promise("Traceback" not in errors, f"a traceback: {errors[-2000:]}")
    promise("another process of this run ended" in line, f"it does not say why it ends: {line}")
    return {"processes": 2, "seconds_until_the_other_ended": round(seconds, 2), "line": line}


def _num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _wait_for_lines(path: Path, count: int, process: Any) -> None:
    while _num_lines(path) < count and process.is_alive():
        time.sleep(0.001)


def _train(flags: list[str]) -> int:
    return exit_code(start_command("trainer", ["train", *flags]))


def _weights(out: Path) -> str:
    return hashlib.sha256((out / "model" / "model.safetensors").read_bytes()).hexdigest()
