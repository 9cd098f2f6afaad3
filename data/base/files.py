"""Writing files so that a reader sees the old one or the whole new one, never half of it."""

import fcntl
import glob
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
import time
import tomllib
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol, cast
from weakref import WeakValueDictionary

from data.base.errors import STRICT, BadRows, InputError

_PACKED = {
    **{b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ": "xz"},
    **{b"PK\x03\x04": "zip", b"\x04\x22\x4d\x18": "lz4", b"7z\xbc\xaf": "7z"},
}
_LONGEST_TOML = 200_000
# The TOML parser's time grows with the cube of a name's parts: an hour for a file of this size.
_DEEP_KEY = re.compile(r"(?:[\"']?[\w-]{1,20}[\"']?[ \t]{0,3}\.[ \t]{0,3}){32}")
# A folder of a writer that is older than this is locked by it, or left over.
_YOUNG_S = 2.0


class Watcher(Protocol):
    """Who keeps account of a file."""

    def about_to_name(self, path: Path, written: Path) -> None:
        """`written` is whole, and takes the name `path` next."""


# By the file's absolute path; a watcher that nobody holds any more watches nothing.
watchers: WeakValueDictionary[Path, Watcher] = WeakValueDictionary()


@contextmanager
def atomic_path(path: str | Path, *, folder: bool = False) -> Iterator[Path]:
    """Give a path beside `path` to write a file (or a folder, which is there already) to.

    It takes its final name, safe on the disk, only when the block ends without an error; else nothing of it stays.
    Raises InputError when it cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        with (
            tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp") as home,
            _locked(Path(home)),
        ):
            new = Path(home) / path.name
            if folder:
                new.mkdir()
            yield new
            for file in [file for file in new.rglob("*") if file.is_file()] if folder else [new]:
                # Some libraries make files private to their owner; results are ordinary files.
                file.chmod(0o666 & ~current_umask())
                with file.open("rb") as written:
                    os.fsync(written.fileno())
            if folder and path.exists():
                path.rename(Path(home) / "old")
            if (watcher := watchers.get(path.absolute())) is not None:
                watcher.about_to_name(path, new)
            new.replace(path)
    except OSError as error:
        raise InputError(f"cannot write: {error.strerror or error}", file=path) from error


def _remove_leftovers(path: Path) -> None:
    """Remove what a killed process left of earlier tries to write `path`: those that nobody holds."""
    for home in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        # One that has just been made is not held yet.
        if time.time() - home.stat().st_mtime > _YOUNG_S:
            with _locked(home) as held:
                if held:
                    shutil.rmtree(home, ignore_errors=True)


@contextmanager
def folder_lock(folder: str | Path) -> Iterator[None]:
    """Hold a run's folder, which is made, until the block or the process ends, however it ends.

    Raises InputError when another process holds it, or when it cannot be made.
    """
    folder = Path(folder)
    is_new = not folder.exists()
    if folder.is_file():
        raise InputError("is a file, expected a folder to write into", file=folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write: {error.strerror or error}", file=folder) from error
    with _locked(folder) as held:
        if not held:
            raise InputError(
                "another process is working in this folder; wait for it or choose another out folder", file=folder
            )
        try:
            yield
        finally:
            if is_new and not any(folder.iterdir()):
                folder.rmdir()


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Lock a folder if nobody else has; says whether. Where the file system knows no locks it counts as held."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        except OSError:
            yield True
        else:
            yield True
    finally:
        os.close(opened)


@contextmanager
def atomic_writer(path: str | Path) -> Iterator[IO[str]]:
    """Open a UTF-8 text file that takes its final name as `atomic_path` says. Raises InputError."""
    with atomic_path(path) as new, new.open("w", encoding="utf-8", newline="\n") as file:
        yield file


def current_umask() -> int:
    """The permission bits that this process takes from new files; the system tells them only by setting them."""
    umask = os.umask(0)
    os.umask(umask)
    return umask


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_writer(path) as file:
        json.dump(value, file, ensure_ascii=False, indent=2)
        file.write("\n")


def open_text(path: str | Path) -> IO[str]:
    """Open a UTF-8 file for reading. Raises InputError when it is missing, a folder or unreadable."""
    return io.TextIOWrapper(open_bytes(path), encoding="utf-8-sig", errors="strict", newline="\n")


def read_toml(path: str | Path) -> dict[str, Any]:
    """What a TOML file holds. Raises InputError, also for one that the parser would take hours over."""
    with open_text(path) as file:
        try:
            text = file.read(_LONGEST_TOML + 1)
            if len(text) > _LONGEST_TOML:
                raise InputError(f"has more than {_LONGEST_TOML} characters", file=path)
            if _DEEP_KEY.search(text):
                raise InputError("has a name of many parts, which nothing that is read here has", file=path)
            return tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"is no TOML: {error}", file=path) from error


def open_bytes(path: str | Path) -> IO[bytes]:
    """Open a file for reading, unpacked if it is gzip or Zstandard.

    Raises InputError when it is missing, no regular file, unreadable or packed in another way.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise InputError("is not a regular file", file=path)
        file = path.open("rb")
        start = file.peek(8)
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror}", file=path) from error
    packed = next((name for magic, name in _PACKED.items() if start.startswith(magic)), None)
    if packed is None:
        return file
    file.close()
    if packed == "gzip":
        return cast(IO[bytes], gzip.open(path))
    if packed == "zstd":
        import pyarrow

        return io.BufferedReader(pyarrow.input_stream(path, compression=packed))
    raise InputError(f"is a {packed} file, which is not read: unpack it first", file=path)


def numbered_lines(path: str | Path, bad_rows: BadRows = STRICT) -> Iterator[tuple[int, str]]:
    """Yield (1-based line, text) of a UTF-8 file. A line that is none is an InputError: raised, or left out."""
    with open_bytes(path) as file, unpacking(path):
        # Decoded line by line: a text file decodes ahead, so that its fault is of some line further on.
        for number, raw in enumerate(file, start=1):
            with bad_rows.catch():
                try:
                    # A byte order mark is no part of the text.
                    text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise InputError(f"not UTF-8 text ({error.reason})", file=path, line=number) from error
                yield number, text


@contextmanager
def unpacking(path: str | Path) -> Iterator[None]:
    """Faults of the disk and of packed files as InputError."""
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"cannot read: {error}", file=path) from error


def read_json_object(path: str | Path, *, missing_ok: bool = False) -> dict[str, Any]:
    """Read one JSON object, with `missing_ok` an empty one where no file is.

    Raises InputError when the file is missing, not JSON, not an object or not text.
    """
    if missing_ok and not Path(path).is_file():
        return {}
    with open_text(path) as file:
        try:
            value = json.load(file)
            # JSON can spell half a character, which nothing later could write.
            json.dumps(value, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            raise InputError(f"not valid JSON ({error})", file=path) from error
    if not isinstance(value, dict):
        raise InputError(f"expected a JSON object, got {type(value).__name__}", file=path)
    return value


def file_checksum(path: Path, digest_size: int = 16) -> str:
    """BLAKE2b of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=digest_size)).hexdigest()
