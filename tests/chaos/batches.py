"""Batches killed at random instants: no row lost, no request sent twice, books equal the provider's."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from programs.synthesis.store import RunStore
from tests.chaos.promises import PATIENCE_S, look_into_store, promise, write_made_rows
from tests.fakes.fake_batches import FakeBatches
from tests.fakes.fake_process import ROOT


def batch_kills(folder: Path, *, kills: int = 30, queries: int = 300, seed: int = 0) -> dict[str, Any]:
    """Kill a run in batches so many times, a third of them while it starts, and let it finish after that."""
    rng, out, rows = random.Random(seed), folder / "out", folder / "rows.jsonl"
    write_made_rows(rows, queries)
    with FakeBatches(batch_s=1.0) as server:
        for number in range(kills):
            process = _start(server, rows, out)
            time.sleep(rng.uniform(0.0, 2.0) if number % 3 == 0 else rng.uniform(2.0, 8.0))
            process.send_signal(signal.SIGKILL)
            process.wait()
        process = _start(server, rows, out)
        _, errors = process.communicate(timeout=PATIENCE_S)
        promise(process.returncode == 0, f"the last run failed: {errors.decode()[-400:]}")
        twice = sum(count - 1 for count in server.sent().values())
        billed, waves, requests = server.billed(), len(server.batches), len(server.sent())
    finished, whole = look_into_store(out)
    with RunStore(out / "store.sqlite") as store:
        used = store.usage(whole_folder=True).values()
    booked = sum(role.prompt_tokens + role.completion_tokens + role.reserved_tokens for role in used)
    promise(whole, "the store is corrupt")
    promise(len(finished) == queries, f"{queries - len(finished)} queries were lost")
    promise(twice == 0, f"{twice} requests were sent twice")
    promise(booked == billed, f"the books say {booked} tokens, the provider {billed}")
    return {
        "kills": kills, "queries": queries, "queries_lost": 0, "batches": waves, "requests": requests,
        "requests_sent_twice": twice, "tokens_booked": booked, "tokens_billed": billed,
    }  # fmt: skip


def _start(server: FakeBatches, rows: Path, out: Path) -> "subprocess.Popen[bytes]":
    words = [
        f"rows={rows}",
        f"out={out}",
        "lm=openai/fake",
        f"api_base={server.api_base}",
        "adapter=chat",
        "send=batch",
        # Many small batches: more instants at which one is just being made.
        "batch-size=30",
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "programs", "synthesize", *words],
        cwd=ROOT,
        env=os.environ | {"OPENAI_API_KEY": server.token},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
