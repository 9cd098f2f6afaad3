from pathlib import Path

import pytest

from data.__main__ import COMMANDS, main
from data.base.cli import run_command
from data.readers.beir import read_beir
from data.readers.demo import demo_items
from data.row_files import write_rows


def test_the_demo_is_written_as_beir_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(COMMANDS, ["demo", f"out={tmp_path}"]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / split) for split in ("train", "seen", "dev", "test")]
    sizes = {split: len(read_beir(tmp_path / split, split).queries) for split in ("train", "seen", "dev", "test")}
    assert sizes == {"train": 120, "seen": 140, "dev": 40, "test": 100}


def test_leakage_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_command(COMMANDS, ["demo", f"out={tmp_path}"])
    write_rows(tmp_path / "rows.jsonl", [item.row for item in demo_items()[:3]])
    capsys.readouterr()
    assert (
        run_command(COMMANDS, ["leakage", f"rows={tmp_path}/rows.jsonl", f"eval={tmp_path}/train", "split=train"]) == 0
    )
    shown = capsys.readouterr().out
    assert shown.startswith("3 of 120 evaluation queries and 3 of 120 ")
    assert "query a001: how long can we still restore" in shown


def test_a_number_of_negatives_that_a_format_does_not_have_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(tmp_path / "rows.jsonl", [demo_items()[0].row])
    words = [f"input={tmp_path}/rows.jsonl", f"out={tmp_path}/out.jsonl", "to=flag-embedding", "num-negatives=1"]
    assert run_command(COMMANDS, ["convert", *words]) == 2
    assert capsys.readouterr().err.startswith("error: --num-negatives: flag-embedding takes all the negatives of a row")
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("command", ["leakage", "convert"])
def test_what_has_a_recipe_is_named_by_it(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "aut=x"]) == 2
    assert capsys.readouterr().err.endswith(f"(just {command} --help)\n")


def test_a_missing_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_command(COMMANDS, ["demo", f"out={tmp_path}"])
    capsys.readouterr()
    code = run_command(COMMANDS, ["leakage", f"rows={tmp_path}/none", f"eval={tmp_path}/dev", "split=dev"])
    assert code == 2
    assert capsys.readouterr().err == f"error: {tmp_path}/none: cannot read: No such file or directory\n"
