"""What a command may write over: only what the same command made, never its input, nothing in a folder of another.

`.causalneg.json` in a folder says which run the folder belongs to, and which command made which of its other files.
"""

import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from data.base.errors import InputError
from data.base.files import read_json_object, watchers, write_json
from data.base.options import options
from data.base.run_file import save_run_file

MARKER = ".causalneg.json"
# Folders of commands that are at work in this process: the runs that they start write inside them.
_at_work: ContextVar[tuple[Path, ...]] = ContextVar("at_work", default=())


@options
class ForceOption:
    """For commands that write files."""

    force: bool = False
    """Write over a file that is there and that this command did not make (never over what it reads)."""


class Outputs:
    """Checks the files that a command is going to write, and notes of each that it made it, before it takes its name.

    A command that is killed at any instant finds its own files again. `record` is for the end of the command.

    Args:
        command: its name on the command line.
        files: what it will write; None is left out.
        inputs: what it reads: files, folders, or words for data that are no path.
        run: the run folder that it works on, which it may write into.
        force: write over files of the user's, too (never over an input); `flag` is what the command calls it.

    Raises InputError for a file that is an input or lies in one, that another command's run folder holds, that another
    command wrote into `run`, or that is there already and is not as this command left it, or that cannot be written.
    """

    def __init__(
        self,
        command: str,
        files: Iterable[str | Path | None],
        *,
        inputs: Iterable[str | Path | None] = (),
        run: Path | None = None,
        force: bool = False,
        flag: str = "force",
    ):
        self._command = command
        self._files = [Path(file) for file in files if file is not None]
        for file in self._files:
            refuse_inputs(file, inputs)
            _refuse_foreign_folder(file, file.resolve().parents, command, run)
            if file.is_dir():
                raise InputError("is a folder, expected the name of a file to write", file=file)
            # Now, not when the work is done that the file is to hold.
            home = next(folder for folder in file.absolute().parents if folder.exists())
            if not os.access(home, os.W_OK | os.X_OK):
                raise InputError(f"cannot write: {home} takes no files", file=file)
            if self._files.count(file) > 1:
                raise InputError("is the name of two files to write: choose another --out", file=file)
            marker = _marker(file.parent)
            made = _made(marker).get(file.name)
            if run is not None and run.resolve() in file.resolve().parents and _is_there(file):
                by = made.get("by") if isinstance(made, dict) else None
                if file.name in _claimed(marker):
                    by = marker.get("run")
                if by not in (None, command):
                    raise InputError(f"is what `{by}` wrote in {run}: choose another --out", file=file)
            if not force and _is_there(file) and not self._left(file, made):
                raise InputError(
                    f"is there already, and not as `{command}` left it: choose another --out, or {flag}=true to "
                    "replace it",
                    file=file,
                )
            watchers[file.absolute()] = self

    def about_to_name(self, path: Path, written: Path) -> None:
        """Note that this command made `written`, or what it left there before, if it dies here."""
        marker = _marker(path.parent)
        made = _made(marker)
        note: dict[str, Any] = {"by": self._command} | _state(written)
        if self._left(path, made.get(path.name)):
            note["before"] = _state(path)
        write_json(path.parent / MARKER, marker | {"made": made | {path.name: note}})

    def record(self) -> None:
        """Keep beside each file how the command was started."""
        for file in self._files:
            if file.is_file():
                save_run_file(file)

    def _left(self, file: Path, note: Any) -> bool:
        """Whether a file is as this command left it."""
        if not isinstance(note, dict) or note.get("by") != self._command or not _is_there(file):
            return False
        state = _state(file)
        return state in (note.get("before"), {name: note.get(name) for name in state})


def claim_folder(
    command: str,
    folder: Path,
    names: Sequence[str],
    *,
    inputs: Iterable[str | Path | None] = (),
    run: Path | None = None,
    alone: bool = False,
    restart: bool = False,
) -> None:
    """Mark `folder` as the one of a command's run, which writes `names` there.

    `restart` removes those first, if the folder is this command's. Raises InputError as `Outputs` does, and when no run
    of this command has claimed the folder and it holds one of `names`, or with `alone` anything.
    """
    refuse_foreign_folder(folder, command, run)
    paths = [folder / name for name in names]
    for path in paths:
        refuse_inputs(path, inputs)
    marker = _marker(folder)
    if marker.get("run") != command:
        there = list(folder.iterdir()) if alone and folder.is_dir() else paths
        # What is said now may go into a file there (log-file=OUT/...).
        logs = {getattr(handler, "baseFilename", None) for handler in logging.getLogger().handlers}
        if found := [path for path in there if _is_there(path) and str(path.absolute()) not in logs]:
            raise InputError(
                f"is not empty and holds no run of `{command}`: {found[0].name} may be your own; choose another --out",
                file=folder,
            )
        write_json(folder / MARKER, marker | {"run": command, "writes": list(names)})
    elif restart:
        for path in paths:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    save_run_file(folder)


@contextmanager
def at_work_in(folder: Path) -> Iterator[None]:
    """While the block runs, other commands' runs may write inside this one's folder."""
    token = _at_work.set((*_at_work.get(), folder.resolve()))
    try:
        yield
    finally:
        _at_work.reset(token)


def refuse_inputs(path: Path, inputs: Iterable[str | Path | None]) -> None:
    """Raise InputError when an output is one of the inputs, also through links, or one lies inside the other."""
    for given in inputs:
        source = None if given is None else Path(given)
        if source is None or not source.exists():
            continue
        if path.exists() and path.samefile(source):
            raise InputError(f"is the input {given}: choose another --out", file=path)
        if source.resolve() in path.resolve().parents:
            raise InputError(f"lies inside the input {given}: choose another --out", file=path)
        if path.is_dir() and path.resolve() in source.resolve().parents:
            raise InputError(f"holds the input {given}: choose another --out", file=path)


def refuse_foreign_folder(folder: Path, command: str, run: Path | None = None) -> None:
    """Raise InputError when a folder to write into is, or lies in, one of another command's run."""
    _refuse_foreign_folder(folder, (folder.resolve(), *folder.resolve().parents), command, run)


def _refuse_foreign_folder(path: Path, folders: Iterable[Path], command: str, run: Path | None) -> None:
    """Raise InputError when one of the folders, innermost first, is a file or of another command's run, unless this
    command works on it (`run`) or was started by it."""
    allowed = {*_at_work.get(), *(() if run is None else (run.resolve(),))}
    for folder in folders:
        if folder.is_file():
            raise InputError("is a file, expected a folder to write into", file=folder)
        if folder in allowed:
            return
        owner = "a saved model" if (folder / "modules.json").is_file() else _marker(folder).get("run")
        if owner is not None and owner != command:
            what = owner if " " in str(owner) else f"a run of `{owner}`"
            raise InputError(f"lies inside {folder}, which is {what}: choose another --out", file=path)


def _is_there(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def _marker(folder: Path) -> dict[str, Any]:
    return read_json_object(folder / MARKER, missing_ok=True)


def _made(marker: dict[str, Any]) -> dict[str, Any]:
    made = marker.get("made")
    return made if isinstance(made, dict) else {}


def _claimed(marker: dict[str, Any]) -> list[Any]:
    writes = marker.get("writes")
    return writes if isinstance(writes, list) else []


def _state(file: Path) -> dict[str, int]:
    found = file.lstat()
    return {"bytes": found.st_size, "mtime_ns": found.st_mtime_ns}
