"""Options that change how a step is computed: precision, recomputing, low rank, Matryoshka widths, tracking."""

import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data.base.errors import InputError
from tests.trainer.conftest import TEXTS
from tests.trainer.runs import assert_same_weights, die_after, one_step, small_run
from trainer.config import TrainConfig
from trainer.encoder import precision
from trainer.encoder.encoder import Encoder
from trainer.loop import train


@pytest.fixture
def config(tiny_bert: Path, tmp_path: Path) -> TrainConfig:
    return small_run(tiny_bert, tmp_path, epochs=6, lr=5e-3, dropout=0.0)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputing_layers_gives_the_same_gradient(config: TrainConfig, dropout: float) -> None:
    gradients = []
    for recompute in (False, True):
        encoder = Encoder.load(config.model, device="cpu").double()
        if recompute:
            encoder.checkpoint_gradients()
        torch.manual_seed(0)
        gradients.append(one_step(config, encoder=encoder, dropout=dropout)[0])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-10, atol=1e-13)


def test_bfloat16_is_near_float32_and_leaves_the_weights_float32(config: TrainConfig) -> None:
    exact, _ = one_step(config, encoder=Encoder.load(config.model, device="cpu"))
    encoder = Encoder.load(config.model, device="cpu")
    encoder.autocast = torch.bfloat16
    rough, _ = one_step(config, encoder=encoder)
    flat = [torch.cat([g.flatten() for g in gradients.values()]) for gradients in (exact, rough)]
    assert torch.nn.functional.cosine_similarity(*flat, dim=0) > 0.95
    assert not torch.equal(*flat)
    assert {p.dtype for p in encoder.parameters()} == {torch.float32} == {g.dtype for g in rough.values()}
    result = train(dataclasses.replace(config, precision="bfloat16"))
    assert result.last_loss < 0.7 * result.first_loss


