"""`python -m tests.bench NAME --flag value`: a bench beside its peer, both in one run."""

import sys

from data.base.cli import run_command
from tests.bench.bench_encode import BenchEncodeConfig, bench_encode
from tests.bench.bench_encode import summary as encode_summary
from tests.bench.bench_mining import BenchMiningConfig, bench_mining
from tests.bench.bench_mining import summary as mining_summary
from tests.bench.bench_scale import BenchScaleConfig, bench_scale
from tests.bench.bench_scale import summary as scale_summary
from tests.bench.bench_trainer import BenchTrainerConfig, bench_trainer
from tests.bench.bench_trainer import summary as trainer_summary


def _bench_trainer(config: BenchTrainerConfig) -> None:
    sys.stdout.write(trainer_summary(bench_trainer(config)))


def _bench_mining(config: BenchMiningConfig) -> None:
    sys.stdout.write(mining_summary(bench_mining(config)))


def _bench_encode(config: BenchEncodeConfig) -> None:
    sys.stdout.write(encode_summary(bench_encode(config)))


def _bench_scale(config: BenchScaleConfig) -> None:
    sys.stdout.write(scale_summary(bench_scale(config)))


COMMANDS = {
    "trainer": (BenchTrainerConfig, _bench_trainer),
    "mining": (BenchMiningConfig, _bench_mining),
    "encode": (BenchEncodeConfig, _bench_encode),
    "scale": (BenchScaleConfig, _bench_scale),
}

if __name__ == "__main__":
    sys.exit(run_command(COMMANDS, recipe="just bench-{}"))
