"""Compiled programs: what is saved comes back, what does not fit is named, nothing is executed."""

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pytest

from data.base.errors import InputError
from programs.modules.saved import load_program, program_state, save_program
from programs.modules.signatures import RequirementDraft, Way
from programs.modules.synthesizer import Synthesizer

DRAFT = RequirementDraft(
    kind="entity",
    statement="s",
    evidence="e",
    critical=True,
    ways=[Way(disruption="entity_shift", direction="d")],
)


def compiled() -> Synthesizer:
    program = Synthesizer()
    program.violate.signature = program.violate.signature.with_instructions("Write it well.\nÜmläute, too.")
    program.extract.demos = [
        dspy.Example(augmented=True, relevance="r", query="q", passage="p", information_need="n", requirements=[DRAFT])
    ]
    return program


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_program(compiled(), tmp_path / "mine", {"optimizer": "gepa"})
    return tmp_path / "mine"


def change(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


def rehash(folder: Path) -> None:
    digest = hashlib.sha256((folder / "program.json").read_bytes()).hexdigest()
    change(folder / "manifest.json", lambda manifest: manifest.update(state_sha256=digest))


def test_a_program_comes_back_as_it_was(folder: Path) -> None:
    fresh = Synthesizer()
    name = load_program(folder, fresh)
    assert name.startswith("mine@")
    assert program_state(fresh) == program_state(compiled())
    assert fresh.violate.signature.instructions == "Write it well.\nÜmläute, too."
    adapter = dspy.ChatAdapter()
    assert adapter.format(fresh.extract.signature, fresh.extract.demos, {}) == adapter.format(
        compiled().extract.signature, compiled().extract.demos, {}
    )
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["optimizer"] == "gepa"
    assert manifest["libraries"]["dspy"] == dspy.__version__


def test_no_model_and_no_key_is_saved(tmp_path: Path) -> None:
    program = compiled()
    program.extract.lm = dspy.LM("openai/x", api_key="planted-secret", api_base="http://planted-host")
    save_program(program, tmp_path / "p", {})
    text = "".join(path.read_text() for path in (tmp_path / "p").iterdir())
    assert "planted" not in text


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda m: m.update(format=2), "format 2"),
        (lambda m: m.pop("signatures"), "signatures"),
        (lambda m: m["signatures"].pop("verify"), "no such predictor"),
        (lambda m: m["signatures"].update(judge={}), "signatures.judge"),
        (lambda m: m["signatures"]["verify"]["inputs"].remove("query: str"), "inputs here but not there: query: str"),
        (lambda m: m["signatures"]["violate"]["outputs"].append("mood: str"), "there but not here: mood: str"),
        (lambda m: m["signatures"]["extract"]["inputs"].reverse(), "another order"),
        (lambda m: m["signatures"]["extract"].update(inputs=3), "signatures.extract.inputs.*a list of fields"),
        (lambda m: m.update(libraries=["dspy"]), "'libraries': expected versions by library"),
    ],
)
def test_a_manifest_that_does_not_fit_is_named(
    folder: Path, edit: Callable[[dict[str, Any]], None], words: str
) -> None:
    change(folder / "manifest.json", edit)
    with pytest.raises(InputError, match=words):
        load_program(folder, Synthesizer())


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda s: s.pop("verify"), "'verify'"),
        (lambda s: s["verify"].update(instructions=7), "instructions"),
        (lambda s: s["extract"]["demos"].append({"code": "x"}), "extract.demos"),
        (
            lambda s: s["extract"]["demos"][0].update(requirements=[{"kind": 1}]),
            r"extract.demos\[0\].requirements",
        ),
    ],
)
def test_a_state_that_does_not_fit_is_named(folder: Path, edit: Callable[[dict[str, Any]], None], words: str) -> None:
    change(folder / "program.json", edit)
    with pytest.raises(InputError, match="changed after it was saved"):
        load_program(folder, Synthesizer())
    rehash(folder)
    program = Synthesizer()
    with pytest.raises(InputError, match=words):
        load_program(folder, program)


def test_pickles_and_missing_files_are_refused(folder: Path, tmp_path: Path) -> None:
    bad = tmp_path / "program.pkl"
    bad.write_bytes(pickle.dumps({"x": 1}))
    with pytest.raises(InputError, match="pickles are never loaded"):
        load_program(bad, Synthesizer())
    with pytest.raises(InputError, match=r"manifest\.json"):
        load_program(tmp_path / "absent", Synthesizer())
    (folder / "program.json").write_bytes(pickle.dumps({"x": 1}))
    with pytest.raises(InputError):
        load_program(folder, Synthesizer())


def test_other_versions_are_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    change(folder / "manifest.json", lambda manifest: manifest["libraries"].update(dspy="3.0.0"))
    load_program(folder, Synthesizer())
    assert "compiled with dspy 3.0.0" in caplog.text


def test_a_program_fits_the_kind_of_run_that_it_was_compiled_for(folder: Path) -> None:
    with pytest.raises(InputError, match=r"signatures\.violate.*violations"):
        load_program(folder, Synthesizer(batched=False))
    with pytest.raises(InputError, match=r"signatures\.verify.*passage: str"):
        load_program(folder, Synthesizer(verify="one-by-one"))


SHIPPED = sorted((Path(__file__).parents[3] / "programs" / "compiled").iterdir())


@pytest.mark.parametrize("shipped", SHIPPED, ids=lambda path: path.name)
def test_shipped_programs_load(shipped: Path) -> None:
    program = Synthesizer()
    assert load_program(shipped, program).startswith(f"{shipped.name}@")
    assert any(predictor.demos for predictor in program.predictors())
    manifest = (shipped / "manifest.json").read_text()
    assert "/tmp" not in manifest
    assert json.loads(manifest)["parts"]["generator"]["held_out"] is not None
