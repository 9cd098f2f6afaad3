"""`python -m tests.chaos [NAME ...]`: the long tests of reliability, with figures in runs/chaos/NAME.json.

Ends with code 1 when a promise is broken. Without names all of them run, an hour on two idle cores.
"""

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data.base.files import write_json
from tests.chaos import (
    answers,
    batches,
    damaged,
    disks,
    fuzz,
    inputs,
    kills,
    leftovers,
    owner,
    provider_faults,
    throughput,
    training,
)
from tests.chaos.promises import BrokenPromiseError

Scenario = Callable[[Path], dict[str, Any]]
SCENARIOS: dict[str, Scenario] = {
    "faults": provider_faults.provider_faults,
    "kills": kills.kills,
    "budget-kills": kills.budget_under_kills,
    "batch-kills": batches.batch_kills,
    "interrupt": kills.interrupt,
    "interrupt-stalled": lambda folder: kills.interrupt(folder, answer_s=10.0),
    "two-at-once": kills.two_at_once,
    "full-disk": disks.full_disk,
    "full-tmpfs": lambda folder: disks.full_disk(folder, use_tmpfs=True),
    "read-only": disks.read_only_folder,
    "throughput": throughput.throughput,
    "concurrency": throughput.concurrency_adapts,
    "memory": throughput.memory_of_queries,
    "streaming": throughput.memory_of_rows,
    "training-kills": training.kill_and_resume,
    "training-worker": training.worker_killed,
    "fuzz": fuzz.fuzz,
    "answers": answers.answers,
    "owner": owner.owner,
    "inputs": inputs.inputs,
    "damaged": damaged.damaged,
    "leftovers": leftovers.leftovers,
}
NEED_ROOT = ("full-tmpfs", "read-only")


def main() -> int:
    """Run the scenarios that are named, or all; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SCENARIOS)}; none: all of them")
    parser.add_argument("--out", type=Path, default=Path("runs/chaos"), help="folder of the figures")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in SCENARIOS]:
        parser.error(f"unknown scenario {unknown[0]!r}: expected {', '.join(SCENARIOS)}")
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr)
    broken = 0
    for name in options.names or SCENARIOS:
        with tempfile.TemporaryDirectory(prefix="causalneg-chaos-") as folder:
            if name in NEED_ROOT and not disks.may_mount(Path(folder)):
                sys.stdout.write(f"{name}: left out, this user may not mount a small disk\n")
                continue
            began = time.monotonic()
            try:
                figures: dict[str, Any] = {"kept": True, **SCENARIOS[name](Path(folder))}
            except BrokenPromiseError as error:
                figures, broken = {"kept": False, "broken": str(error)}, broken + 1
        figures["seconds_in_all"] = round(time.monotonic() - began, 1)
        write_json(options.out / f"{name}.json", figures)
        sys.stdout.write(f"{name}: {'kept' if figures['kept'] else 'BROKEN'}\n{_lines(figures)}\n")
        sys.stdout.flush()
    return 1 if broken else 0


def _lines(figures: dict[str, Any]) -> str:
    return "".join(f"  {name}: {json.dumps(value, ensure_ascii=False)}\n" for name, value in figures.items())


if __name__ == "__main__":
    sys.exit(main())
