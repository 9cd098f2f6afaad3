"""Disks that are full, and folders that cannot be written: a clear line, and a store to go on from."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.chaos.kills import asked_again
from tests.chaos.promises import Synthesis, look_into_store, promise, write_made_rows
from tests.fakes.fake_process import Behaviour, FakeProcess, fake_process

# Enough for a few queries, not for all of them.
_SMALL = 1_000_000


def full_disk(folder: Path, *, queries: int = 40, use_tmpfs: bool = False) -> dict[str, Any]:
    """The disk is full in the middle of a run: files may not grow past 1 MB, or (root only) a tmpfs of 1 MB."""
    rows, out = folder / "rows.jsonl", folder / "disk" / "out"
    query_of = write_made_rows(rows, queries)
    with fake_process(folder / "server.jsonl", Behaviour()) as server:
        if use_tmpfs:
            with _tmpfs(folder / "disk", kilobytes=_SMALL // 1000) as grow:
                line = _run_into_the_wall(server, rows, out, None)
                grow()
                finished = _what_is_finished(out)
                repeated = _go_on(server, rows, out, finished, query_of)
        else:
            line = _run_into_the_wall(server, rows, out, _SMALL)
            finished = _what_is_finished(out)
            repeated = _go_on(server, rows, out, finished, query_of)
    return {
        "disk": "tmpfs of 1 MB" if use_tmpfs else "files of at most 1 MB",
        "line": line.replace(str(folder), "FOLDER"),
        "finished_before": len(finished),
        "queries": queries,
        "queries_lost": 0,
        "calls_for_finished_queries": repeated,
    }


def read_only_folder(folder: Path) -> dict[str, Any]:
    """The run folder cannot be written, without a store in it and with one."""
    rows = folder / "rows.jsonl"
    write_made_rows(rows, 2)
    with fake_process(folder / "server.jsonl", Behaviour()) as server, _tmpfs(folder / "disk", 16_000) as grow:
        out = folder / "disk" / "out"
        Synthesis(server, rows, out).wait()
        finished, _ = look_into_store(out)
        grow("remount,ro")
        lines = [_one_line(Synthesis(server, rows, target)) for target in (out, folder / "disk" / "new")]
        grow("remount,rw")
        found, whole = look_into_store(out)
        promise(whole and found == finished and len(found) == 2, "the store did not stay as it was")
    return {"lines": [line.replace(str(folder), "FOLDER") for line in lines], "finished_rows_kept": len(found)}


def _run_into_the_wall(server: FakeProcess, rows: Path, out: Path, largest_file: int | None) -> str:
    line = _one_line(Synthesis(server, rows, out, "concurrency=4", largest_file=largest_file))
    promise("is the disk full" in line, f"it does not say what is wrong: {line}")
    return line


def _what_is_finished(out: Path) -> set[str]:
    finished, whole = look_into_store(out)
    promise(whole, "the store is corrupt")
    promise(bool(finished), "nothing was finished before the disk was full")
    return finished


def _go_on(server: FakeProcess, rows: Path, out: Path, finished: set[str], query_of: dict[str, str]) -> int:
    seen = server.num_requests()
    code, errors = Synthesis(server, rows, out).wait()
    promise(code == 0, f"it does not go on: {errors[-400:]}")
    at_the_end, whole = look_into_store(out)
    promise(whole and at_the_end == set(query_of), "queries were lost")
    repeated = asked_again(server.log()[seen:], finished, query_of)
    promise(repeated == 0, f"{repeated} calls for finished queries")
    return repeated


def _one_line(process: Synthesis) -> str:
    code, errors = process.wait()
    promise(code == 2, f"exit code {code}: {errors[-1500:]}")
    promise("Traceback" not in errors, f"a traceback: {errors[-1500:]}")
    return errors.strip().splitlines()[-1]


@contextmanager
def _tmpfs(where: Path, kilobytes: int) -> Iterator[Callable[..., None]]:
    """A small disk of its own; yields a function that mounts it again with other options (by default: larger)."""
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(where)], check=True)

    def remount(options: str = "remount,size=64m") -> None:
        subprocess.run(["mount", "-o", options, str(where)], check=True)

    try:
        yield remount
    finally:
        subprocess.run(["umount", str(where)], check=True)


def may_mount(folder: Path) -> bool:
    """Whether this user may mount a tmpfs."""
    if os.geteuid() != 0:
        return False
    try:
        with _tmpfs(folder / "may-mount", 4):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False
