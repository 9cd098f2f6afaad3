"""A synthesis by a fake model, as its config and as its summary; and what a command that is refused says."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from programs.__main__ import main
from programs.synthesis.config import SynthesizeConfig
from programs.synthesis.run import synthesize
from tests.fakes.fake_model import FakeModel

Rows = Callable[[int], Path]
Configured = Callable[..., SynthesizeConfig]
Run = Callable[..., dict[str, Any]]
Refusal = Callable[..., str]


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Refusal:
    """The one line that a command with these words ends with, and with code 2."""

    def of(*words: str) -> str:
        assert main(words) == 2
        shown = capsys.readouterr()
        (line,) = shown.err.strip().splitlines()
        assert not shown.out and line.startswith("error: ")
        return line

    return of


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configured:
    """A synthesis of some rows by this server, in `tmp_path / "out"` unless the settings say otherwise."""

    def made(server: FakeModel, rows: Path, **settings: Any) -> SynthesizeConfig:
        monkeypatch.setenv("OPENAI_API_KEY", server.token)
        base = {
            "rows": rows, "out": tmp_path / "out", "lm": "openai/fake", "api_base": server.api_base, "adapter": "chat"
        }  # fmt: skip
        return SynthesizeConfig(**base | settings)

    return made


@pytest.fixture
def run(configured: Configured) -> Run:
    """The summary of such a synthesis."""
    return lambda *given, **settings: synthesize(configured(*given, **settings))
