"""Two processes give the gradient and the loss of one with the same batch, in every mode of extra negatives."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

from tests.trainer.runs import Gradients, assert_same_gradients, free_port, one_of_two, one_step, small_run
from tests.trainer.tiny_data import dev_set, judged_rows
from trainer.config import TrainConfig
from trainer.distributed import ALONE, World, join_world
from trainer.encoder.encoder import Encoder
from trainer.loop import train
from trainer.run.dev import rank_corpus


def first_step(config: TrainConfig, world: World = ALONE) -> tuple[Gradients, dict[str, Any]]:
    gradients, report = one_step(config, judged_rows(), world=world)
    return gradients, dataclasses.asdict(report)


def in_process(rank: int, config: TrainConfig, port: int, folder: str, job: str) -> None:
    os.environ |= one_of_two(rank, port)
    torch.set_num_threads(1)
    if job == "train":
        train(config)
        return
    with join_world("cpu") as (world, _):
        if job == "rank":
            encoder = Encoder.load(config.model, device="cpu")
            torch.save(rank_corpus(encoder, dev_set(), world=world), f"{folder}/{rank}")
        else:
            torch.save(first_step(config, world), f"{folder}/{rank}")


def two_processes(config: TrainConfig, folder: Path, job: str = "step") -> list[Any]:
    mp.spawn(in_process, args=(config, free_port(), str(folder), job), nprocs=2)
    return [] if job == "train" else [torch.load(folder / str(i), weights_only=True) for i in range(2)]


@pytest.fixture
def config(tiny_bert: Path, tmp_path: Path) -> TrainConfig:
    return small_run(
        tiny_bert, tmp_path, judged_rows(), grad_accumulation=2, entropy_weight=0.5, lr=1e-3, epochs=1, in_batch="none"
    )


GRADED = {"relevance": "graded", "grade_mined": True, "mask_above": 0.01}


@pytest.mark.parametrize(
    ("mode", "max_tokens", "values"),
    [("none", 60, {}), ("cross-device", 4096, {}), ("cross-device", 60, {}), ("cross-device", 60, GRADED)],
)
def test_two_processes_give_the_gradient_of_one(
    config: TrainConfig, mode: str, max_tokens: int, values: dict[str, Any], tmp_path: Path
) -> None:
    config = dataclasses.replace(config, in_batch=mode, max_tokens_per_step=max_tokens, **values)
    expected, expected_report = first_step(config)
    results = two_processes(config, tmp_path)
    for gradients, report in results:
        assert_same_gradients(gradients, expected)
        # Explicit negatives and the entropy term are in this loss: its weight must not depend on the processes.
        for name in ("loss", "info_nce", "query_view", "entropy_ratio", "generated_mass", "num_rows"):
            assert report[name] == pytest.approx(expected_report[name], rel=1e-9), name


def test_in_batch_negatives_stay_on_their_process(config: TrainConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(config, in_batch="in-batch")
    _, alone = first_step(config)
    (_, first), (_, second) = two_processes(config, tmp_path)
    assert first == second
    assert first["info_nce"] < alone["info_nce"]
    assert first["query_view"] == pytest.approx(alone["query_view"], rel=1e-9)


def test_two_processes_train_the_same_model_as_one(config: TrainConfig, tmp_path: Path) -> None:
    alone = train(dataclasses.replace(config, out=config.out + "-alone"))
    two_processes(config, tmp_path, "train")
    one, two = (
        Encoder.load(folder, device="cpu").encode(["how long refund days"], "query")
        for folder in (alone.model, f"{config.out}/model")
    )
    np.testing.assert_allclose(one, two, atol=1e-5)


def test_evaluation_is_shared_out(config: TrainConfig, tmp_path: Path) -> None:
    alone = rank_corpus(Encoder.load(config.model, device="cpu"), dev_set())
    for run in two_processes(config, tmp_path, "rank"):
        assert run.keys() == alone.keys()
        for query_id, scores in alone.items():
            assert list(run[query_id].values()) == pytest.approx(list(scores.values()), abs=1e-6)


def test_batch_size_must_divide(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(mp.ProcessRaisedException, match="expected a multiple of 2 processes, got 3"):
        two_processes(dataclasses.replace(config, batch_size=3), tmp_path, "train")
