import os
from pathlib import Path

import pytest

from data.base.cli import run_command
from data.base.errors import InputError
from data.base.files import atomic_writer
from data.base.options import options
from data.base.outputs import MARKER, Outputs, at_work_in, claim_folder


@options
class Logged:
    out: Path


def make(command: str, file: Path, text: str = "x", **options: object) -> None:
    outputs = Outputs(command, [file], **options)  # type: ignore[arg-type]
    with atomic_writer(file) as opened:
        opened.write(text)
    outputs.record()


def test_a_command_replaces_what_it_made_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    make("eval", file)
    make("eval", file, "longer")
    with pytest.raises(InputError, match=r"a\.json: is there already, and not as `mine` left it"):
        make("mine", file)
    file.write_text("edited by hand", encoding="utf-8")
    with pytest.raises(InputError, match="force=true"):
        make("eval", file)
    make("eval", file, force=True)
    own = tmp_path / "own.json"
    own.write_text("mine", encoding="utf-8")
    (tmp_path / "link.json").symlink_to(own)
    for there in (own, tmp_path / "link.json"):
        with pytest.raises(InputError, match="is there already"):
            make("eval", there)
    assert own.read_text(encoding="utf-8") == "mine"


def test_a_folder_that_takes_no_files_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing is closed to root, as who a test may run.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(InputError, match=rf"a\.json: cannot write: {tmp_path} takes no files"):
        Outputs("eval", [tmp_path / "new" / "a.json"])
    (tmp_path / "there").mkdir()
    Outputs("eval", [tmp_path / "there" / "a.json"])


@pytest.mark.parametrize("before", [None, "earlier"])
@pytest.mark.parametrize("dies", ["before the name is taken", "after it"])
def test_a_command_that_died_while_it_wrote_finds_its_own_file(before: str | None, dies: str, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    if before is not None:
        make("eval", file, before)
    outputs = Outputs("eval", [file])
    new = tmp_path / "new"
    new.write_text("half of what was to be written", encoding="utf-8")
    outputs.about_to_name(file, new)
    if dies == "after it":
        new.replace(file)
    make("eval", file)
    with pytest.raises(InputError, match="is there already"):
        make("mine", file)


def test_what_a_person_put_there_after_a_death_is_theirs(tmp_path: Path) -> None:
    file, new = tmp_path / "a.json", tmp_path / "new"
    new.write_text("x", encoding="utf-8")
    Outputs("eval", [file]).about_to_name(file, new)
    file.write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="is there already"):
        make("eval", file)


def test_a_replaced_file_of_a_persons_is_theirs_until_it_is_replaced(tmp_path: Path) -> None:
    file, new = tmp_path / "a.json", tmp_path / "new"
    for path in (file, new):
        path.write_text(path.name, encoding="utf-8")
    Outputs("eval", [file], force=True).about_to_name(file, new)
    with pytest.raises(InputError, match="is there already"):
        make("eval", file)


def test_what_others_wrote_in_a_run_is_not_replaced_even_by_force(tmp_path: Path) -> None:
    claim_folder("synthesize", tmp_path, ["rows.jsonl"])
    (tmp_path / "rows.jsonl").write_text("{}", encoding="utf-8")
    make("eval", tmp_path / "eval.json", run=tmp_path)
    for name in ("rows.jsonl", "eval.json"):
        with pytest.raises(InputError, match=r"is what `(synthesize|eval)` wrote in"):
            Outputs("report", [tmp_path / name], run=tmp_path, force=True)


@pytest.mark.parametrize("how", ["itself", "symlink", "hard link", "inside"])
def test_an_input_is_never_an_output_not_even_by_force(how: str, tmp_path: Path) -> None:
    source = tmp_path / "in" / "corpus.jsonl"
    source.parent.mkdir()
    source.write_text("{}", encoding="utf-8")
    out, given = tmp_path / "out.jsonl", source
    if how == "itself":
        out = source
    elif how == "symlink":
        out.symlink_to(source)
    elif how == "hard link":
        os.link(source, out)
    else:
        out, given = source.parent / "new.jsonl", source.parent
    with pytest.raises(InputError, match=r"the input .*: choose another --out"):
        Outputs("convert", [out], inputs=[given, None, "hub:a/b"], force=True)
    assert source.read_text(encoding="utf-8") == "{}"


def test_one_name_for_two_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is the name of two files to write"):
        Outputs("eval", [tmp_path / "a.csv", tmp_path / "a.csv"])


def test_a_folder_belongs_to_one_kind_of_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    claim_folder("synthesize", run, ["rows.jsonl"])
    claim_folder("synthesize", run, ["rows.jsonl"])
    with pytest.raises(InputError, match=r"lies inside .*run, which is a run of `synthesize`"):
        claim_folder("train", run, ["config.json"])
    with pytest.raises(InputError, match="lies inside"):
        Outputs("mine", [run / "mined.jsonl"], force=True)
    Outputs("report", [run / "report.html"], run=run)
    with at_work_in(run):
        claim_folder("train", run / "train", ["config.json"])
    model = tmp_path / "model"
    model.mkdir()
    (model / "modules.json").write_text("[]", encoding="utf-8")
    with pytest.raises(InputError, match="which is a saved model"):
        Outputs("eval", [model / "eval.json"], force=True)


def test_the_log_of_this_run_may_lie_in_its_folder(tmp_path: Path) -> None:
    def claim(config: Logged) -> None:
        claim_folder("train", config.out, ["model"], alone=True)

    out, log = tmp_path / "run", tmp_path / "run" / "train.log"
    for _ in range(2):
        assert run_command({"train": (Logged, claim)}, ["train", f"out={out}", f"log-file={log}"]) == 0
    # Without the run's mark, and no log of the run that asks now, it is a file like others.
    (out / MARKER).unlink()
    assert run_command({"train": (Logged, claim)}, ["train", f"out={out}"]) == 2


def test_a_restart_clears_what_the_marker_claims_alone(tmp_path: Path) -> None:
    own = tmp_path / "own"
    (own / "model").mkdir(parents=True)
    for alone in (False, True):
        with pytest.raises(InputError, match="model may be your own"):
            claim_folder("train", own, ["model", "config.json"], alone=alone, restart=True)
    assert (own / "model").is_dir() and not (own / MARKER).exists()
    (own / "note.txt").write_text("n", encoding="utf-8")
    claim_folder("train", own, ["config.json"])
    (own / "config.json").symlink_to(own / "note.txt")
    claim_folder("train", own, ["config.json"], restart=True)
    assert sorted(path.name for path in own.iterdir()) == [MARKER, "model", "note.txt"]
    with pytest.raises(InputError, match=r"holds the input|is the input"):
        claim_folder("train", own, ["model"], inputs=[own / "model"])


def test_a_file_is_no_folder_and_a_folder_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="is a file, expected a folder"):
        claim_folder("train", tmp_path / "file", [])
    with pytest.raises(InputError, match="is a folder, expected the name of a file"):
        Outputs("eval", [tmp_path])
