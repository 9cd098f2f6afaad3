"""python -m trainer mine|train --flag value"""

import sys

from data.cli import run_command
from trainer.config import TrainConfig
from trainer.mining import MineConfig, mine
from trainer.train import TrainResult, train


def _mine(config: MineConfig) -> None:
    sys.stdout.write(mine(config).summary())
    sys.stdout.write(f"  rows: {config.out}\n")


def _train(config: TrainConfig) -> None:
    sys.stdout.write(_closing(train(config)))


def _closing(result: TrainResult) -> str:
    lines = [
        f"trained {result.steps} steps on {result.num_rows} rows in {result.seconds:.0f} s: "
        f"loss {result.first_loss:.4f} at the first step, {result.last_loss:.4f} at the last"
    ]
    if result.dev_before is not None and result.dev_after is not None:
        lines.append(
            f"  dev nDCG@10: {result.dev_before:.4f} before, {result.dev_after:.4f} after "
            f"(best at step {result.best_step})"
        )
    if result.num_truncated:
        lines.append(f"  {result.num_truncated} times a text was longer than the model takes and was cut off")
    lines.append(f"  model: {result.model}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(run_command("trainer", {"mine": (MineConfig, _mine), "train": (TrainConfig, _train)}))
