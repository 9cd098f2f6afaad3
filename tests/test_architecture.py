"""The rooms import each other in one direction only: data <- trainer <- programs <- evals."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("data", "trainer", "programs", "evals")
MAY_IMPORT = {
    "data": set(),
    "trainer": {"data"},
    "programs": {"data", "trainer"},
    "evals": {"data", "trainer", "programs"},
}
# programs may use the retriever's forward pass, nothing of the training.
TRAINER_FOR_PROGRAMS = {"trainer.encoder.encoder"}


def imported_modules(path: Path) -> set[str]:
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            modules.add(node.module)
            if node.module in ROOMS:
                modules.update(f"{node.module}.{alias.name}" for alias in node.names)
    return modules


def violations(room: str, path: Path) -> list[str]:
    found = []
    for module in imported_modules(path):
        other = module.split(".")[0]
        if other in ROOMS and other != room and other not in MAY_IMPORT[room]:
            found.append(f"{path.name} imports {module}")
        if room == "programs" and other == "trainer" and module not in TRAINER_FOR_PROGRAMS:
            found.append(f"{path.name} imports {module}")
        if other == "tests":
            found.append(f"{path.name} imports tests")
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_imports_go_one_way(room: str) -> None:
    paths = sorted((ROOT / room).rglob("*.py"))
    assert paths
    assert [fault for path in paths for fault in violations(room, path)] == []


def test_the_check_sees_a_wrong_import(tmp_path: Path) -> None:
    module = tmp_path / "bad.py"
    module.write_text("def f():\n    from evals.stats import holm\n    return holm\n", encoding="utf-8")
    assert violations("trainer", module) == ["bad.py imports evals.stats"]
    module.write_text("from trainer.losses import info_nce\n", encoding="utf-8")
    assert violations("programs", module) == ["bad.py imports trainer.losses"]


@pytest.mark.parametrize("room", ROOMS)
def test_no_code_is_loaded_from_data(room: str) -> None:
    """No pickle, no remote code: nothing that a user downloads is ever run."""
    forbidden = re.compile(
        r"\b((import|from) (pickle|dill|cloudpickle)|trust_remote_code\s*=\s*True|weights_only\s*=\s*False)"
    )
    for path in (ROOT / room).rglob("*.py"):
        assert not forbidden.search(path.read_text(encoding="utf-8")), path
