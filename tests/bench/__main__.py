"""`python -m tests.bench NAME --flag value`: a bench beside its peer, both in one run."""

import sys
from collections.abc import Callable
from typing import Any

from data.base.cli import run_command
from tests.bench import bench_encode, bench_mining, bench_scale, bench_trainer


def _told(bench: Callable[[Any], dict[str, Any]], summary: Callable[[dict[str, Any]], str]) -> Callable[[Any], None]:
    def run(config: Any) -> None:
        sys.stdout.write(summary(bench(config)))

    return run


COMMANDS = {
    "trainer": (bench_trainer.BenchTrainerConfig, _told(bench_trainer.bench_trainer, bench_trainer.summary)),
    "mining": (bench_mining.BenchMiningConfig, _told(bench_mining.bench_mining, bench_mining.summary)),
    "encode": (bench_encode.BenchEncodeConfig, _told(bench_encode.bench_encode, bench_encode.summary)),
    "scale": (bench_scale.BenchScaleConfig, _told(bench_scale.bench_scale, bench_scale.summary)),
}

if __name__ == "__main__":
    sys.exit(run_command(COMMANDS, recipe="just bench-{}"))
