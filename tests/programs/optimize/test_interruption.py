"""Killed or stopped at any instant and started again: nothing lost, nothing asked twice."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.row_files import read_rows
from tests.fakes.fake_model import FakeModel

ROOT = Path(__file__).parents[3]
ROWS = 12


def start(server: FakeModel, rows: Path, out: Path) -> "subprocess.Popen[str]":
    # One call for each violation and each verdict: many instants to be stopped at.
    flags = [f"rows={rows}", f"out={out}", "lm=openai/fake", f"api_base={server.api_base}"]
    flags += ["verify=one-by-one", "batched=false", "verify-mined=0"]
    return subprocess.Popen(
        [sys.executable, "-m", "programs", "synthesize", *flags, "concurrency=4", "canary_share=1", "adapter=chat"],
        cwd=ROOT,
        env=os.environ | {"OPENAI_API_KEY": server.token},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_calls(server: FakeModel, count: int, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while len(server.log) < count and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    assert len(server.log) >= count, process.stderr.read() if process.poll() is not None and process.stderr else ""


def finish(server: FakeModel, rows: Path, out: Path) -> dict[str, Any]:
    process = start(server, rows, out)
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text())
    assert summary["funnel"]["rows"] == ROWS
    assert summary["funnel"]["accepted"] == 4 * ROWS
    assert [row.query_id for row in read_rows(out / "rows.jsonl")] == [f"q{number}" for number in range(ROWS)]
    return summary


def asked_twice(server: FakeModel) -> int:
    return sum(count - 1 for count in Counter(served.request for served in server.answered()).values())


@pytest.mark.slow
def test_kill_and_restart(made_rows: Callable[[int], Path], tmp_path: Path) -> None:
    out, rows = tmp_path / "out", made_rows(ROWS)
    with FakeModel(delay_s=0.02) as server:
        for calls in (17, 55):
            process = start(server, rows, out)
            wait_for_calls(server, calls, process)
            process.kill()
            process.communicate()
            assert not (out / "rows.jsonl").exists()
        summary = finish(server, rows, out)
    # Only a call that was in flight at a kill may be asked again: at most four at each of the two.
    assert asked_twice(server) <= 8
    assert len(server.log) - summary["usage"]["requests"] <= 8
    assert summary["usage"]["requests"] >= ROWS * 10


@pytest.mark.slow
def test_interrupt_settles_what_is_in_flight(made_rows: Callable[[int], Path], tmp_path: Path) -> None:
    out, rows = tmp_path / "out", made_rows(ROWS)
    with FakeModel(delay_s=0.2) as server:
        process = start(server, rows, out)
        wait_for_calls(server, 20, process)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130, errors
        assert "run the same command again" in errors
        assert "Traceback" not in errors
        summary = finish(server, rows, out)
    assert asked_twice(server) == 0
    assert summary["usage"]["requests"] == len(server.log) == ROWS * 10
