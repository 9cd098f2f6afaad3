import io
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from data.__main__ import main as data_main  # noqa: F401  # the room's own entry point must import
from data.base.cli import config_dict, run_command, text_table
from data.base.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class PlantConfig:
    """Plant a tree."""

    kind: str
    """Kind of tree."""

    height: float = 1.5
    """Height in metres."""

    evergreen: bool = False
    """Keeps its leaves."""

    place: Path = Path("garden")
    """Folder it stands in."""

    def __post_init__(self) -> None:
        if self.height <= 0:
            raise InputError(f"--height: expected metres above 0, got {self.height}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FellConfig:
    """Fell a tree."""

    kind: str = "oak"
    """Kind of tree, of those that stand
    in the garden."""


def run(argv: list[str]) -> tuple[int, list[object]]:
    seen: list[object] = []
    return run_command({"plant": (PlantConfig, seen.append), "fell": (FellConfig, seen.append)}, argv), seen


@pytest.mark.parametrize(
    "argv",
    [
        ["plant", "--kind", "a=b c", "--evergreen", "--height", "2"],
        ["plant", "kind=a=b c", "evergreen=true", "height=2"],
        ["plant", "kind=a=b c", "evergreen=True", "--height=2", "place=garden"],
        ["plant", "--kind=wrong", "--no-evergreen", "--evergreen", "--height=2", "--kind", "a=b c"],
    ],
)
def test_flags_and_assignments_are_the_same(argv: list[str]) -> None:
    assert run(argv) == (0, [PlantConfig(kind="a=b c", height=2, evergreen=True)])


def test_a_name_that_no_file_can_have_and_a_message_without_end_are_one_short_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fell(config: FellConfig) -> None:
        if config.kind == "elm":
            raise InputError("x" * 10_000)
        (Path("/") / ("y" * 10_000)).exists()

    for kind, said in (("elm", "xxx ... xxx"), ("oak", "name too long")):
        assert run_command({"fell": (FellConfig, fell)}, ["fell", f"kind={kind}"]) == 2
        line = capsys.readouterr().err
        assert line.startswith("error: ") and line.count("\n") == 1 and len(line) < 1000
        assert said in line


def test_help_wraps_a_docstring_of_several_lines_anew(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit):
        run(["fell", "--help"])
    assert "Kind of tree, of those that stand in the garden." in capsys.readouterr().out
    assert run(["fell", "kind=elm"]) == (0, [FellConfig(kind="elm")])


def test_a_fault_of_the_user_is_one_line_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    code, seen = run(["plant", "kind=oak", "height=0"])
    error = capsys.readouterr().err
    assert (code, seen) == (2, [])
    assert error == "error: --height: expected metres above 0, got 0.0\n"


def test_help_documents_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(["plant", "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("Plant a tree.", "--kind", "Height in metres.", "Keeps its leaves."))


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "expected a command (plant or fell)"),
        (["water"], "'water': no such command (plant or fell)"),
        (["fel"], "'fel': no such command; the nearest is fell (plant or fell)"),
        (["plant"], "expected --kind (just plant --help)"),
        (["plant", "kind=oak", "color=red"], "--color: no such option (just plant --help)"),
        (["plant", "kind=oak", "heights=2"], "--heights: no such option; the nearest is height (just plant --help)"),
        (["plant", "--kin", "oak"], "--kin: no such option; the nearest is kind (just plant --help)"),
        (["plant", "kind=oak", "no-height"], "'no-height': expected name=value or --name value (just plant --help)"),
        (["plant", "--no-kind"], "--no-kind: no such option; the nearest is kind (just plant --help)"),
    ],
)
def test_an_unknown_or_missing_word_is_one_line_and_code_2(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(argv) == (2, [])
    assert capsys.readouterr().err == f"error: {said}\n"


def test_stopping_by_hand_is_code_130(capsys: pytest.CaptureFixture[str]) -> None:
    def stop(_: object) -> None:
        raise KeyboardInterrupt

    assert run_command({"fell": (FellConfig, stop), "plant": (PlantConfig, stop)}, ["fell"]) == 130
    assert capsys.readouterr().err == "stopped\n"


def test_a_config_is_saved_as_plain_json_values() -> None:
    assert config_dict(PlantConfig(kind="oak")) == {
        "kind": "oak",
        "height": 1.5,
        "evergreen": False,
        "place": "garden",
    }


def test_a_reader_that_has_seen_enough_is_no_fault() -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "data", "convert", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    child.stdout.close()
    assert child.wait(timeout=60) == 141
    assert child.stderr is not None
    assert child.stderr.read() == ""


def test_letters_that_the_terminal_lacks_are_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="latin-1"))
    words = "o\u00f9: \u0433\u0434\u0435\n"
    assert run_command({"fell": (FellConfig, lambda _: sys.stdout.write(words))}, ["fell"]) == 0
    assert written.getvalue() == b"o\xf9: \\u0433\\u0434\\u0435\n"


def test_a_table_is_aligned() -> None:
    assert text_table(["a", "bb"], [["ccc", "d"]]) == "a    bb\n---  --\nccc  d"
    assert text_table(["a", "bb"], []) == "a  bb\n-  --"


def test_a_table_fits_its_width() -> None:
    table = ["arm", "score", "p"], [["a long name", "0.5 [0.4, 0.6]", "0.04"], ["b", "0.25", ""]]
    whole = text_table(*table, width=35)
    assert whole.splitlines()[2] == "a long name  0.5 [0.4, 0.6]  0.04"
    assert text_table(*table, width=25) == (
        "arm\n  score           p\n  --------------  ----\na long name\n  0.5 [0.4, 0.6]  0.04\nb\n  0.25"
    )
    assert text_table(*table, width=21) == "a long name\n  score  0.5 [0.4, 0.6]\n  p      0.04\nb\n  score  0.25"


@pytest.mark.parametrize(("output", "code", "said"), [(">&-", 0, ""), (">/dev/full", 2, "error: cannot write")])
def test_an_output_that_takes_nothing_is_no_traceback(output: str, code: int, said: str, tmp_path: Path) -> None:
    command = f"{sys.executable} -m data demo out={tmp_path / 'demo'} {output}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr and said in done.stderr
