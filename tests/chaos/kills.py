"""Killed at random instants, stopped by Ctrl-C, started twice: nothing lost, nothing that is finished asked again."""

import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.chaos.promises import PATIENCE_S, Synthesis, look_into_store, promise, store_totals, write_made_rows
from tests.fakes.fake_model import MIXED_FAULTS
from tests.fakes.fake_process import Behaviour, FakeProcess, fake_process

_AT_ONCE = 4


def kills(folder: Path, *, kills: int = 50, queries: int = 400, seed: int = 0) -> dict[str, Any]:
    """Kill the run so many times, a fifth of them while it starts, and let it finish after that."""
    rng, out, rows = random.Random(seed), folder / "out", folder / "rows.jsonl"
    query_of = write_made_rows(rows, queries)
    finished: set[str] = set()
    lost = repeated = corrupt = seen = 0
    with fake_process(folder / "server.jsonl", Behaviour(delay_s=0.1)) as server:
        for number in range(kills):
            process = Synthesis(server, rows, out, f"concurrency={_AT_ONCE}")
            if number % 5:
                wait_for_requests(server, seen + 1, process)
                time.sleep(rng.uniform(0, 1.5))
            else:
                time.sleep(rng.uniform(0, 1.0))
            promise(process.running, f"the run ended before kill {number + 1}: more queries are needed")
            process.send(signal.SIGKILL)
            process.wait()
            now, whole = look_into_store(out)
            lost += len(finished - now)
            corrupt += not whole
            log = server.log()
            repeated += asked_again(log[seen:], finished, query_of)
            finished, seen = now, len(log)
        process = Synthesis(server, rows, out, "concurrency=16")
        code, errors = process.wait()
        promise(code == 0, f"the last run failed: {errors[-400:]}")
        log = server.log()
        repeated += asked_again(log[seen:], finished, query_of)
        at_the_end, whole = look_into_store(out)
    lost += queries - len(at_the_end)
    corrupt += not whole
    calls_again = sum(count - 1 for count in Counter(served.request for served in log).values())
    promise(lost == 0, f"{lost} queries were lost")
    promise(repeated == 0, f"{repeated} calls were made for queries that were finished")
    promise(corrupt == 0, f"{corrupt} times the store was corrupt")
    promise(calls_again <= kills * _AT_ONCE, f"{calls_again} calls were made again, more than were in flight")
    return {
        "kills": kills,
        "queries": queries,
        "finished_before_the_last_start": len(finished),
        "queries_lost": lost,
        "calls_for_finished_queries": repeated,
        "corrupt_stores": corrupt,
        "calls": len(log),
        "calls_in_flight_at_a_kill_made_again": calls_again,
    }


def budget_under_kills(
    folder: Path, *, kills: int = 10, budget: int = 300_000, at_once: int = 16, seed: int = 0
) -> dict[str, Any]:
    """Kill a run under a budget of tokens so many times, before a server with every fault; then let it run out.

    Left out is the answer of millions of tokens where a hundred were asked for: no reservation covers that.
    """
    rng, out, rows = random.Random(seed), folder / "out", folder / "rows.jsonl"
    write_made_rows(rows, 400)
    flags = (
        f"concurrency={at_once}", f"budget_tokens={budget}", "max_tokens=100", "timeout_s=3", "retries=3",
        "malformed_retries=3",
    )  # fmt: skip
    killed = seen = 0
    in_flight = []
    faults = [fault for fault in MIXED_FAULTS if fault != "huge"]
    turns = [turn for fault in faults for turn in (None, None, None, fault)]
    behaviour = Behaviour(delay_s=0.2, faults=tuple(turns), stall_s=6.0)
    with fake_process(folder / "server.jsonl", behaviour) as server:
        for _ in range(kills):
            process = Synthesis(server, rows, out, *flags)
            while process.running and server.num_requests() < seen + at_once:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.3))
            promise(process.running, f"the run ended before kill {killed + 1}: a larger budget is needed")
            process.send(signal.SIGKILL)
            process.wait()
            killed += 1
            in_flight.append(store_totals(out)["outcomes"].get("open", 0))
            # What the server is still writing is billed too.
            time.sleep(0.3)
            seen = server.num_requests()
        code, errors = Synthesis(server, rows, out, *flags).wait()
        used = sum(served.prompt_tokens + served.completion_tokens for served in server.log())
    promise(code == 2, f"the run did not end for its budget ({code}): {errors[-400:]}")
    promise(f"budget of {budget} tokens is spent" in errors, errors[-400:])
    ledger = store_totals(out)
    settled = ledger["prompt_tokens"] + ledger["completion_tokens"]
    promise(used <= budget, f"the server counts {used} tokens, the budget is {budget}")
    promise(settled + ledger["reserved_tokens"] >= used, f"the ledger has {ledger}, the server {used}")
    return {
        "kills": killed,
        "budget": budget,
        "in_flight_at_the_kills": in_flight,
        "tokens_by_the_server": used,
        "tokens_settled": settled,
        "tokens_that_may_be_billed": ledger["reserved_tokens"],
        "outcomes": ledger["outcomes"],
    }


