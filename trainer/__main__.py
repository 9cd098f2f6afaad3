"""python -m trainer COMMAND --flag value"""

import sys

from data.base.cli import run_command
from trainer.config import TrainConfig
from trainer.distributed import started_rank
from trainer.mining.config import MineConfig
from trainer.mining.mine import mine
from trainer.publish.publish import PublishConfig, run_publish
from trainer.run.run_folder import TrainResult
from trainer.train import train


def _mine(config: MineConfig) -> None:
    report = mine(config)
    if started_rank() == 0:
        sys.stdout.write(f"{report.summary()}  rows: {config.out}\n")


def _train(config: TrainConfig) -> None:
    result = train(config)
    if started_rank() == 0:
        sys.stdout.write(_closing(result))


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
    if result.num_skipped:
        lines.append(f"  {result.num_skipped} steps were skipped, as their gradients did not fit into float16")
    lines.append(f"  model: {result.model}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(
        run_command(
            "trainer",
            {
                "mine": (MineConfig, _mine),
                "train": (TrainConfig, _train),
                "publish": (PublishConfig, run_publish),
            },
        )
    )
