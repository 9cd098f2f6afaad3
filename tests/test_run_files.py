"""Every command reads config=run.toml, names an option that it lacks, and starts again with the file that it writes."""

from dataclasses import MISSING, Field, fields, replace
from pathlib import Path
from typing import Any

import pytest

from data.base.cli import config_dict, run_command
from data.base.run_file import ONCE, as_run_file
from evals.console import COMMANDS

# A pipeline's `config` is its file of steps, which tests/evals/pipeline reads and starts again.
NAMES = sorted(COMMANDS.keys() - {"pipeline"})
# What TOML and a shell write differently; taken by whichever command has the option.
SAMPLES = {
    "rows": 'my "rows" \\ ü.jsonl',
    "model": "a b/model",
    "lms": "recorded:demo,openai/x",
    "extra": '{"stop": ["a", "\\""], "top": {"k": 1}}',
    "api-base": "http://127.0.0.1:8000/v1",
    "lm-fallbacks": "openai/b,openai/c",
    "max-rows": "7",
    "budget-usd": "0.25",
    "batched": "false",
    "profile": "help_centre",
    "dimensions": "none",
    "query-prompt": " query: ",
    "matryoshka": "128,64",
    "relative-margin": "none",
    "transfer": "other one,another",
    "lr": "3e-05",
    "quiet": "true",
}

OUT = {"mine": "a b/out.jsonl", "profile": "a b/out.toml"}


def started(name: str, *words: str) -> tuple[int, list[Any]]:
    """Runs a command that only notes its config."""
    seen: list[Any] = []
    return run_command({name: (COMMANDS[name][0], seen.append)}, [name, *words]), seen


def flag(option: "Field[Any]") -> str:
    return option.name.replace("_", "-")


def words_for(name: str) -> list[str]:
    """What the command requires, and the samples that it takes."""
    given = {}
    for option in fields(COMMANDS[name][0]):
        if option.name == "out":
            given["out"] = OUT.get(name, "a b/out")
        elif flag(option) in SAMPLES:
            given[flag(option)] = SAMPLES[flag(option)]
        elif option.default is MISSING and option.default_factory is MISSING:
            given[flag(option)] = "something"
    return [f"{option}={value}" for option, value in given.items()]


@pytest.mark.parametrize("name", NAMES)
def test_the_resolved_file_starts_it_again(name: str, tmp_path: Path) -> None:
    code, (config,) = started(name, *words_for(name))
    assert code == 0
    saved = tmp_path / "run.toml"
    saved.write_text(as_run_file(type(config), name, config_dict(config)), encoding="utf-8")
    assert started(name, f"config={saved}") == (0, [config])
    if hasattr(config, "out"):
        elsewhere = f"else {OUT.get(name, 'where')}"
        _, (other,) = started(name, f"config={saved}", f"out={elsewhere}")
        assert str(other.out) == elsewhere and replace(other, out=config.out) == config


@pytest.mark.parametrize("name", NAMES)
def test_an_option_that_it_lacks_is_named_with_the_nearest(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    option = max((flag(o) for o in fields(COMMANDS[name][0]) if o.name not in ONCE), key=len)
    file = tmp_path / "mine.toml"
    for text in (f'{option}x = "1"\n', f'[{name}]\n{option}x = "1"\n'):
        file.write_text(text, encoding="utf-8")
        assert started(name, *words_for(name), f"config={file}") == (2, [])
        said = capsys.readouterr().err
        assert said == f"error: {file}: {option}x: no such option of `{name}`; the nearest is {option}\n"
