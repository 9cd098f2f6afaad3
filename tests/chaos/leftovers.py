"""Commands that are killed at any instant, or started twice at once: the next start ends as the first would have, and
nothing stays of the one that was killed."""

import hashlib
import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data.base.outputs import MARKER
from data.readers.beir import write_beir
from data.readers.demo import demo_family_set, demo_items
from data.row_files import write_rows
from tests.chaos.promises import PATIENCE_S, exit_code, promise, start_command
from tests.chaos.training import write_tiny_training

# What says when it was made or how long it took.
_TIMED = (MARKER, "metrics.jsonl", "summary.json", "ablation.json", "state.json", "model/README.md")


@dataclass(frozen=True, slots=True)
class _Command:
    """A command line but for its output, and what that is called."""

    room: str
    words: tuple[str, ...]
    out: str = "out"  # a run's folder, which is locked

    @property
    def is_run(self) -> bool:
        return self.out == "out"


def _commands(folder: Path, tiny: Sequence[str]) -> dict[str, _Command]:
    beir = (f"data={folder / 'beir'}", "split=dev", f"model={folder / 'tiny'}", "device=cpu")
    return {
        "convert": _Command("data", ("convert", f"input={folder / 'many.jsonl'}", "to=flag-embedding"), "out.jsonl"),
        "mine": _Command("trainer", ("mine", *beir), "out.jsonl"),
        "train": _Command("trainer", ("train", *tiny, "--epochs=2")),
        "dataset": _Command("programs", ("dataset", f"run={folder / 'run'}", "licence=cc0-1.0")),
        "eval": _Command("evals", ("eval", *beir), "out.json"),
        "ablate": _Command(
            "evals",
            ("ablate", f"rows={folder / 'demo.jsonl'}", f"test={folder / 'beir'}", "test-split=dev", *beir[2:],
             "seeds=2", "epochs=1", "entropy-weights=", "grade-sharpness=", "generated-weights="),
        ),
    }  # fmt: skip


def leftovers(folder: Path, *, kills: int = 10, seed: int = 0, only: Sequence[str] = ()) -> dict[str, Any]:
    """Kill each command so often, at instants spread over the time that it takes, and start it again; then start two.

    Raises BrokenPromiseError where the second start fails, ends with other files, or leaves some of the first.
    """
    tiny, rng = _lay_out(folder), random.Random(seed)
    figures: dict[str, Any] = {}
    for name, command in _commands(folder, tiny).items():
        if only and name not in only:
            continue
        began = time.monotonic()
        promise(exit_code(_start(command, folder / name / "whole")) == 0, f"{name}: the undisturbed run failed")
        took, wanted = time.monotonic() - began, _contents(folder / name / "whole")
        running = refused = 0
        for number in range(kills):
            home = folder / name / f"kill{number}"
            process = _start(command, home)
            time.sleep(rng.uniform(0, took))
            running += process.is_alive()
            process.kill()
            process.join(PATIENCE_S)
            _age(home)
            if code := exit_code(_start(command, home)):
                # A file that was there already when the run was killed, which had not yet said that it is its own.
                promise(code == 2 and not command.is_run, f"{name}, kill {number}: it ends with {code}")
                promise(exit_code(_start(command, home, "force=true")) == 0, f"{name}, kill {number}: no second start")
                refused += 1
            _compare(f"{name}, kill {number}", _contents(home), wanted)
        figures[name] = {"kills": kills, "while_running": running, "wanted_force": refused} | _twice(
            name, command, folder, wanted
        )
    return {"by_command": figures}


def _twice(name: str, command: _Command, folder: Path, wanted: dict[str, str]) -> dict[str, Any]:
    """Two at once on one output: one of them may be refused, the output is that of one."""
    home = folder / name / "twice"
    both = [_start(command, home), _start(command, home)]
    codes = sorted(exit_code(process) for process in both)
    promise(
        codes == [0, 2] or (codes == [0, 0] and not command.is_run), f"{name}, two at once: they ended with {codes}"
    )
    _compare(f"{name}, two at once", _contents(home), wanted)
    return {"two_at_once": codes}


def _lay_out(folder: Path) -> list[str]:
    """A tiny encoder, a corpus, rows and a finished run; returns the flags of a training."""
    tiny = write_tiny_training(folder)
    write_beir(folder / "beir", demo_family_set("dev"), "dev")
    items = [item.row for item in demo_items()]
    write_rows(folder / "demo.jsonl", items[:12])
    write_rows(folder / "many.jsonl", (replace(items[n % len(items)], query_id=f"q{n}") for n in range(3_000)))
    asked = ["synthesize", f"rows={folder / 'asked.jsonl'}", "lm=recorded:demo", f"out={folder / 'run'}"]
    write_rows(folder / "asked.jsonl", [replace(row, negatives=()) for row in items[:12]])
    promise(exit_code(start_command("programs", asked)) == 0, "the run that a dataset is made of failed")
    return tiny


def _start(command: _Command, home: Path, *flags: str) -> Any:
    home.mkdir(parents=True, exist_ok=True)
    return start_command(command.room, [*command.words, *flags, f"out={home / command.out}"])


def _age(home: Path) -> None:
    """Let what the killed process left look as old as it is when somebody starts the command again by hand."""
    for left in home.rglob(".*.tmp"):
        os.utime(left, (time.time() - 600,) * 2)


def _contents(home: Path) -> dict[str, str]:
    """Every file below `home`, with a hash of what it holds where that does not tell the time."""
    files = sorted(path for path in home.rglob("*") if path.is_file())
    return {
        str(path.relative_to(home)): ""
        if path.as_posix().endswith(_TIMED)
        else hashlib.sha256(path.read_bytes().replace(str(home).encode(), b"HOME")).hexdigest()
        for path in files
    }


def _compare(what: str, found: dict[str, str], wanted: dict[str, str]) -> None:
    left, lost = sorted(found.keys() - wanted.keys()), sorted(wanted.keys() - found.keys())
    promise(not left, f"{what}: it left {left}")
    promise(not lost, f"{what}: it lacks {lost}")
    differing = sorted(name for name in wanted if found[name] != wanted[name])
    promise(not differing, f"{what}: other contents of {differing}")
