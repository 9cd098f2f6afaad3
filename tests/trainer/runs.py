"""What tests of training share: a small run, its death, the weights that it left, and the gradient of one step."""

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from data.records import Row
from data.row_files import write_rows
from tests.trainer.tiny_data import training_rows
from trainer.config import TrainConfig
from trainer.distributed import ALONE, World
from trainer.encoder import Encoder
from trainer.loop import train
from trainer.run.run_folder import RunFolder
from trainer.step.batches import Examples
from trainer.step.gradients import StepReport, accumulate_gradients

Gradients = dict[str, torch.Tensor]


def small_run(model: Path, folder: Path, rows: Sequence[Row] | None = None, **values: Any) -> TrainConfig:
    """Training in steps of four rows on a CPU, in `folder`/run; the rows are written."""
    write_rows(folder / "rows.jsonl", training_rows() if rows is None else rows)
    return TrainConfig(
        rows=str(folder / "rows.jsonl"), model=str(model), out=str(folder / "run"), batch_size=4, device="cpu", **values
    )


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def one_of_two(rank: int, port: int) -> dict[str, str]:
    """The environment of one of two processes, as torchrun sets it."""
    return {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }  # fmt: skip


def die_after(step: int, config: TrainConfig) -> None:
    """Train until the metrics of `step` are written, as if the power went then."""
    real = RunFolder.log_metrics

    def dying(self: RunFolder, **values: Any) -> None:
        real(self, **values)
        if values["step"] == step:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RunFolder, "log_metrics", dying)
        train(config)


def weights(folder: str | Path) -> dict[str, torch.Tensor]:
    return Encoder.load(str(folder), device="cpu").transformer.state_dict()


def assert_same_weights(first: str | Path, second: str | Path) -> None:
    """To the bit."""
    torch.testing.assert_close(weights(first), weights(second), rtol=0, atol=0)


def one_step(
    config: TrainConfig,
    rows: Sequence[Row] | None = None,
    *,
    encoder: Encoder | None = None,
    dropout: float = 0.0,
    world: World = ALONE,
) -> tuple[Gradients, StepReport]:
    """The gradients of the run's first step, in double precision unless an encoder is given, and its report."""
    encoder = Encoder.load(config.model, device="cpu").double() if encoder is None else encoder
    encoder.train().set_dropout(dropout)
    examples = Examples(training_rows() if rows is None else rows, config)
    report = accumulate_gradients(encoder, list(examples.epoch(0))[: config.grad_accumulation], config, world)
    return {n: p.grad for n, p in encoder.named_parameters() if p.grad is not None}, report


def assert_same_gradients(found: Gradients, expected: Gradients) -> None:
    """Up to what another order of summing changes in double precision."""
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
