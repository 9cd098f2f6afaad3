import logging
import os
import tomllib
from pathlib import Path

import pytest

from data.base.cli import run_command
from data.base.options import options
from data.base.outputs import Outputs, claim_folder


@options
class PlantConfig:
    """Plant trees."""

    kind: str
    """Kind of tree."""

    out: Path
    """Folder of the garden."""

    heights: tuple[float, ...] = (1.0, 2.5)
    """Heights in metres."""

    shade: float | None = 0.5
    """Share of shade."""

    evergreen: bool = False
    """Keeps its leaves."""

    restart: bool = False
    """Dig up what is there."""


def run(*words: str) -> tuple[int, list[PlantConfig]]:
    seen: list[PlantConfig] = []

    def plant(config: PlantConfig) -> None:
        seen.append(config)
        logging.getLogger("data.garden").warning("stony ground")
        claim_folder("plant", config.out, ["trees.json"], restart=config.restart)
        claim_folder("water", config.out / "water", [], run=config.out)

    return run_command({"plant": (PlantConfig, plant)}, ["plant", *words]), seen


def written(folder: Path, text: str) -> str:
    file = folder / "in.toml"
    file.write_text(text, encoding="utf-8")
    return f"config={file}"


def test_the_file_that_a_run_writes_starts_it_again(tmp_path: Path) -> None:
    out = tmp_path / "garden"
    words = [f"out={out}", 'kind=oak "\\ \x7f ü😀', "heights=3", "shade=none", "evergreen=true", "restart=true"]
    code, first = run(*words)
    saved = out / "run.toml"
    assert code == 0
    assert set(tomllib.loads(saved.read_text(encoding="utf-8"))["plant"]) == {
        "kind", "out", "heights", "shade", "evergreen",
    }  # fmt: skip
    _, again = run(f"config={saved}", "--restart")
    assert again == first
    # only the command's own folder, not that of a step inside
    assert not list((out / "water").glob("*.toml"))


def test_a_file_beside_an_output_that_is_a_file(tmp_path: Path) -> None:
    out = tmp_path / "trees.txt"

    def plant(config: PlantConfig) -> None:
        outputs = Outputs("plant", [config.out])
        config.out.write_text(config.kind, encoding="utf-8")
        outputs.record()

    assert run_command({"plant": (PlantConfig, plant)}, ["plant", f"out={out}", "kind=oak"]) == 0
    assert 'kind = "oak"' in (tmp_path / "trees.txt.run.toml").read_text(encoding="utf-8")


def test_flags_hold_over_the_section_and_the_section_over_the_top(tmp_path: Path) -> None:
    file = written(
        tmp_path, 'kind = "ash"\nshade = 0.1\nlm = "x"\n[plant]\nkind = "elm"\nheights = [4, 5]\n[fell]\na = 1\n'
    )
    _, seen = run("--shade", "0.9", file, f"--out={tmp_path / 'garden'}")
    assert seen == [PlantConfig(kind="elm", out=tmp_path / "garden", heights=(4.0, 5.0), shade=0.9)]


def test_a_section_may_have_the_name_of_an_option(tmp_path: Path) -> None:
    file = written(tmp_path, f'[plant]\nkind = "elm"\nout = "{tmp_path}/garden"\n[shade]\nkind = "ash"\n')
    assert run(file) == (0, [PlantConfig(kind="elm", out=tmp_path / "garden")])


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("evergren = true", "evergren: no such option of `plant`; the nearest is evergreen"),
        ("[plants]\nkind = 'oak'", "[plants]: no such section; the nearest is [plant]"),
        ("kind = ", "is no TOML"),
        ("kind = " + "[" * 5000, "is no TOML"),
        ("a." * 5000 + "b = 1", "a name of many parts"),
        ("#" * 200_001, "more than 200000 characters"),
        ("kind = 'oak'\nshade = 'much'", "--shade: expected a number, got 'much'"),
    ],
)
def test_a_fault_of_the_file_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, fault: str
) -> None:
    assert run(written(tmp_path, text), f"out={tmp_path / 'garden'}") == (2, [])
    said = capsys.readouterr().err
    assert fault in said and said.count("\n") == 1


def test_a_run_file_of_the_users_stays(tmp_path: Path) -> None:
    own = tmp_path / "garden" / "run.toml"
    own.parent.mkdir()
    own.write_text("# my notes\nkind = 'oak'\n[fell]\n", encoding="utf-8")
    assert run(f"config={own}", f"out={own.parent}")[0] == 0
    assert own.read_text(encoding="utf-8").startswith("# my notes")


def test_a_log_goes_behind_a_log_and_into_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, rows, fifo = tmp_path / "run.log", tmp_path / "rows.jsonl", tmp_path / "fifo"
    words = [f"out={tmp_path / 'garden'}", "kind=oak"]
    for _ in range(2):
        assert run(*words, f"log-file={log}")[0] == 0
    assert log.read_text(encoding="utf-8").count("stony ground") == 2
    rows.write_text('{"query": "q"}\n', encoding="utf-8")
    os.mkfifo(fifo)
    for path, fault in ((rows, "is no log file"), (fifo, "not a regular file"), (tmp_path, "cannot")):
        assert run(*words, f"log-file={path}")[0] == 2
        assert fault in capsys.readouterr().err
    assert rows.read_text(encoding="utf-8") == '{"query": "q"}\n'


def test_the_log_file_holds_what_is_said(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "run.log"
    assert run(f"out={tmp_path / 'garden'}", "kind=oak", "--log-file", str(log))[0] == 0
    assert "WARNING stony ground" in log.read_text(encoding="utf-8")
    assert not any(isinstance(handler, logging.FileHandler) and handler.baseFilename == str(log)
                   for handler in logging.getLogger().handlers)  # fmt: skip
