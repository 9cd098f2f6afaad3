"""What every chaos scenario shares: a promise that is checked, and a synthesis process to be ill-treated."""

import contextlib
import importlib
import io
import itertools
import multiprocessing
import os
import resource
import signal
import sqlite3
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from data.base.cli import run_command
from data.records import row_content_id
from data.row_files import write_rows
from programs.__main__ import main
from tests.fakes.fake_process import FakeProcess
from tests.fakes.made_rows import made_row

# Nothing here takes this long, even on a busy machine.
PATIENCE_S = 900.0
# What a killed process held is given back by its helpers, who say so.
os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker:UserWarning")
_NUMBERS = itertools.count()
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    [
        *("data.__main__", "programs.__main__", "programs.synthesis.run", "programs.synthesis.summary"),
        *("trainer.__main__", "trainer.loop", "trainer.mining.mine", "evals.__main__", "evals.ablation.ablate"),
    ]
)


class BrokenPromiseError(AssertionError):
    """A scenario found what must not happen."""


def promise(holds: bool, words: str) -> None:
    """Raise BrokenPromiseError unless `holds`."""
    if not holds:
        raise BrokenPromiseError(words)


def write_made_rows(path: Path, count: int) -> dict[str, str]:
    """Write so many made-up rows; returns the query of each row's content id."""
    rows = [made_row(number) for number in range(count)]
    write_rows(path, rows)
    return {row_content_id(row): row.query for row in rows}


def run_here(room: str, words: Sequence[str]) -> tuple[int, str]:
    """Run a command in this process; its exit code, and what it says on stderr."""
    err = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
        code = run_command(importlib.import_module(f"{room}.__main__").COMMANDS, words)
    return code, err.getvalue()


def start_command(room: str, words: Sequence[str]) -> Any:
    """A command in a silent process of its own, on one thread, forked from a server that has the libraries loaded."""
    process = _FORKS.Process(target=_run_silently, args=(room, list(words)))
    process.start()
    return process


def exit_code(process: Any) -> int:
    """Wait for the end of a command; -1: it did not end in time."""
    process.join(PATIENCE_S)
    return -1 if process.exitcode is None else int(process.exitcode)


def _run_silently(room: str, words: list[str]) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    importlib.import_module("torch").set_num_threads(1)
    os._exit(run_command(importlib.import_module(f"{room}.__main__").COMMANDS, words))


class Synthesis:
    """One `programs synthesize` in a process of its own, forked from a server that has the libraries loaded."""

    def __init__(
        self,
        server: FakeProcess,
        rows: Path,
        out: Path,
        *flags: str,
        environment: Mapping[str, str] | None = None,
        largest_file: int | None = None,
    ):
        arguments = [f"rows={rows}", f"out={out}", "lm=openai/fake", f"api_base={server.api_base}", "adapter=chat"]
        self._errors = rows.parent / f"errors{next(_NUMBERS)}.txt"
        self._process = _FORKS.Process(
            target=_synthesize,
            args=(
                ["synthesize", *arguments, *flags],
                {"OPENAI_API_KEY": server.token} | dict(environment or {}),
                self._errors,
                largest_file,
            ),
        )
        self._process.start()

    @property
    def running(self) -> bool:
        return self._process.is_alive()

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def wait(self, seconds: float = PATIENCE_S) -> tuple[int | None, str]:
        """Wait for the end; returns the exit code (None: it did not end in time) and what was written."""
        self._process.join(seconds)
        return self._process.exitcode, self._errors.read_text("utf-8") if self._errors.exists() else ""


def _synthesize(arguments: list[str], environment: dict[str, str], errors: Path, largest_file: int | None) -> None:
    os.environ |= environment
    with errors.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    code = main(arguments)
    sys.stdout.flush()
    os._exit(code)


def look_into_store(out: Path) -> tuple[set[str], bool]:
    """The content ids of the finished rows, and whether SQLite finds the store whole; for a store nobody holds."""
    path = out / "store.sqlite"
    if not path.exists():
        return set(), True
    with closing(sqlite3.connect(path)) as db:
        whole = db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        if not db.execute("SELECT name FROM sqlite_master WHERE name = 'finished'").fetchone():
            return set(), whole
        return {row_id for (row_id,) in db.execute("SELECT row_id FROM finished WHERE failure IS NULL")}, whole


def store_totals(out: Path) -> dict[str, Any]:
    """Requests that were sent and tokens, as the store's ledger has them."""
    with closing(sqlite3.connect(out / "store.sqlite")) as db:
        requests, prompt, completion, reserved = db.execute(
            "SELECT COUNT(*), SUM(prompt_tokens), SUM(completion_tokens), SUM(reserved_tokens) FROM calls "
            "WHERE outcome != 'replayed'"
        ).fetchone()
        outcomes = dict(db.execute("SELECT outcome, COUNT(*) FROM calls GROUP BY 1").fetchall())
    return {
        "requests": requests,
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "reserved_tokens": reserved,
        "outcomes": outcomes,
    }
