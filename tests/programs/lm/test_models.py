"""From names to models: which key goes where, and what tells two files of one name apart."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from data.base.errors import InputError
from programs.lm.budget import Budget
from programs.lm.models import ModelSpec
from programs.lm.servers.local import file_id
from programs.synthesis.config import SynthesizeConfig
from programs.synthesis.roles import resolve_roles

HERE = "http://127.0.0.1:1/v1"


def roles(**settings: Any) -> dict[str, list[ModelSpec]]:
    config = SynthesizeConfig(rows=Path("unused"), api_key_env="CHOSEN", **settings)
    with ExitStack() as stack:
        return resolve_roles(stack, config, Budget())


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHOSEN", "chosen-key")
    for provider in ("OPENAI", "ANTHROPIC", "MISTRAL"):
        monkeypatch.setenv(f"{provider}_API_KEY", "its-own-key")


@pytest.mark.parametrize(
    ("settings", "chosen"),
    [
        ({"lm": "openai/gpt-4.1-mini"}, ["openai/gpt-4.1-mini", "openai/gpt-4.1-mini"]),
        ({"lm": "openai/gpt-4.1", "verifier_lm": "anthropic/claude-3-5-haiku-20241022"}, ["openai/gpt-4.1"]),
        (
            {"lm": "openai/gpt-4.1", "lm_fallbacks": "mistral/mistral-small-latest,openai/gpt-4.1-mini"},
            ["openai/gpt-4.1", "openai/gpt-4.1-mini", "openai/gpt-4.1"],
        ),
        # A server of one's own is not the provider whose protocol it speaks.
        (
            {
                "lm": "openai/mine",
                "api_base": HERE,
                "verifier_lm": "openai/gpt-4.1",
                "verifier_api_base": "provider",
            },
            ["openai/mine"],
        ),
        ({"lm": "openai/mine", "api_base": HERE, "verifier_lm": "openai/other"}, ["openai/mine", "openai/other"]),
        (
            {"lm": "openai/mine", "api_base": HERE, "verifier_lm": "openai/other", "verifier_api_base": f"{HERE}/"},
            ["openai/mine", "openai/other"],
        ),
        ({"lm": "recorded:demo", "verifier_lm": "openai/gpt-4.1"}, ["openai/gpt-4.1"]),
    ],
)
def test_the_chosen_key_goes_to_one_server(settings: dict[str, Any], chosen: list[str]) -> None:
    specs = [spec for role in roles(**settings).values() for spec in role]
    assert [spec.name for spec in specs if spec.api_key == "chosen-key"] == chosen
    assert [spec.name for spec in specs if spec.key_env == "CHOSEN"] == chosen


def test_another_provider_needs_its_own_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    with pytest.raises(InputError, match=r"field 'verifier-lm': .* needs ANTHROPIC_API_KEY"):
        roles(lm="openai/gpt-4.1", verifier_lm="anthropic/claude-3-5-haiku-20241022")


def test_files_of_one_name_are_told_apart_at_either_end(tmp_path: Path) -> None:
    middle = bytes(3 << 20)
    contents = [
        b"GGUF a" + middle,
        b"GGUF b" + middle,
        b"GGUF a" + middle + b"z",
        b"GGUF a" + middle[1:] + b"z",
        b"GGUF",
    ]
    ids = []
    for number, content in enumerate(contents):
        (tmp_path / f"{number}.gguf").write_bytes(content)
        ids.append(file_id(tmp_path / f"{number}.gguf"))
    assert len(set(ids)) == len(contents)
    (tmp_path / "copy.gguf").write_bytes(contents[0])
    assert file_id(tmp_path / "copy.gguf") == ids[0]
