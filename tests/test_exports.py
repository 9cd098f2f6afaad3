"""What the rooms export is there, is what it says, and costs nothing until it is asked for."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("trainer", "programs", "evals")


@pytest.mark.parametrize("room", ROOMS)
def test_every_export_is_there_under_a_name_that_no_module_takes(room: str) -> None:
    package = import_module(room)
    for name in package.__all__:
        assert getattr(package, name).__name__ == name
        # Imported, a module of that name would take the place of what is exported.
        assert not (ROOT / room / name).exists() and not (ROOT / room / f"{name}.py").exists()
    with pytest.raises(AttributeError, match="Nothing"):
        getattr(package, "Nothing")  # noqa: B009


def test_importing_the_rooms_and_the_configs_loads_nothing_heavy() -> None:
    code = (
        "import sys, os, trainer, programs, evals; "
        "from trainer import MineConfig, TrainConfig; from programs import SynthesizeConfig; "
        "from evals import EvalConfig; heavy = {'torch', 'transformers', 'dspy', 'litellm'} & set(sys.modules); "
        "assert not heavy, heavy; assert os.environ['OMP_WAIT_POLICY'] == 'PASSIVE'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
