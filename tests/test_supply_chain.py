"""What a release brings: locked by hash, at the tested versions, under licences that fit, and nothing at run time."""

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("data", "trainer", "programs", "evals")


@pytest.fixture(scope="module")
def licences() -> ModuleType:
    spec = importlib.util.spec_from_file_location("licences", ROOT / ".ci" / "licences.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_locked_package_has_hashes_and_comes_from_no_named_place() -> None:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    entries = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(entries) > 50
    for entry in entries:
        assert re.match(r"[A-Za-z0-9._-]+==\S+", entry), entry[:80]
        assert "--hash=sha256:" in entry, entry[:80]
    assert "://" not in text


def test_the_lock_holds_all_direct_dependencies_at_the_tested_versions(licences: ModuleType) -> None:
    locked = {normal(name): version for name, version in licences.locked().items()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    direct = [normal(re.split(r"[<>=!\[ ]", each)[0]) for each in project["dependencies"]]
    assert len(direct) == len(set(direct))
    assert set(direct) <= locked.keys(), "just lock"
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    tested = {normal(name): version for name, _, version in (line.partition("==") for line in lines)}
    assert {name: locked[name] for name in locked.keys() & tested.keys()} == {
        name: tested[name] for name in locked.keys() & tested.keys()
    }


def test_the_list_of_licences_is_that_of_the_lock_and_all_of_them_fit(licences: ModuleType) -> None:
    text = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    listed = {
        name: (version, licence) for name, version, licence in re.findall(r"^\| (\S+) \| (\S+) \| (.+) \|$", text, re.M)
    }
    locked = licences.locked()
    elsewhere = set(re.findall(r"\w[\w-]+", text.partition("with this project): ")[2]))
    assert {name for name in locked if name not in listed and name not in elsewhere} == set(), "just lock"
    assert {name: version for name, (version, _) in listed.items() if name != "package"} == {
        name: version for name, version in locked.items() if name in listed
    }
    assert [entry for entry in listed.items() if entry[0] != "package" and not licences.compatible(entry[1][1])] == []


@pytest.mark.parametrize(
    ("expression", "fits"),
    [("MIT", True), ("Apache-2.0 OR GPL-3.0-only", True), ("GPL-3.0-only", False), ("MIT AND AGPL-3.0-only", False),
     ("unknown", False), ("MPL-2.0 AND (Apache-2.0 OR MIT)", True), ("LGPL-3.0-or-later", False)],
)  # fmt: skip
def test_the_check_of_licences_tells_them_apart(licences: ModuleType, expression: str, fits: bool) -> None:
    assert licences.compatible(expression) is fits


def test_nothing_is_installed_at_run_time() -> None:
    forbidden = re.compile(r"pip install[^'\"]*['\"],\s|\"pip\"|'pip'|ensurepip|urlretrieve")
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            # Messages may name the command for a person to run; no code runs it.
            assert forbidden.findall(path.read_text(encoding="utf-8")) == [], path
