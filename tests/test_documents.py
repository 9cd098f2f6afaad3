"""Every command in the documents is what the commands take, and every block that says `run` runs.

A fenced block of shell says which: ```sh parse (each line is parsed by the real command line, with all its checks of
settings) or ```sh run (it is run on the demo data). Python blocks are ```python run. A block without such a word fails.
"""

import doctest
import importlib
import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

import data.base.cli
from tests.fakes.fake_model import FakeModel

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
_FENCE = re.compile(r"^```(\w+)?(?: (\w+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Shell that is no command of ours, and what is checked of it instead.
_OTHERS = ("pip", "export", "just setup", "just lint", "just test")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block, for a readable test id."""

    file: str
    line: int
    language: str
    marker: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    found = []
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        for match in _FENCE.finditer(text):
            line = text[: match.start()].count("\n") + 1
            found.append(Block(path.name, line, match[1] or "", match[2] or "", match[3]))
    return [block for block in found if block.language in languages]


def commands_of(text: str) -> Iterator[list[str]]:
    """The words of each command: comments gone, `&&` split, continued lines joined."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while "&&" in words:
            yield words[: words.index("&&")]
            words = words[words.index("&&") + 1 :]
        if words:
            yield words


@lru_cache(maxsize=1)
def recipes() -> dict[str, tuple[str, str]]:
    """Room and command of every recipe, out of the justfile."""
    found, recipe = {}, ""
    for line in (ROOT / "justfile").read_text(encoding="utf-8").splitlines():
        if head := re.match(r"([a-z-]+) \*flags: setup", line):
            recipe = head[1]
        elif body := re.match(
            r'    @\{\{ python \}\} -m (data|trainer|programs|evals|tests\.bench) ([\w-]+) "\$@"', line
        ):
            found[recipe] = (body[1], body[2])
    return found


@lru_cache(maxsize=4)
def room_commands(room: str) -> dict[str, tuple[type, Callable[[Any], object]]]:
    """The commands of a room, as its __main__ hands them to the command line."""
    caught: dict[str, tuple[type, Callable[[Any], object]]] = {}

    def catch(commands: dict[str, Any], argv: Any = None, **_: Any) -> int:
        caught.update(commands)
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data.base.cli, "run_command", catch)
        with pytest.raises(SystemExit):
            runpy.run_module(room, run_name="__main__")
    return caught


def our_command(words: list[str]) -> tuple[str, list[str]] | None:
    """Room and arguments of a command of ours, None for another one that is allowed. Fails for anything else."""
    if words[0] == "just" and len(words) > 1 and words[1] in recipes():
        room, command = recipes()[words[1]]
        return room, [command, *words[2:]]
    if words[0] in ("python", "torchrun") and "-m" in words:
        at = words.index("-m")
        return words[at + 1], words[at + 2 :]
    assert " ".join(words).startswith(_OTHERS), f"a document has a command that nothing checks: {words}"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = {extra for group in re.findall(r"\[([a-z,]+)\]", " ".join(words)) for extra in group.split(",")}
    assert named <= extras.keys()
    return None


@pytest.mark.parametrize("block", blocks("sh", "bash", "shell", "console"), ids=str)
def test_every_command_is_one_that_the_command_line_takes(block: Block, capsys: pytest.CaptureFixture[str]) -> None:
    assert block.marker in ("parse", "run"), f"{block}: say `sh parse` or `sh run`"
    for words in commands_of(block.text):
        ours = our_command(words)
        if ours is None:
            continue
        room, arguments = ours
        parsed: list[Any] = []
        commands = {name: (kind, parsed.append) for name, (kind, _) in room_commands(room).items()}
        code = data.base.cli.run_command(commands, arguments)
        assert code == 0, f"{block}: {' '.join(words)}: {capsys.readouterr().err}"
        assert len(parsed) == 1


