"""A wheel installs everything below one name, and its commands run outside a checkout."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from data.row_files import read_rows
from tests.test_documents import recipes
from tests.trainer.mining.test_mining import write_source

ROOT = Path(__file__).parents[1]
ROOMS = ("data", "trainer", "programs", "evals")
Run = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel is installed into, built from a copy: a build leaves its files in the sources."""
    sources, wheels, site = (tmp_path_factory.mktemp(name) for name in ("sources", "wheels", "site"))
    for room in ROOMS:
        shutil.copytree(ROOT / room, sources / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(wheels), str(sources)], check=True)
    (wheel,) = wheels.iterdir()
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    return site


@pytest.fixture
def run(site: Path, tmp_path: Path) -> Run:
    """Runs Python with the installed packages, in a folder that holds other people's modules of our names."""
    for module in (*ROOMS, "causalneg/trainer/__init__"):
        (tmp_path / f"{module}.py").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{module}.py").write_text("raise ImportError('somebody else\\'s')")

    def started(*words: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{site}", "PYTHONSAFEPATH": "1"}
        found = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        assert found.returncode == 0, found.stderr
        return found

    return started


def test_one_name_is_installed_with_all_that_it_reads(site: Path) -> None:
    packages = {path.name for path in site.iterdir() if path.is_dir() and not path.name.endswith(".dist-info")}
    assert packages == {"causalneg", "bin"}
    ours = {
        path.relative_to(ROOT)
        for room in ROOMS
        for path in (ROOT / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    installed = {
        path.relative_to(site / "causalneg")
        for path in (site / "causalneg").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert installed == ours | {Path("__init__.py")}


def test_what_it_says_names_its_own_command(site: Path) -> None:
    recipe = re.compile(rf"just ({'|'.join(name for room, name in recipes().values() if room in ROOMS)})\b")
    here, there = (
        [path for path in home.rglob("*") if path.suffix in (".py", ".j2") and recipe.search(path.read_text("utf-8"))]
        for home in (ROOT / "programs", site / "causalneg")
    )
    assert here and there == []


def test_the_library_has_its_modules_under_that_name_alone(run: Run) -> None:
    shown = run(
        "-c",
        "import sys\n"
        "from causalneg.evals import EvalConfig, evaluate\n"
        "from causalneg.programs import SynthesizeConfig, Synthesizer, synthesize\n"
        "from causalneg.trainer import CounterfactualLoss, Encoder, MineConfig, TrainConfig, mine, train\n"
        f"print(sorted(name for name in sys.modules if name.split('.')[0] in {ROOMS}))",
    )
    assert shown.stdout.strip() == "[]"


def test_its_command_mines_and_says_what_is_next(run: Run, site: Path, tmp_path: Path) -> None:
    write_source(tmp_path / "beir")
    command = str(site / "bin" / "causalneg")
    commands = {name for room, name in recipes().values() if room in ROOMS}
    assert len(commands) > 15 and commands <= set(run(command, "--help").stdout.split())
    shown = run(command, "mine", "data=beir", "out=mined.jsonl", "device=cpu").stdout
    assert shown.splitlines()[-1].startswith("next: causalneg synthesize rows=mined.jsonl ")
    assert any(row.negatives for row in read_rows(tmp_path / "mined.jsonl"))


def test_it_has_the_demo_and_its_recorded_answers(run: Run, site: Path) -> None:
    assert "accepted" in run(str(site / "bin" / "causalneg"), "try", "lm=recorded:demo").stdout
