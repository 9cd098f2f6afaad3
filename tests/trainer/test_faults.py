"""Training that goes wrong: numbers that are not finite, damaged checkpoints, a lost process."""

import dataclasses
import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from data.base.errors import InputError
from data.base.files import write_json
from data.base.outputs import claim_folder
from tests.chaos import training
from tests.trainer.runs import assert_same_weights, small_run
from trainer import loop as train_module
from trainer.config import TrainConfig
from trainer.encoder import Encoder
from trainer.loop import train


@pytest.fixture
def config(tiny_bert: Path, tmp_path: Path) -> TrainConfig:
    """Twelve steps with a checkpoint after every second."""
    return small_run(tiny_bert, tmp_path, epochs=4, lr=2e-3, checkpoint_every=2, keep_checkpoints=3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_stops_the_run_and_the_weights_before_it_are_kept(
    config: TrainConfig, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(dataclasses.replace(config, out=config.out + "-whole"))
    real, calls = train_module.accumulate_gradients, 0

    def poisoned(encoder: Encoder, *arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        report = real(encoder, *arguments, **named)
        if calls == 8:
            gradient = next(parameter.grad for parameter in encoder.parameters() if parameter.grad is not None)
            gradient.view(-1)[0] = value
        return report

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "accumulate_gradients", poisoned)
        with pytest.raises(InputError, match=r"step 8: .*stopped before this step changed the weights"):
            train(config)
    assert sorted(path.name for path in (Path(config.out) / "checkpoints").iterdir()) == [
        "step-00000002", "step-00000004", "step-00000006",
    ]  # fmt: skip
    resumed = train(config)
    assert_same_weights(whole.model, resumed.model)


@pytest.mark.slow
def test_the_survivor_of_two_processes_ends_with_a_line(tmp_path: Path) -> None:
    assert training.worker_killed(tmp_path)["processes"] == 2


def test_a_model_whose_modules_lie_outside_its_folder_is_refused(tiny_bert: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    Encoder.load(str(tiny_bert), device="cpu").save(folder)
    modules = folder / "modules.json"
    found = json.loads(modules.read_text())
    for place, path in ((1, "../elsewhere"), (0, str(tiny_bert))):
        changed = [dict(module) for module in found]
        changed[place]["path"] = path
        modules.write_text(json.dumps(changed))
        with pytest.raises(InputError, match="outside the model's folder"):
            Encoder.load(str(folder), device="cpu")


def test_a_pickle_is_no_checkpoint(config: TrainConfig, caplog: pytest.LogCaptureFixture) -> None:
    claim_folder("train", Path(config.out), ())
    folder = Path(config.out) / "checkpoints" / "step-00000002"
    folder.mkdir(parents=True)
    write_json(Path(config.out) / "config.json", json.loads(json.dumps(dataclasses.asdict(config))))
    ran = Path(config.out) / "ran"
    bomb = pickle.dumps(Bomb(str(ran)))
    for name in ("model.safetensors", "optimizer.safetensors"):
        (folder / name).write_bytes(bomb)
    checksum = hashlib.blake2b(bomb, digest_size=16).hexdigest()
    state = {"step": 2, "checksums": dict.fromkeys(("model.safetensors", "optimizer.safetensors"), checksum)}
    write_json(folder / "state.json", state)
    train(config)
    assert "step-00000002 is damaged" in caplog.text
    assert not ran.exists()


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: str):
        self.path = path

    def __reduce__(self) -> Any:
        return Path.write_text, (Path(self.path), "boom")
