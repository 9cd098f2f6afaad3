"""Resuming: after kill -9 to the same bits, past a damaged checkpoint, and never into another run."""

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data.base.errors import InputError
from data.base.files import write_json
from data.readers.beir import write_beir
from data.row_files import write_rows
from tests.trainer.runs import assert_same_weights, die_after, small_run
from tests.trainer.tiny_data import mined_source, training_rows
from trainer.config import TrainConfig
from trainer.loop import train
from trainer.mining.config import MineConfig
from trainer.run import checkpoints


@pytest.fixture
def config(tiny_bert: Path, tmp_path: Path) -> TrainConfig:
    """Twelve steps that mine anew at the third, sixth and ninth, with a checkpoint after every second."""
    write_beir(tmp_path / "beir", mined_source(), "train")
    mining = MineConfig(data=str(tmp_path / "beir"), out=str(tmp_path / "mined.jsonl"), num_negatives=4, rank_to=20,
                        relative_margin=None)  # fmt: skip
    write_json(f"{mining.out}.report.json", {"config": dataclasses.asdict(mining)})
    return small_run(
        tiny_bert, tmp_path, epochs=4, lr=2e-3, dropout=0.2, max_length=7, checkpoint_every=2, remine_every=3,
        remine_like=f"{mining.out}.report.json",
    )  # fmt: skip


@pytest.mark.parametrize("step", [0, 1, 2, 5, 11])
def test_a_stopped_run_goes_on_to_the_same_weights(config: TrainConfig, step: int) -> None:
    whole = train(dataclasses.replace(config, out=config.out + "-whole"))
    die_after(step, config)
    resumed = train(config)
    assert_same_weights(whole.model, resumed.model)
    assert (resumed.steps, resumed.last_loss, resumed.first_loss) == (whole.steps, whole.last_loss, whole.first_loss)
    assert resumed.num_truncated == whole.num_truncated > 0
    lines = (Path(config.out) / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(13))


def test_killed_for_real_and_restarted_the_weights_are_equal_to_the_bit(config: TrainConfig) -> None:
    flags = [
        f"--{name.replace('_', '-')}={getattr(config, name)}"
        for name in (
            *("rows", "model", "epochs", "batch_size", "lr", "dropout", "checkpoint_every", "device"),
            *("remine_every", "remine_like"),
        )
    ]
    command = [sys.executable, "-m", "trainer", "train", *flags]
    subprocess.run([*command, f"--out={config.out}-whole"], check=True, capture_output=True)
    metrics = Path(config.out) / "metrics.jsonl"
    kills = 0
    for wanted_lines in (4, 9):
        process = subprocess.Popen([*command, f"--out={config.out}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if metrics.exists() and metrics.read_text().count("\n") >= wanted_lines:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.001)
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
    assert kills >= 1, "the run was over before it could be killed"
    last = subprocess.run([*command, f"--out={config.out}"], check=True, capture_output=True, text=True)
    assert "resuming after step" in last.stderr
    assert_same_weights(f"{config.out}-whole/model", f"{config.out}/model")


def test_only_the_newest_checkpoints_are_kept(config: TrainConfig) -> None:
    train(dataclasses.replace(config, keep_checkpoints=2))
    names = sorted(path.name for path in (Path(config.out) / "checkpoints").iterdir())
    assert names == ["step-00000008", "step-00000010"]


@pytest.mark.parametrize("damage", ["cut in half", "one bit"])
@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "mined.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_refused_and_the_one_before_is_used_and_said(
    config: TrainConfig, file: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    whole = train(dataclasses.replace(config, out=config.out + "-whole"))
    die_after(9, config)
    path = Path(config.out) / "checkpoints" / "step-00000008" / file
    raw = bytearray(path.read_bytes())
    if damage == "cut in half":
        path.write_bytes(raw[: len(raw) // 2])
    else:
        # In the JSON file: a digit of the first checksum, which then fits no file.
        place = raw.index(b'"model.safetensors": "') + 25 if file == "state.json" else len(raw) // 2
        raw[place] ^= 1
        path.write_bytes(raw)
    resumed = train(config)
    assert "step-00000008 is damaged, trying the one before" in caplog.text
    assert "resuming after step 6 of 12" in caplog.text
    assert_same_weights(whole.model, resumed.model)


def test_a_full_disk_leaves_the_checkpoint_before_intact(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    real = checkpoints.save_file
    calls = []

    def full(tensors, path):  # type: ignore[no-untyped-def]
        calls.append(path)
        if len(calls) == 4:  # the optimiser's file of the second checkpoint
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        real(tensors, path)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_file", full)
        with pytest.raises(InputError, match="No space left"):
            train(config)
    assert [path.name for path in (Path(config.out) / "checkpoints").iterdir()] == ["step-00000002"]
    whole = train(dataclasses.replace(config, out=config.out + "-whole"))
    assert_same_weights(whole.model, train(config).model)


def test_checkpoints_of_other_rows_or_another_model_are_refused(config: TrainConfig, tiny_qwen: Path) -> None:
    die_after(5, config)
    newest = max((Path(config.out) / "checkpoints").glob("step-*")) / "state.json"
    state = json.loads(newest.read_text())
    newest.write_text(json.dumps(state | {"num_processes": 2}))
    with pytest.raises(InputError, match="a run with 2 processes, this one has 1"):
        train(config)
    newest.write_text(json.dumps(state))
    write_rows(config.rows, training_rows()[1:])
    with pytest.raises(InputError, match="other training rows"):
        train(config)
    write_rows(config.rows, training_rows())
    saved = Path(config.out) / "config.json"
    saved.write_text(json.dumps(json.loads(saved.read_text()) | {"model": str(tiny_qwen)}))
    with pytest.raises(InputError, match="belongs to another model"):
        train(dataclasses.replace(config, model=str(tiny_qwen)))
