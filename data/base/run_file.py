"""A run as a TOML file: what a command reads with config=run.toml, and what a run writes to be started again.

Options stand at the top of the file, for every command that has them, or in a section of the command's name, for it
alone:

    out = "runs/model"
    [train]
    rows = "runs/x/rows.jsonl"
"""

import difflib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields
from pathlib import Path
from typing import Any

from data.base.arguments import known_name, nearest, option_types, takes_table
from data.base.errors import InputError
from data.base.files import atomic_writer, read_toml

log = logging.getLogger(__name__)

RUN_FILE = "run.toml"
# So begin the files that are written here; others of that name are the user's.
HEADER = "# starts this run again, or goes on with it:"
# Options that say what becomes of an earlier run: a file that holds them would not go on with its own.
ONCE = {"force", "restart", "overwrite", "again", "cancel"}
# What the command at work makes, and its run as TOML.
_started: ContextVar[tuple[Path, str] | None] = ContextVar("started", default=None)


def read_run_file(kind: type, command: str, file: Path) -> dict[str, list[str]]:
    """The texts that a run file gives to the options of a command, as a command line would.

    A file with sections may hold options at its top that this command lacks: other steps take them. Raises InputError
    that names the file and an unknown option with the nearest one.
    """
    whole = read_toml(file)
    known = option_types(kind)
    # `verify` is a command and an option of it: a table is an option's value where the option takes one.
    values = {name for name, hint in known.items() if takes_table(hint)}
    sections = {name for name, value in whole.items() if isinstance(value, dict) and known_name(values, name) is None}
    if command not in sections and (found := difflib.get_close_matches(command, sections, n=1, cutoff=0.8)):
        raise InputError(f"[{found[0]}]: no such section; the nearest is [{command}]", file=file)
    top = {name: value for name, value in whole.items() if name not in sections}
    if sections:
        top = {name: value for name, value in top.items() if known_name(known, name) is not None}
    try:
        return option_texts(kind, command, [top, whole.get(command, {})])
    except InputError as error:
        raise InputError(error.what, file=file) from None


def option_texts(kind: type, command: str, tables: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The texts that tables of a run file give to the options of a command; of two the later one holds.

    Raises InputError that names an unknown option with the nearest one.
    """
    known, texts = option_types(kind), {}
    for name, value in (item for table in tables for item in table.items()):
        option = known_name(known, name)
        if option is None:
            raise InputError(f"{name}: no such option of `{command}`{nearest(name.replace('_', '-'), known)}")
        texts[option] = [_text(each) for each in value] if isinstance(value, list) else [_text(value)]
    return texts


def _text(value: Any) -> str:
    if isinstance(value, bool | dict):
        return json.dumps(value)
    return str(value)


def as_run_file(kind: type, command: str, saved: Mapping[str, Any]) -> str:
    """The options of a run, as config.json holds them, as a run file."""
    lines = [f"{HEADER} {command} config=THIS_FILE", f"[{command}]"]
    for field in fields(kind):
        value = saved[field.name]
        # Neither can be said on a command line, nor need it be.
        unsaid = value in (None, "") and value == field.default
        if field.name not in ONCE and not unsaid:
            lines.append(f"{field.name.replace('_', '-')} = {_toml('None' if value is None else value)}")
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        value = json.dumps(value)
    # Lists, numbers, switches and strings are written as in JSON, but for one character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


@contextmanager
def started(out: object, text: str) -> Iterator[None]:
    """While the block runs, what makes `out` may save the run's file beside it."""
    token = _started.set((Path(out), text) if isinstance(out, str | Path) else None)
    try:
        yield
    finally:
        _started.reset(token)


def save_run_file(made: Path) -> None:
    """Write the run's file: into `made`, a folder, or beside it, as MADE.run.toml; nothing where a step made it."""
    run = _started.get()
    if run is not None and run[0].resolve() == made.resolve():
        write_run_file(made / RUN_FILE if made.is_dir() else made.with_name(f"{made.name}.{RUN_FILE}"), run[1])


def write_run_file(path: Path, text: str) -> None:
    """Write a file that begins as those of runs do, unless the user has one of that name."""
    if path.is_file() and not path.read_bytes().startswith(HEADER.encode()):
        log.info("%s stays as it is: it is your own", path)
        return
    with atomic_writer(path) as file:
        file.write(text)
