"""Calls a second, CPU a call, memory over many queries and rows, and how the number of calls in flight adapts."""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from data.records import row_to_dict
from data.row_files import write_rows
from programs.synthesis.config import SynthesizeConfig
from programs.synthesis.run import synthesize
from tests.chaos.promises import promise, write_made_rows
from tests.fakes.fake_model import FakeModel
from tests.fakes.fake_process import Behaviour, fake_process
from tests.fakes.made_rows import made_row

_MOST_GROWTH_MB = 50.0
_PAGE = os.sysconf("SC_PAGE_SIZE")


def throughput(
    folder: Path, *, queries: int = 600, answer_s: float = 0.5, concurrency: int = 64, least_share: float = 0.85
) -> dict[str, Any]:
    """A run against a server that answers in half a second: calls a second, as a share of what 64 in flight allow."""
    write_rows(folder / "warm.jsonl", (made_row(number) for number in range(10**6, 10**6 + 20)))
    write_made_rows(folder / "rows.jsonl", queries)
    with fake_process(folder / "server.jsonl", Behaviour(delay_s=answer_s)) as server:
        settings = {"api_base": server.api_base, "concurrency": concurrency}
        _run(folder / "warm.jsonl", folder / "warm", server.token, **settings)
        cpu, began = time.process_time(), time.monotonic()
        summary = _run(folder / "rows.jsonl", folder / "out", server.token, **settings)
        seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    calls, ideal = summary["usage"]["requests"], concurrency / answer_s
    figures = {
        "calls": calls,
        "calls_a_second": round(calls / seconds, 1),
        "ideal": ideal,
        "share_of_ideal": round(calls / seconds / ideal, 3),
        "cpu_ms_a_call": round(cpu / calls * 1000, 2),
        "share_of_a_core": round(cpu / seconds, 2),
        "load_average": os.getloadavg()[0],
        "cores": os.cpu_count(),
    }
    promise(calls / seconds >= least_share * ideal, f"below {least_share:.0%} of the ideal: {json.dumps(figures)}")
    return figures


def memory_of_queries(folder: Path, *, queries: int = 20_000) -> dict[str, Any]:
    """Resident memory over many queries, after a warm-up of a twentieth of them."""
    write_rows(folder / "warm.jsonl", (made_row(number) for number in range(10**6, 10**6 + queries // 20)))
    write_made_rows(folder / "rows.jsonl", queries)
    with fake_process(folder / "server.jsonl", Behaviour()) as server:
        settings = {"api_base": server.api_base, "concurrency": 64, "negatives_per_row": 1, "canary_share": 0.0}
        _run(folder / "warm.jsonl", folder / "warm", server.token, **settings)
        before = _resident_mb()
        with _peak_of_memory() as peak:
            summary = _run(folder / "rows.jsonl", folder / "out", server.token, **settings)
    return _growth(before, peak[0], queries=queries, calls=summary["usage"]["requests"])


def memory_of_rows(folder: Path, *, rows: int = 1_000_000, distinct: int = 50) -> dict[str, Any]:
    """Resident memory over many input rows, most of which repeat a finished one: reading, skipping and writing."""
    lines = [json.dumps(row_to_dict(made_row(number))) + "\n" for number in range(distinct)]
    for name, count in (("warm", rows // 100), ("rows", rows)):
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for number in range(count):
                file.write(lines[number % distinct])
    with fake_process(folder / "server.jsonl", Behaviour()) as server:
        settings = {"api_base": server.api_base, "negatives_per_row": 1, "canary_share": 0.0}
        _run(folder / "warm.jsonl", folder / "warm", server.token, **settings)
        before = _resident_mb()
        with _peak_of_memory() as peak:
            summary = _run(folder / "rows.jsonl", folder / "out", server.token, **settings)
    written = sum(1 for _ in (folder / "out" / "rows.jsonl").open("rb"))
    promise(written == rows == summary["funnel"]["rows"], f"{written} of {rows} rows were written")
    size = (folder / "rows.jsonl").stat().st_size / 2**20
    return _growth(before, peak[0], rows=rows, file_mb=round(size))


def concurrency_adapts(folder: Path, *, queries: int = 250, allowed: int = 8) -> dict[str, Any]:
    """A server that takes 8 calls at once and answers 429 to the others, until it takes them all."""
    write_made_rows(folder / "rows.jsonl", queries)
    with FakeModel(max_at_once=allowed, delay_s=0.1) as server:
        limited: dict[str, int] = {}

        def lift() -> None:
            limited.update(requests=len(server.log), refused=server.outcomes()["429"])
            server.max_at_once, server.most_at_once = None, 0

        timer = threading.Timer(12.0, lift)
        timer.start()
        summary = _run(
            folder / "rows.jsonl", folder / "out", server.token, api_base=server.api_base, concurrency=48, retries=20
        )
        timer.cancel()
        timer.join()
    promise(bool(limited), "the run ended before the server took all calls")
    refused, answered = limited["refused"], limited["requests"] - limited["refused"]
    promise(summary["funnel"]["accepted"] == 4 * queries, f"not all queries were finished: {summary['funnel']}")
    promise(summary["lowest_concurrency"] <= 2 * allowed, f"it only went down to {summary['lowest_concurrency']}")
    promise(refused < answered, f"{refused} calls were refused while {answered} were answered")
    promise(server.most_at_once > 2 * allowed, f"it came back to {server.most_at_once} calls in flight only")
    return {
        "server_takes": allowed,
        "lowest_in_flight": summary["lowest_concurrency"],
        "refused_while_limited": refused,
        "answered_while_limited": answered,
        "most_in_flight_after": server.most_at_once,
    }


def _run(rows: Path, out: Path, token: str, **settings: Any) -> dict[str, Any]:
    with patch.dict(os.environ, {"OPENAI_API_KEY": token}):
        return synthesize(SynthesizeConfig(rows=rows, out=out, lm="openai/fake", adapter="chat", **settings))


def _growth(before: float, peak: float, **what: Any) -> dict[str, Any]:
    figures = {**what, "rss_mb_after_warm_up": round(before, 1), "rss_growth_mb": round(peak - before, 1)}
    promise(peak - before < _MOST_GROWTH_MB, f"memory grows: {json.dumps(figures)}")
    return figures


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * _PAGE / 2**20


@contextmanager
def _peak_of_memory() -> Iterator[list[float]]:
    """Yields a list whose one number is, in the end, the most MB that were resident while the block ran."""
    peak, over = [_resident_mb()], threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            peak[0] = max(peak[0], _resident_mb())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        over.set()
        watcher.join()
