"""The benches compare like with like: equal losses, equal selections, and figures that can be read."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from data.base.errors import InputError
from tests.bench.bench_encode import BenchEncodeConfig, bench_encode
from tests.bench.bench_encode import summary as encode_summary
from tests.bench.bench_losses import bench_losses
from tests.bench.bench_mining import BenchMiningConfig, bench_mining, summary
from tests.bench.bench_process import run_child
from tests.bench.bench_scale import BenchScaleConfig, bench_scale
from tests.bench.bench_scale import summary as scale_summary
from tests.bench.bench_trainer import BenchTrainerConfig, bench_trainer, examples


def test_the_loop_over_samples_computes_the_same_losses() -> None:
    for figures in bench_losses(rounds=1, seed=1).values():
        assert figures["difference"] < 1e-11
        assert figures["speed"]["median"] > 0


def test_mining_bench_finds_equal_selections(tmp_path: Path) -> None:
    config = BenchMiningConfig(passages=1500, queries=60, width=24, rounds=1, out=str(tmp_path / "b.json"))
    figures = bench_mining(config)
    assert figures["equal_selections"] == 1.0
    assert json.loads((tmp_path / "b.json").read_text()) == figures
    assert "against peer" in summary(figures)


def test_encode_bench_compares_equal_vectors(tmp_path: Path) -> None:
    config = BenchEncodeConfig(texts=4, min_tokens=5, max_tokens=9, rounds=1, out=str(tmp_path / "b.json"))
    figures = bench_encode(config)
    assert figures["variants"]["ours float32"]["lowest_cosine"] == pytest.approx(1, abs=1e-5)
    assert 0.99 < figures["variants"]["ours bfloat16"]["lowest_cosine"] < 1
    assert json.loads((tmp_path / "b.json").read_text()) == figures
    assert "against peer" in encode_summary(figures)


def test_scale_bench_measures_every_size(tmp_path: Path) -> None:
    config = BenchScaleConfig(
        passages=(300, 600), rows=(20, 40), queries=10, width=8, batch_size=10, out=str(tmp_path / "b.json")
    )
    sizes = bench_scale(config)["sizes"]
    assert [(found["work"], found["count"]) for found in sizes] == [
        ("mining", 300), ("mining", 600), ("training", 20), ("training", 40),
    ]  # fmt: skip
    assert all(found["seconds"] > 0 and found["peak_gib"] > 0 for found in sizes)
    assert "2.0x" in scale_summary({"sizes": sizes})


def test_texts_of_the_trainer_bench_have_the_lengths_asked_for() -> None:
    config = BenchTrainerConfig(min_tokens=5, max_tokens=9)
    made = examples(config, 3, ["word"])
    assert made == examples(config, 3, ["word"])
    texts = [text for example in made for text in (example.query, *example.passages)]
    assert len(texts) == 3 * 20 and {len(text.split()) + 2 for text in texts} == {5, 6, 7, 8, 9}


def test_a_child_that_needs_too_much_memory_is_reported() -> None:
    job = {"variant": "ours", "rows": 1, "dropout": 0.0, "round": 0}
    reason = run_child("tests.bench.bench_trainer", job, 0.05)
    assert isinstance(reason, str) and reason


def test_a_child_dies_with_the_bench(tmp_path: Path) -> None:
    (tmp_path / "sleeper.py").write_text(
        "import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(60)\n", encoding="utf-8"
    )
    start = "from tests.bench.bench_process import run_child; run_child('sleeper', {}, None)"
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    bench = subprocess.Popen([sys.executable, "-c", start], cwd=tmp_path, env=os.environ | {"PYTHONPATH": path})
    pid_file = tmp_path / "pid"
    wait_until(lambda: pid_file.is_file() and pid_file.read_text() != "")
    child = Path("/proc", pid_file.read_text(), "status")
    assert "State:\tS" in child.read_text()
    bench.kill()
    bench.wait()
    # Nobody may be there to bury it.
    wait_until(lambda: not child.exists() or "State:\tZ" in child.read_text())


def wait_until(holds: Callable[[], bool]) -> None:
    """Raises AssertionError when it does not come to hold within a minute."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_one_line() -> None:
    with pytest.raises(InputError, match="--device cuda: PyTorch finds no GPU"):
        bench_trainer(BenchTrainerConfig(device="cuda"))


def test_bad_settings_name_their_flag() -> None:
    with pytest.raises(InputError, match="--rounds"):
        BenchTrainerConfig(rounds=0)
    with pytest.raises(InputError, match="--passages"):
        BenchMiningConfig(passages=10, queries=20)