@pytest.mark.slow
@pytest.mark.parametrize("block", [b for b in blocks("sh") if b.marker == "run"], ids=str)
def test_a_block_that_says_so_runs(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in commands_of(block.text):
        ours = our_command(words)
        assert ours is not None, f"{block}: only commands of ours are run"
        room, arguments = ours
        assert data.base.cli.run_command(room_commands(room), arguments) == 0, f"{words}: {capsys.readouterr().err}"
    assert "written: " in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted({b.file for b in blocks("python", "py") if b.marker == "run"}))
def test_python_in_the_documents_runs(
    path: str, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blocks of one document run one after another, in one namespace, as a reader would type them."""
    monkeypatch.chdir(tmp_path)
    with FakeModel() as server:
        names: dict[str, Any] = {
            "MODEL": str(tiny_bert), "OUT": str(tmp_path), "LM": "openai/fake", "API_BASE": server.api_base,
            "API_KEY": server.token,
        }  # fmt: skip
        for block in blocks("python", "py"):
            if block.file == path:
                exec(compile(block.text, str(block), "exec"), names)


def test_every_block_of_python_runs() -> None:
    found = blocks("python", "py")
    assert found
    assert [str(block) for block in found if block.marker != "run"] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8")):
        if not target.startswith(("http:", "https:")):
            assert (path.parent / target).exists(), target


def test_each_change_that_the_architecture_names_takes_at_most_three_files() -> None:
    table = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").partition("| to change | open |")[2]
    changes = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("| ")]
    assert len(changes) >= 10
    for change, opened in changes:
        files = [name for name in re.findall(r"`([\w./]+/[\w./]*)`", opened) if not name.endswith("/")]
        assert 1 <= len(files) <= 3, change
        assert [name for name in files if not (ROOT / name).is_file()] == [], change


@pytest.mark.parametrize("name", ["trainer.loss_modules"])
def test_doctests(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0 and found.failed == 0


def test_the_check_sees_what_is_wrong() -> None:
    with pytest.raises(AssertionError, match="nothing checks"):
        our_command(["rm", "-rf", "/"])
    with pytest.raises(AssertionError, match="nothing checks"):
        our_command(["just", "no-such-recipe"])
    commands = {name: (kind, print) for name, (kind, _) in room_commands("trainer").items()}
    assert data.base.cli.run_command(commands, ["train", "rows=a", "out=b", "no-such-flag=1"]) == 2
    assert list(commands_of("just demo && just test  # both\njust mine \\\n  a=b")) == [
        ["just", "demo"], ["just", "test"], ["just", "mine", "a=b"]
    ]  # fmt: skip


def test_recipes_find_the_packages_of_the_checkout_wherever_a_person_stands(tmp_path: Path) -> None:
    (tmp_path / "data.py").write_text("raise SystemExit('not this one')", encoding="utf-8")
    exported = re.findall(r"^export (\w+) := (.+)$", (ROOT / "justfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert [name for name, _ in exported] == ["PYTHONSAFEPATH", "PYTHONPATH"]
    assert exported[1][1].startswith("justfile_directory() +")
    found = subprocess.run(
        [sys.executable, "-m", "data", "convert", "--help"], cwd=tmp_path, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONSAFEPATH": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (found.returncode, found.stderr) == (0, "")


def test_every_recipe_of_ours_runs_where_the_person_stands_and_says_one_line_when_it_fails() -> None:
    text = (ROOT / "justfile").read_text(encoding="utf-8")
    heads = re.findall(r"^(\[.*\]\n)?([a-z-]+)(?: \*\w+)?:(?: setup)?\n    (.*)", text, re.MULTILINE)
    assert len(heads) == len(re.findall(r"^[a-z-]+[^:=\n]*:(?!=)", text, re.MULTILINE))
    for attributes, name, body in heads:
        ours = re.search(r"-m (evals|trainer|programs|data) ", body)
        assert attributes == ("[no-cd, no-exit-message]\n" if ours else "[no-exit-message]\n"), name
