"""python -m trainer COMMAND --flag value"""

import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.base.cli import next_command, run_command
from trainer.config import TrainConfig
from trainer.mining.config import MineConfig
from trainer.publish.config import PublishConfig

if TYPE_CHECKING:
    from trainer.run.run_folder import TrainResult


# The libraries behind a command take seconds to load, which --help should not: each is imported when it runs.
def _mine(config: MineConfig) -> str | None:
    from data.readers.demo import holds_demo_query
    from data.row_files import read_rows
    from trainer.distributed import started_rank
    from trainer.mining.mine import mine

    report = mine(config)
    if started_rank() != 0:
        return None
    sys.stdout.write(f"{report.summary()}  rows: {config.out}\n")
    lm = None if holds_demo_query(islice(read_rows(config.out), 1)) else "MODEL"
    return next_command("synthesize", rows=config.out, out=Path(config.out).parent / "synthesis", lm=lm)


def _train(config: TrainConfig) -> str | None:
    from trainer.distributed import started_rank
    from trainer.loop import train

    result = train(config)
    if started_rank() != 0:
        return None
    sys.stdout.write(_closing(result))
    folder, dev = Path(config.out), config.dev
    # Only the split that was trained with is known to be there.
    has_test = dev is None or dev.startswith("bundled:") or (Path(dev) / "qrels" / "test.tsv").is_file()
    return next_command(
        "eval",
        model=result.model,
        data=dev or "DATA",
        split=None if has_test else config.dev_split,
        baseline=config.model,
        out=folder.parent / "eval.json",
    )


def _publish(config: PublishConfig) -> None:
    from trainer.encoder.model_files import find_model_folder
    from trainer.publish.publish import publish

    address = publish(config)
    sys.stdout.write(f"card: {find_model_folder(str(config.model)) / 'README.md'}\n")
    if address:
        sys.stdout.write(f"on the hub: {address}\n")


def _closing(result: "TrainResult") -> str:
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


COMMANDS: dict[str, tuple[type, Callable[[Any], str | None]]] = {
    "mine": (MineConfig, _mine),
    "train": (TrainConfig, _train),
    "publish": (PublishConfig, _publish),
}

if __name__ == "__main__":
    sys.exit(run_command(COMMANDS))
