"""`just pipeline`: the commands of a file in order; what is done with the same settings and inputs is skipped.

OUT/pipeline.json holds, of each step that was started, a key over its settings and what it read, and, once it has
ended, what it made. A step whose key is another is run again: how far it goes on from what is there, and whether that
may be paid for twice, is the command's own to say.
"""

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import dropwhile
from pathlib import Path
from typing import Any

from data.base.cli import config_dict
from data.base.errors import InputError, NotYetError
from data.base.files import file_checksum, folder_lock, read_json_object, write_json
from data.base.outputs import refuse_foreign_folder
from data.base.run_file import HEADER, ONCE, RUN_FILE, as_run_file, started, write_run_file
from data.base.text import content_id
from evals.pipeline.config import PipelineConfig
from evals.pipeline.plan import READ, STEPS, Commands, Step, check_files, filled, read_plan
from trainer.run.run_folder import FREE

log = logging.getLogger(__name__)
STATE_FILE = "pipeline.json"
# Language models that cost nothing, so that a row may be made anew unasked.
_FREE_OF_CHARGE = ("recorded:", "local:")


def run_pipeline(config: PipelineConfig, commands: Commands) -> dict[str, Path]:
    """Check every step, then run those that are not done; what each has made. Raises InputError that names the step."""
    out, steps = read_plan(config, commands)
    refuse_foreign_folder(out, "pipeline")
    with folder_lock(out):
        state_file = out / STATE_FILE
        state = _read_state(state_file)
        undone = list(dropwhile(lambda step: _is_done(step, steps, state), steps))
        check_files(undone, steps[: len(steps) - len(undone)])
        _save_run_file(out, steps)
        for number, step in enumerate(steps, start=1):
            title = f"{number}/{len(steps)} {step.name}"
            if _is_done(step, steps, state):
                log.info("== %s: skipped, %s is done with these settings", title, step.made)
                continue
            log.info("\n== %s: %s", title, step.made)
            _run(step, steps, state, state_file)
    sys.stdout.write(f"done: {', '.join(step.name for step in steps)}; everything is in {out}/\n")
    return {step.name: step.made for step in steps}


def _is_done(step: Step, steps: Sequence[Step], state: Mapping[str, Any]) -> bool:
    asked_anew = any(getattr(step.config, option, False) for option in ONCE)
    found = state.get(step.name, {})
    made = found.get("key"), found.get("made")
    return not asked_anew and made == (_key(step, steps, state), fingerprint(step.made) or "")


def _run(step: Step, steps: Sequence[Step], state: dict[str, Any], state_file: Path) -> None:
    before, there = state.get(step.name, {}), fingerprint(step.made)
    key, where = _key(step, steps, state), str(step.made.resolve())
    same = before.get("key") == key
    # What was there when this key was first begun with is of an earlier one.
    old = before.get("old") if same else there
    state[step.name] = {"key": key, "old": old, "where": where}
    write_json(state_file, state)
    config = step.config
    # What lies elsewhere was not begun here, and is not thrown away.
    here = before.get("where", where) == where
    if step.name == "train" and before and here and (not same or (old is not None and old == there)):
        config = replace(config, restart=True)
    if hasattr(config, "again"):
        names = ",".join(filter(None, (config.lm, config.verifier_lm, config.lm_fallbacks, config.verifier_fallbacks)))
        if all(name.strip().startswith(_FREE_OF_CHARGE) for name in names.split(",")):
            config = replace(config, again=True)
    try:
        with started(config.out or config.run, as_run_file(step.kind, step.name, config_dict(config))):
            step.run(config)
    except NotYetError:
        raise
    except InputError as error:
        hint = f" (in a pipeline: {step.name}.OPTION=VALUE)" if " --" in str(error) else ""
        raise InputError(f"[{step.name}] {error}{hint}") from error
    made = fingerprint(step.made)
    if made is None:
        raise InputError(f"[{step.name}] has ended without it", file=step.made)
    state[step.name] = {"key": key, "made": made, "where": where}
    write_json(state_file, state)


def _key(step: Step, steps: Sequence[Step], state: Mapping[str, Any]) -> str:
    """Over the settings that decide what a step makes, and the content of what it reads."""
    free = {"out", *ONCE, *(FREE if step.name == "train" else ())}
    settings = {name: value for name, value in config_dict(step.config).items() if name not in free}
    names = [*READ, "profile"]
    read = {name: fingerprint(Path(value)) for name in names if (value := getattr(step.config, name, None)) is not None}
    # Of the run folder: what the steps before it have made there.
    earlier = steps[: steps.index(step)] if getattr(step.config, "run", None) is not None else []
    made = [state.get(each.name, {}).get("made") for each in earlier]
    return content_id(json.dumps([settings, read, made], sort_keys=True))


def fingerprint(path: Path) -> str | None:
    """Of a file its content, of a folder the names, sizes and times of its files, None where nothing is."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return content_id(*(f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files))
    if path.is_file():
        return file_checksum(path, digest_size=8)
    return None


def _save_run_file(out: Path, steps: Sequence[Step]) -> None:
    """All steps with all their options, as a file that starts this pipeline again."""
    tables = []
    for number, step in enumerate(steps):
        table = as_run_file(step.kind, step.name, config_dict(step.config)).partition("\n")[2]
        # What was to have no value, and would be filled in again.
        paths = filled(step.name, out, {each.name: each for each in steps[:number]})
        empty = [option for option in paths if getattr(step.config, option) is None]
        tables.append(table + "".join(f'{option} = "None"\n' for option in empty))
    head = f"{HEADER} pipeline config=THIS_FILE\nout = {json.dumps(str(out))}"
    write_run_file(out / RUN_FILE, "\n\n".join([head, *tables]))


def _read_state(file: Path) -> dict[str, dict[str, Any]]:
    """What earlier starts left. Raises InputError for a file that is something else."""
    state = read_json_object(file, missing_ok=True)
    if set(state) - set(STEPS) or not all(isinstance(each, dict) for each in state.values()):
        raise InputError("is not what `pipeline` writes: choose another --out", file=file)
    return state