def asked_again(requests: list[Any], finished: set[str], query_of: dict[str, str]) -> int:
    """How many of these requests are about queries that were finished before."""
    queries = {query_of[row_id] for row_id in finished}
    return sum(served.query in queries for served in requests)


def interrupt(folder: Path, *, answer_s: float = 1.0) -> dict[str, Any]:
    """Ctrl-C while calls are in flight: how long the run takes to end, and what it says."""
    rows, out = folder / "rows.jsonl", folder / "out"
    query_of = write_made_rows(rows, 40)
    with fake_process(folder / "server.jsonl", Behaviour(delay_s=answer_s)) as server:
        process = Synthesis(server, rows, out, "concurrency=8")
        wait_for_requests(server, 30, process)
        process.send(signal.SIGINT)
        sent = time.monotonic()
        code, errors = process.wait()
        seconds = time.monotonic() - sent
        promise(code == 130, f"exit code {code}: {errors[-400:]}")
        promise("run the same command again" in errors, f"it does not say how to go on: {errors[-400:]}")
        promise("Traceback" not in errors, f"a traceback: {errors[-2000:]}")
        finished, whole = look_into_store(out)
        promise(whole, "the store is corrupt")
        seen = len(server.log())
        process = Synthesis(server, rows, out, "concurrency=40")
        code, errors = process.wait()
        promise(code == 0, errors[-400:])
        log = server.log()
    calls_again = sum(count - 1 for count in Counter(served.request for served in log).values())
    promise(asked_again(log[seen:], finished, query_of) == 0, "a finished query was asked again")
    if answer_s <= 1.0:
        promise(calls_again == 0, f"{calls_again} calls were paid twice although they could settle")
    return {"answer_s": answer_s, "seconds_to_end": round(seconds, 2), "calls_paid_twice": calls_again}


def two_at_once(folder: Path) -> dict[str, Any]:
    """A second run on the folder of a first one that is still going."""
    rows, out = folder / "rows.jsonl", folder / "out"
    write_made_rows(rows, 20)
    with fake_process(folder / "server.jsonl", Behaviour(delay_s=1.0)) as server:
        first = Synthesis(server, rows, out, "concurrency=4")
        wait_for_requests(server, 1, first)
        second = Synthesis(server, rows, out, "concurrency=4")
        code, errors = second.wait()
        first.send(signal.SIGKILL)
        first.wait()
    promise(code == 2, f"the second run ended with {code}")
    promise("another process is working in this run folder" in errors, errors[-400:])
    return {"second_run": errors.strip().splitlines()[-1].replace(str(folder), "FOLDER")}


def wait_for_requests(server: FakeProcess, count: int, process: Synthesis) -> None:
    """Wait until the server has so many requests in its log."""
    deadline = time.monotonic() + PATIENCE_S
    while server.num_requests() < count and time.monotonic() < deadline:
        promise(process.running, "the run ended early")
        time.sleep(0.01)
    promise(server.num_requests() >= count, f"{server.num_requests()} of {count} requests came")
