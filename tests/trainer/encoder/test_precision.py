"""precision=auto: bfloat16 where a trial shows that it pays, said."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trainer.conftest import TEXTS
from trainer.encoder import Encoder, precision
from trainer.encoder.precision import autocast_type, precision_name
from trainer.mining.embedding_cache import embeddings_key


@pytest.fixture(autouse=True)
def tried_anew() -> Iterator[None]:
    for cached in (precision._chosen, precision._warn_of_emulation):
        cached.cache_clear()
    yield
    for cached in (precision._chosen, precision._warn_of_emulation):
        cached.cache_clear()


def test_the_trial_measures_and_draws_no_random_numbers() -> None:
    before = torch.get_rng_state()
    assert precision._gain(torch.device("cpu")) > 0
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("gain", "chosen"), [(1.2, "float32"), (2.2, "bfloat16")])
def test_auto_takes_what_is_faster_and_says_so_once(
    gain: float, chosen: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(precision, "_gain", lambda device: gain)
    caplog.set_level(logging.INFO)
    for _ in range(2):
        assert precision_name(autocast_type("auto", torch.device("cpu"))) == chosen
    assert caplog.messages == [
        f"precision=auto: {chosen}, as a matrix product in bfloat16 is {gain:.2f} times as fast as in float32 on cpu"
    ]


def test_bfloat16_where_the_processor_has_none_is_warned_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(precision, "_gain", lambda device: 0.02)
    for _ in range(2):
        assert autocast_type("bfloat16", torch.device("cpu")) == torch.bfloat16
    (said,) = caplog.messages
    assert "takes 50.0 times as long as in float32 on this processor" in said


def test_embeddings_are_float32_near_those_of_float32_and_cached_apart(tiny_bert: Path) -> None:
    exact, half = (Encoder.load(str(tiny_bert), device="cpu", precision=p) for p in ("float32", "bfloat16"))
    assert (exact.precision, half.precision) == ("float32", "bfloat16")
    vectors = [made.encode(TEXTS, "query") for made in (exact, half)]
    assert vectors[1].dtype == np.float32
    assert 0 < np.abs(vectors[0] - vectors[1]).max() < 0.05
    keys = {embeddings_key(made, TEXTS, "query") for made in (exact, half)}
    assert len(keys) == 2
