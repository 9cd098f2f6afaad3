"""Compiled programs on disk: the state as JSON (instructions and demonstrations, never code) and a manifest beside it.

A folder holds program.json and manifest.json. Nothing in them is executed; models are injected by the run that loads
them.
"""

import hashlib
import importlib.metadata
import json
import logging
from pathlib import Path
from typing import Any

import dspy
import pydantic
from dspy.adapters.utils import get_annotation_name

from data.base.errors import InputError
from data.base.files import read_json_object, write_json
from data.base.text import content_id
from programs.modules.synthesizer import Synthesizer

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
STATE_FILE, MANIFEST_FILE = "program.json", "manifest.json"
_LIBRARIES = ("dspy", "litellm", "gepa", "optuna", "pydantic")


def library_versions() -> dict[str, str]:
    """The installed versions of what decides how a program runs."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def signature_key(signature: type[dspy.Signature]) -> dict[str, list[str]]:
    """The fields of a signature with their types; instructions and descriptions may differ, these may not."""
    return {
        "inputs": [_field_key(name, field.annotation) for name, field in signature.input_fields.items()],
        "outputs": [_field_key(name, field.annotation) for name, field in signature.output_fields.items()],
    }


def _field_key(name: str, annotation: Any) -> str:
    """Name and type; for a type of several parts also a hash of its JSON schema, which changes with any of them."""
    if annotation in (str, bool, int, float):
        return f"{name}: {annotation.__name__}"
    schema = json.dumps(pydantic.TypeAdapter(annotation).json_schema(), sort_keys=True)
    return f"{name}: {get_annotation_name(annotation)} {content_id(schema)[:8]}"


def program_state(program: Synthesizer) -> dict[str, Any]:
    """Instructions and demonstrations of every sub-predictor, as plain JSON without models or keys."""
    state = {}
    for name in program.signatures:
        predictor = getattr(program, name)
        state[name] = {
            "instructions": predictor.signature.instructions,
            "demos": predictor.dump_state()["demos"],
        }
    plain: dict[str, Any] = json.loads(json.dumps(state))
    return plain


def save_program(program: Synthesizer, folder: Path, manifest: dict[str, Any]) -> None:
    """Write the folder; `manifest` is completed with versions, signatures and the state's hash."""
    state = program_state(program)
    write_json(folder / STATE_FILE, state)
    write_json(
        folder / MANIFEST_FILE,
        {
            "format": FORMAT_VERSION,
            "state_sha256": _sha256(folder / STATE_FILE),
            "program": content_id(json.dumps(state, sort_keys=True)),
            "libraries": library_versions(),
            "signatures": {name: signature_key(signature) for name, signature in program.signatures.items()},
            **manifest,
        },
    )


def load_program(folder: Path, program: Synthesizer) -> str:
    """Put a saved state into `program`; returns how records name it (folder name and hash).

    Raises InputError that says what differs: the format, a signature, a damaged or foreign file. Other library versions
    are logged.
    """
    if folder.suffix in (".pkl", ".pickle") or folder.is_file():
        raise InputError(
            "expected a folder with program.json and manifest.json (pickles are never loaded)", file=folder
        )
    manifest = read_json_object(folder / MANIFEST_FILE)
    if manifest.get("format") != FORMAT_VERSION:
        raise InputError(
            f"the program has format {manifest.get('format')!r}, this version reads {FORMAT_VERSION}",
            file=folder / MANIFEST_FILE,
        )
    _check_signatures(manifest.get("signatures"), program, folder / MANIFEST_FILE)
    libraries = manifest.get("libraries") or {}
    if not isinstance(libraries, dict):
        raise InputError("expected versions by library", file=folder / MANIFEST_FILE, field="libraries")
    state_file = folder / STATE_FILE
    state = read_json_object(state_file)
    if _sha256(state_file) != manifest.get("state_sha256"):
        raise InputError("was changed after it was saved: its hash is not the manifest's", file=state_file)
    for name, signature in program.signatures.items():
        _load_predictor(getattr(program, name), signature, state.get(name), state_file, name)
    versions = library_versions()
    for library, saved in libraries.items():
        if versions.get(library) != saved:
            log.warning("%s was compiled with %s %s; here is %s", folder, library, saved, versions.get(library, "none"))
    return f"{folder.name}@{content_id(json.dumps(state, sort_keys=True))}"


def _load_predictor(
    predictor: dspy.Predict, signature: type[dspy.Signature], state: Any, file: Path, name: str
) -> None:
    if not isinstance(state, dict) or not isinstance(state.get("instructions"), str):
        raise InputError("expected the instructions of this predictor", file=file, field=name)
    demos = state.get("demos")
    known = set(signature.input_fields) | set(signature.output_fields) | {"augmented"}
    if not isinstance(demos, list) or not all(isinstance(demo, dict) and demo.keys() <= known for demo in demos):
        raise InputError("expected demonstrations with the fields of this signature", file=file, field=f"{name}.demos")
    for number, demo in enumerate(demos):
        _check_demo(demo, signature, file, f"{name}.demos[{number}]")
    predictor.signature = signature.with_instructions(state["instructions"])
    predictor.demos = [dspy.Example(**demo) for demo in demos]


def _check_demo(demo: dict[str, Any], signature: type[dspy.Signature], file: Path, where: str) -> None:
    for name, field in signature.fields.items():
        if name not in demo:
            continue
        try:
            pydantic.TypeAdapter(field.annotation).validate_python(demo[name])
        except pydantic.ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise InputError(
                f"is not of the signature's type ({reason})", file=file, field=f"{where}.{name}"
            ) from error


def _check_signatures(saved: Any, program: Synthesizer, file: Path) -> None:
    if not isinstance(saved, dict):
        raise InputError("expected the signatures of the program", file=file, field="signatures")
    for name, signature in program.signatures.items():
        here, there = signature_key(signature), saved.get(name)
        if there == here:
            continue
        if not isinstance(there, dict):
            raise InputError("the saved program has no such predictor", file=file, field=f"signatures.{name}")
        for side in ("inputs", "outputs"):
            ours, theirs = here[side], there.get(side) or []
            if not isinstance(theirs, list):
                raise InputError("expected a list of fields", file=file, field=f"signatures.{name}.{side}")
            missing = [field for field in ours if field not in theirs]
            strange = [field for field in theirs if field not in ours]
            if ours != theirs:
                raise InputError(
                    f"the program was compiled for another signature: {side} here but not there: "
                    f"{', '.join(missing) or 'none'}; there but not here: {', '.join(map(str, strange)) or 'none'}"
                    + ("" if missing or strange else "; they stand in another order"),
                    file=file,
                    field=f"signatures.{name}",
                )
    strangers = sorted(saved.keys() - program.signatures.keys())
    if strangers:
        raise InputError("this version has no such predictor", file=file, field=f"signatures.{strangers[0]}")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
