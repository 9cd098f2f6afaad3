"""The run on a local Ray cluster: the same rows as in one process, one set of books, and an actor that is killed."""

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from data.base.errors import InputError
from data.row_files import read_rows
from programs.synthesis import run
from programs.synthesis.config import SynthesizeConfig
from programs.synthesis.ray import engine as ray_engine
from tests.fakes.fake_model import FakeModel

# As the engine sets them for a cluster of its own, before ray reads them.
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
ray = pytest.importorskip("ray", reason="needs ray (pip install -e .[ray])")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[FakeModel]:
    with FakeModel(delay_s=0.05) as found:
        yield found


@pytest.fixture(scope="module", autouse=True)
def cluster(server: FakeModel) -> Iterator[None]:
    # One for all tests; its actors get the key as they would in life, from their environment.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", server.token)
        ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        yield
        ray.shutdown()


def settings(server: FakeModel, rows: Path, out: Path, **more: Any) -> SynthesizeConfig:
    base = {
        "rows": rows, "out": out, "lm": "openai/fake", "api_base": server.api_base, "adapter": "chat",
        "canary_share": 1.0, "engine": "ray", "concurrency": 8,
    }  # fmt: skip
    return SynthesizeConfig(**base | more)


def test_the_rows_are_those_of_a_run_in_one_process(
    server: FakeModel, made_rows: Callable[[int], Path], tmp_path: Path
) -> None:
    rows = made_rows(12)
    seen = len(server.log)
    summary = run.synthesize(settings(server, rows, tmp_path / "ray"))
    assert summary["usage"]["requests"] == len(server.log) - seen == 12 * 3
    assert server.most_at_once <= 8  # over both actors
    alone = run.synthesize(settings(server, rows, tmp_path / "local", engine="local"))
    assert list(read_rows(tmp_path / "ray" / "rows.jsonl")) == list(read_rows(tmp_path / "local" / "rows.jsonl"))
    assert {**summary["funnel"]} == {**alone["funnel"]}
    # A second start finds everything done, in either engine.
    seen = len(server.log)
    run.synthesize(settings(server, rows, tmp_path / "ray"))
    run.synthesize(settings(server, rows, tmp_path / "ray", engine="local"))
    assert len(server.log) == seen
    secret = server.token.encode()
    assert not any(secret in path.read_bytes() for path in (tmp_path / "ray").rglob("*") if path.is_file())


def test_the_rows_of_a_killed_actor_run_again_and_nothing_is_doubled(
    server: FakeModel, made_rows: Callable[[int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []
    before = len(server.log)

    def kill_one(ledger: Any) -> None:
        def wait_and_kill() -> None:
            while not killed:
                busy = ray.get(ledger.state.remote())["busy"]
                if len(server.log) - before > 20 and len(busy) == 2:
                    os.kill(busy[0], signal.SIGKILL)
                    killed.append(busy[0])
                time.sleep(0.05)

        threading.Thread(target=wait_and_kill, daemon=True).start()

    monkeypatch.setattr(ray_engine, "LOST_AFTER_S", 3.0)
    monkeypatch.setattr(ray_engine, "run_on_ray", partial(ray_engine.run_on_ray, watch=kill_one))
    rows = made_rows(40)
    summary = run.synthesize(settings(server, rows, tmp_path / "out", budget_tokens=10_000_000))
    assert killed
    written = list(read_rows(tmp_path / "out" / "rows.jsonl"))
    assert [row.query_id for row in written] == [f"q{number}" for number in range(40)]
    assert all(len(row.of_source("generated")) == 4 for row in written)
    assert summary["funnel"]["accepted"] == 160
    served = Counter(entry.request for entry in server.log[before:] if entry.fault is None)
    twice = sum(count - 1 for count in served.values())
    # Only calls that were in flight in the killed actor are asked again.
    assert twice <= 8
    assert 120 <= summary["usage"]["requests"] <= len(server.log) - before <= 128
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["funnel"]["rows"] == 40


def test_one_budget_holds_over_all_actors(server: FakeModel, made_rows: Callable[[int], Path], tmp_path: Path) -> None:
    rows, before = made_rows(30), len(server.log)
    with pytest.raises(InputError, match="budget of 60000 tokens is spent"):
        run.synthesize(settings(server, rows, tmp_path / "out", budget_tokens=60_000))
    used = sum(entry.prompt_tokens + entry.completion_tokens for entry in server.log[before:])
    assert 0 < used <= 60_000
    assert not (tmp_path / "out" / "rows.jsonl").exists()
    summary = run.synthesize(settings(server, rows, tmp_path / "out"))
    assert summary["funnel"]["accepted"] == 120
    assert summary["usage"]["requests"] == len(server.log) - before == 90


def test_a_bad_row_is_one_line(server: FakeModel, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"query": "q", "positives": [{"text": "p"}]}\n{"query": "q2", "positives": []}\n')
    with pytest.raises(InputError, match="field 'positives': expected at least one positive"):
        run.synthesize(settings(server, rows, tmp_path / "out"))
    rows.rename(tmp_path / "rows.parquet")
    with pytest.raises(InputError, match="cannot read as Parquet"):
        run.synthesize(settings(server, tmp_path / "rows.parquet", tmp_path / "out2"))
