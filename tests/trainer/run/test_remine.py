"""Mining anew while training: with the current weights, by the rules of `mine`, mined negatives alone."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from data.base.errors import InputError
from data.base.text import same_text_key
from data.readers.beir import write_beir
from data.row_files import read_rows, write_rows
from tests.trainer.runs import small_run
from tests.trainer.tiny_data import mined_source, training_rows
from trainer.config import TrainConfig
from trainer.distributed import ALONE
from trainer.encoder.encoder import Encoder
from trainer.loop import train
from trainer.mining.config import MineConfig
from trainer.mining.mine import mine
from trainer.run.remine import Remining
from trainer.step.batches import Examples


@pytest.fixture
def mining(tiny_bert: Path, tmp_path: Path) -> MineConfig:
    write_beir(tmp_path / "beir", mined_source(), "train")
    return MineConfig(
        data=str(tmp_path / "beir"), out=str(tmp_path / "mined.jsonl"), model=str(tiny_bert), num_negatives=3,
        rank_from=5, rank_to=12, relative_margin=None, max_score=0.995, device="cpu",
    )  # fmt: skip


@pytest.fixture
def config(tiny_bert: Path, tmp_path: Path, mining: MineConfig) -> TrainConfig:
    mine(mining)
    return small_run(tiny_bert, tmp_path, epochs=2, lr=5e-3, remine_every=2, remine_like=f"{mining.out}.report.json")


def test_rows_get_what_mine_would_find_with_these_weights(
    config: TrainConfig, mining: MineConfig, tmp_path: Path
) -> None:
    encoder = Encoder.load(config.model, device="cpu")
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    encoder.save(tmp_path / "changed")
    expected_report = mine(dataclasses.replace(mining, model=str(tmp_path / "changed"), out=str(tmp_path / "n.jsonl")))
    expected = {row.query_id: [n.text for n in row.negatives] for row in read_rows(tmp_path / "n.jsonl")}
    rows = training_rows()
    examples = Examples(rows, config)
    before = [set(examples._example(i, 0).mined) for i in range(len(rows))]
    report = Remining(config, rows, examples).mine(encoder, ALONE)
    num_new = 0
    for i, row in enumerate(rows):
        example = examples._example(i, 0)
        num_new += len(set(expected[row.query_id]) - before[i])
        assert list(example.mined) == expected[row.query_id]
        assert list(example.generated) == [n.text for n in row.negatives if n.source == "generated"]
        assert not {same_text_key(text) for text in example.mined} & example.known_positives
    assert 0 < num_new == report["remined_new"]
    assert (report["remined_rows"], report["remined_taken"]) == (len(rows), expected_report.taken)
    assert {rule: report.get(f"remined_dropped_{rule}", 0) for rule in expected_report.dropped} == (
        expected_report.dropped
    )
    assert not (Path(config.out) / "remining").exists()


def test_rows_whose_query_is_not_in_the_data_keep_their_negatives(config: TrainConfig) -> None:
    rows = [dataclasses.replace(row, query="how long can we pay") if i < 2 else row for i, row in
            enumerate(training_rows())]  # fmt: skip
    examples = Examples(rows, config)
    before = [examples._example(i, 0) for i in range(len(rows))]
    report = Remining(config, rows, examples).mine(Encoder.load(config.model, device="cpu"), ALONE)
    assert report["remined_rows"] == len(rows) - 2
    assert [examples._example(i, 0) == old for i, old in enumerate(before)][:3] == [True, True, False]


def test_training_reports_each_time_and_uses_what_it_found(config: TrainConfig) -> None:
    result = train(config)
    lines = [json.loads(line) for line in (Path(config.out) / "metrics.jsonl").read_text().splitlines()]
    # Not after the last step: nothing would use it.
    assert [line["step"] for line in lines if "remined_rows" in line] == [2, 4]
    assert all(line["remined_taken"] > 0 for line in lines if "remined_rows" in line)
    never = train(dataclasses.replace(config, remine_every=0, remine_like=None, out=config.out + "2"))
    assert never.first_loss == result.first_loss and never.last_loss != result.last_loss


def test_reports_and_data_that_do_not_fit_are_one_line(config: TrainConfig, mining: MineConfig, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--remine-every: expected --remine-like with it"):
        dataclasses.replace(config, remine_like=None)
    report = tmp_path / "other.json"
    report.write_text('{"taken": 3}')
    with pytest.raises(InputError, match="is no report of this `mine`"):
        train(dataclasses.replace(config, remine_like=str(report)))
    write_rows(config.rows, [dataclasses.replace(row, query_id="x" + row.query_id) for row in training_rows()])
    with pytest.raises(InputError, match="none of the training rows has its query"):
        train(config)
    assert not Path(config.out).exists()
