"""The floor plan: imports go one way (data, trainer, programs, evals), no circles, at most 12 entries a folder."""

import ast
import re
from graphlib import CycleError, TopologicalSorter
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
TRAINER_FOR_PROGRAMS = {"trainer.encoder"}
MOST_ENTRIES = 12


def imported_modules(path: Path) -> set[str]:
    """Every module of ours that a file imports, anywhere in it; `from package import module` names the module."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                modules.add(full if is_module(full) else node.module)
    return modules


def is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


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


def file_graph() -> dict[str, set[str]]:
    """Module -> modules of ours that it imports, also inside functions."""
    paths = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    ours = {module_of(path) for path in paths}
    return {module_of(path): (imported_modules(path) & ours) - {module_of(path)} for path in paths}


def folder_graph() -> dict[str, set[str]]:
    """Folder -> folders beside it that its files import from; a folder and one inside it count as one room."""
    folders: dict[str, set[str]] = {}
    packages = {module_of(path.parent / "__init__.py") for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    for module, imports in file_graph().items():
        folder = module if module in packages else module.rpartition(".")[0]
        for other in imports:
            home = other if other in packages else other.rpartition(".")[0]
            if not f"{home}.".startswith(f"{folder}.") and not f"{folder}.".startswith(f"{home}."):
                folders.setdefault(folder, set()).add(home)
    return folders


def circle(graph: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.mark.parametrize("room", ROOMS)
def test_imports_go_one_way(room: str) -> None:
    paths = sorted((ROOT / room).rglob("*.py"))
    assert paths
    assert [fault for path in paths for fault in violations(room, path)] == []


def test_no_circle_between_files() -> None:
    assert circle(file_graph()) == []


def test_no_circle_between_folders() -> None:
    assert circle(folder_graph()) == []


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) != []


def test_no_folder_shows_more_than_twelve_entries() -> None:
    folders = [folder for room in ROOMS for folder in [ROOT / room, *(ROOT / room).rglob("*")] if folder.is_dir()]
    crowded = {}
    for folder in folders:
        entries = [e.name for e in folder.iterdir() if e.name not in ("__init__.py", "__pycache__")]
        if len(entries) > MOST_ENTRIES:
            crowded[str(folder.relative_to(ROOT))] = len(entries)
    assert crowded == {}


def test_the_check_sees_a_wrong_import(tmp_path: Path) -> None:
    module = tmp_path / "bad.py"
    module.write_text("def f():\n    from evals.charts import line\n    return line\n", encoding="utf-8")
    assert violations("trainer", module) == ["bad.py imports evals.charts"]
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