def test_a_resumed_run_keeps_what_it_began_with(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(config, precision="auto", checkpoint_every=1)
    precision._chosen.cache_clear()
    monkeypatch.setattr(precision, "_gain", lambda device: 3.0)
    whole = train(config)
    assert whole.precision == "bfloat16"
    config = dataclasses.replace(config, out=config.out + "-again")
    die_after(2, config)
    precision._chosen.cache_clear()
    monkeypatch.setattr(precision, "_gain", lambda device: 1.0)  # a busy minute, or another machine
    again = train(config)
    assert again.precision == "bfloat16"
    assert again.last_loss == whole.last_loss
    assert json.loads((Path(config.out) / "summary.json").read_text())["precision"] == "bfloat16"
    precision._chosen.cache_clear()


@pytest.fixture
def float16_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU computes in float16 too, only slowly: let it, so that the path can be tested."""
    types = {"float32": None, "float16": torch.float16}
    monkeypatch.setattr("trainer.encoder.encoder.autocast_type", lambda precision, device: types[precision])


def test_float16_without_a_gpu_is_one_line(config: TrainConfig) -> None:
    with pytest.raises(InputError, match="--precision float16: needs a GPU, this run is on cpu"):
        train(dataclasses.replace(config, precision="float16"))
    assert not Path(config.out).exists()


@pytest.mark.usefixtures("float16_anywhere")
@pytest.mark.parametrize("in_batch", ["none", "in-batch"])
def test_float16_trains_like_float32(config: TrainConfig, in_batch: str) -> None:
    config = dataclasses.replace(config, epochs=2, lr=1e-3, in_batch=in_batch)
    exact = train(config)
    half = train(dataclasses.replace(config, precision="float16", out=config.out + "-half"))
    assert half.num_skipped == 0
    assert half.first_loss == pytest.approx(exact.first_loss, rel=1e-2)
    assert half.last_loss == pytest.approx(exact.last_loss, rel=5e-2)
    vectors = [Encoder.load(result.model, device="cpu").encode(TEXTS, "query") for result in (exact, half)]
    assert np.abs(vectors[0] - vectors[1]).max() < 0.05


@pytest.mark.usefixtures("float16_anywhere")
def test_steps_that_overflow_are_skipped_counted_and_resumed_exactly(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.step.optimizer._FIRST_SCALE", 2.0**40)
    config = dataclasses.replace(config, precision="float16", epochs=10, checkpoint_every=4)
    whole = train(config)
    assert 0 < whole.num_skipped < whole.steps
    metrics = (Path(config.out) / "metrics.jsonl").read_text().splitlines()
    scales = [json.loads(line)["loss_scale"] for line in metrics[1:]]
    assert scales[:5] == [2.0**39, 2.0**38, 2.0**37, 2.0**36, 2.0**35]
    assert scales[-1] == 2.0 ** (40 - whole.num_skipped)
    config = dataclasses.replace(config, out=config.out + "-stopped")
    die_after(5, config)
    resumed = train(config)
    assert resumed.num_skipped == whole.num_skipped
    assert_same_weights(whole.model, resumed.model)


@pytest.mark.usefixtures("float16_anywhere")
def test_gradients_that_overflow_at_every_scale_end_the_run(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: float("inf"))
    monkeypatch.setattr("trainer.step.optimizer._FIRST_SCALE", 0.5)
    with pytest.raises(InputError, match="its gradient's norm inf"):
        train(dataclasses.replace(config, precision="float16"))


def test_low_rank_training_moves_the_saved_model_and_merges_what_it_learnt(config: TrainConfig) -> None:
    result = train(dataclasses.replace(config, lora_rank=4, checkpoint_every=5, lr=2e-2))
    assert result.last_loss < 0.8 * result.first_loss
    before, after = Encoder.load(config.model, device="cpu"), Encoder.load(result.model, device="cpu")
    assert before.transformer.state_dict().keys() == after.transformer.state_dict().keys()
    assert np.abs(before.encode(TEXTS, "query") - after.encode(TEXTS, "query")).max() > 1e-3
    words = "embeddings.word_embeddings.weight"
    assert torch.equal(before.transformer.get_parameter(words), after.transformer.get_parameter(words))


def test_merged_updates_give_the_vectors_of_the_unmerged_model(tiny_bert: Path, tmp_path: Path) -> None:
    encoder = Encoder.load(str(tiny_bert), device="cpu")
    encoder.add_lora(3)
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1)
    encoder.save(tmp_path / "m")
    merged = Encoder.load(str(tmp_path / "m"), device="cpu")
    np.testing.assert_allclose(merged.encode(TEXTS, "query"), encoder.encode(TEXTS, "query"), atol=1e-5)


def test_matryoshka_loss_is_the_mean_over_widths(config: TrainConfig) -> None:
    class Narrow(Encoder):
        """The same encoder, whose embeddings end after eight numbers."""

        dimension = 8  # type: ignore[assignment]

    full, full_report = one_step(config)
    narrow, _ = one_step(config, encoder=Narrow.load(config.model, device="cpu").double())
    both, report = one_step(dataclasses.replace(config, matryoshka=(8,)))
    assert report.info_nce == pytest.approx(full_report.info_nce)
    mean = {name: (gradient + narrow[name]) / 2 for name, gradient in full.items()}
    torch.testing.assert_close(both, mean, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(("width", "widths"), [(32, (32,)), (32, (8, 64)), (8, (8,))])
def test_matryoshka_widths_lie_below_the_one_in_use(config: TrainConfig, width: int, widths: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=f"--matryoshka: expected widths below the embeddings' {width}"):
        train(dataclasses.replace(config, dimensions=width, matryoshka=widths))
    with pytest.raises(InputError, match="--matryoshka"):
        dataclasses.replace(config, matryoshka=(0,))


def test_tracker_gets_every_step(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple] = []
    fake = SimpleNamespace(
        init=lambda **values: calls.append(("init", values["config"]["lr"])),
        log=lambda values, step: calls.append((step, "loss" in values, "step" in values)),
        finish=lambda: calls.append(("finish",)),
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    train(dataclasses.replace(config, epochs=1, tracking="wandb"))
    assert calls == [("init", 5e-3), (0, False, False), *((step, True, False) for step in (1, 2, 3)), ("finish",)]


def test_a_tracker_that_is_not_installed_is_one_line(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(InputError, match="pip install trackio"):
        train(dataclasses.replace(config, tracking="trackio"))
    assert train(dataclasses.replace(config, epochs=1, tracking="none", out=config.out + "2")).steps == 3


def test_a_tracker_that_writes_into_the_folder_at_once(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []

    class Writer:
        def __init__(self, folder: str):
            opened.append(Path(folder))
            Path(folder).mkdir()

        def add_scalar(self, name: str, value: float, step: int) -> None:
            (opened[-1] / f"{step}-{name}").write_text(str(value))

        def close(self) -> None:
            (opened[-1] / "closed").touch()

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    tracked = dataclasses.replace(config, epochs=1, tracking="tensorboard")
    train(tracked)
    assert (Path(config.out) / "tensorboard" / "closed").exists()
    (Path(config.out) / "tensorboard" / "of an old run").touch()
    train(tracked)  # finished: it is only read
    assert len(opened) == 1
    train(dataclasses.replace(tracked, restart=True))
    assert len(opened) == 2 and not (opened[1] / "of an old run").exists()
