"""The run folder's store: finished queries, the ledger of every call, and answers of queries that are under way.

SQLite in WAL mode, held by one process at a time; each finished query is one transaction. A process that is killed at
any instant loses at most the calls that were in flight.
"""

import json
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields
from operator import attrgetter
from pathlib import Path
from typing import Self

from data.base.errors import InputError
from data.base.files import read_json_object
from data.records import Row, row_content_id
from programs.lm.faults import PASSING_LOSSES
from programs.lm.usage import Call, RoleUsage
from programs.modules.candidates import Synthesis, synthesis_from_dict, synthesis_to_dict

FORMAT_VERSION = 2
_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE finished (
    row_id TEXT NOT NULL, program TEXT NOT NULL, failure TEXT, finished_at REAL NOT NULL, synthesis TEXT NOT NULL,
    PRIMARY KEY (row_id, program)
) WITHOUT ROWID;
CREATE TABLE calls (
    id INTEGER PRIMARY KEY, row_id TEXT NOT NULL, program TEXT NOT NULL, role TEXT NOT NULL, model TEXT NOT NULL,
    outcome TEXT NOT NULL, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL, cost_usd REAL, seconds REAL NOT NULL, reserved_tokens INTEGER NOT NULL,
    reserved_usd REAL, at REAL NOT NULL
);
CREATE TABLE answers (row_id TEXT NOT NULL, key TEXT NOT NULL, answer TEXT NOT NULL, PRIMARY KEY (row_id, key))
WITHOUT ROWID;
CREATE TABLE said (id INTEGER PRIMARY KEY, line BLOB NOT NULL);
"""
_COLUMNS = ("id", "row_id", "program", *(field.name for field in fields(Call)), "at")
_ADD_CALL = f"INSERT OR REPLACE INTO calls ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"
_call_values = attrgetter(*_COLUMNS[3:-1])
# Failures of a row whose cause may be gone at the next start; any other failure is an outcome.
_PASSING_FAILURES = tuple(f"{step}_{loss}" for step in ("extract", "write") for loss in PASSING_LOSSES)
# The row whose calls are being made in this context: calls are recorded under it.
current_row: ContextVar[str] = ContextVar("current_row", default="")


class RunStore:
    """Open or create the store at `path` for one `program`: the hash of all that shapes the results, which may be set
    later than the store is opened.

    Raises InputError when another process holds it, when its format is not this one, or when it cannot be written.
    """

    def __init__(self, path: Path, *, program: str = ""):
        self.path, self.program = path, program
        self._lock = threading.RLock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Optimisers call from several threads; `_lock` lets in one at a time.
            self._db = sqlite3.connect(path, timeout=0.2, isolation_level="IMMEDIATE", check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            raise InputError(f"cannot open the run store ({error})", file=path) from error
        try:
            self._open()
        except BaseException:
            self._db.close()
            raise

    def _open(self) -> None:
        with self._faults():
            # Before anything is set, which would already change the head of a file that is none of ours.
            self._is_new()
            # The lock is taken by the first write and held until the process ends, however it ends.
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                if self._is_new():
                    for statement in _SCHEMA.split(";"):
                        self._db.execute(statement)
                    self._db.execute("INSERT INTO meta VALUES ('format', ?)", (str(FORMAT_VERSION),))
                # No other process holds this store: what was sent and not settled belongs to one that was killed, and
                # may have been billed.
                self._db.execute("UPDATE calls SET outcome = 'killed' WHERE outcome = 'open'")

    def _is_new(self) -> bool:
        tables = {name for (name,) in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not tables:
            return True
        if "meta" not in tables:
            raise InputError("this SQLite file is not a run store", file=self.path)
        (version,) = self._db.execute("SELECT value FROM meta WHERE name = 'format'").fetchone() or ("unknown",)
        if version != str(FORMAT_VERSION):
            raise InputError(
                f"the store has format {version}, this version writes {FORMAT_VERSION}; use another out folder",
                file=self.path,
            )
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the store to other processes."""
        self._db.close()

    def is_finished(self, row_id: str, *, judged: str | None = None, program: str | None = None) -> bool:
        """Whether this program (or another one) has finished the row, and its verdicts are about the texts `judged`
        (None: about whatever). One that failed because nothing answered is asked again."""
        with self._faults():
            found = self._db.execute(
                "SELECT failure, json_extract(synthesis, '$.judged') FROM finished WHERE row_id = ? AND program = ?",
                (row_id, self.program if program is None else program),
            ).fetchone()
        return found is not None and found[0] not in _PASSING_FAILURES and judged in (None, found[1])

    def num_finished(self, program: str) -> int:
        """How many rows this program has finished in this folder, whatever rows a run has."""
        with self._faults():
            (count,) = self._db.execute("SELECT COUNT(*) FROM finished WHERE program = ?", (program,)).fetchone()
        return int(count)

    def load(self, row_id: str) -> Synthesis | None:
        """The outcome of a finished row."""
        with self._faults():
            found = self._db.execute(
                "SELECT synthesis FROM finished WHERE row_id = ? AND program = ?", (row_id, self.program)
            ).fetchone()
        return None if found is None else synthesis_from_dict(json.loads(found[0]))

    def finish(self, row_id: str, synthesis: Synthesis) -> None:
        """Store a row's outcome and drop the answers that led to it, in one transaction."""
        record = json.dumps(synthesis_to_dict(synthesis), ensure_ascii=False)
        with self._transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO finished VALUES (?, ?, ?, ?, ?)",
                (row_id, self.program, synthesis.failure, time.time(), record),
            )
            self._db.execute("DELETE FROM answers WHERE row_id = ?", (row_id,))

    def find(self, key: str) -> str | None:
        """The answer to this request while its row is under way (also by an earlier, killed process)."""
        with self._faults():
            found = self._db.execute(
                "SELECT answer FROM answers WHERE row_id = ? AND key = ?", (current_row.get(), key)
            ).fetchone()
        return None if found is None else str(found[0])

    def open(self, call: Call) -> int:
        """Add one attempt to the ledger before it is sent; returns its number."""
        with self._transaction():
            return self._add(call, None)

    def record(
        self, call: Call, *, key: str, answer: str | None, opened: int | None = None, line: str | None = None
    ) -> None:
        """Add one attempt to the ledger, in the place of what was `opened`, and keep its answer and its `line` for a
        cassette, in one transaction."""
        with self._transaction():
            number = self._add(call, opened)
            if answer is not None:
                self._db.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", (current_row.get(), key, answer))
            if line is not None:
                # Prompts are most of it, and much alike.
                packed = zlib.compress(line.encode(), 1)
                self._db.execute("INSERT OR REPLACE INTO said (id, line) VALUES (?, ?)", (number, packed))

    def _add(self, call: Call, number: int | None) -> int:
        """Write the call under this number, or under a new one; returns it."""
        values = (number, current_row.get(), self.program, *_call_values(call), time.time())
        return int(self._db.execute(_ADD_CALL, values).lastrowid or 0)

    def said(self, *, whole_folder: bool = False) -> Iterator[str]:
        """This program's answered calls, its probes and its second opinions included, as a cassette has them, in the
        order of the answers; or all of this folder, whose calls may be answered once for each program."""
        with self._faults():
            # A second opinion is asked for as the program `KEY SETTING`.
            for (line,) in self._db.execute(
                "SELECT line FROM said JOIN calls USING (id) "
                "WHERE program IN (?1, '') OR instr(program, ?1 || ' ') = 1 "
                "OR ?2 ORDER BY at, id",
                (self.program, whole_folder),
            ):
                yield zlib.decompress(line).decode()

    def get_note(self, name: str) -> str | None:
        """A fact about the run that was noted before."""
        with self._faults():
            found = self._db.execute("SELECT value FROM meta WHERE name = ?", (f"note:{name}",)).fetchone()
        return None if found is None else str(found[0])

    def set_note(self, name: str, value: str) -> None:
        """Note a fact about the run for its later starts."""
        with self._transaction():
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (f"note:{name}", value))

    def usage(self, *, program: str | None = None, whole_folder: bool = False) -> dict[str, RoleUsage]:
        """What the calls of this program (or of another one) used, by role, over all its runs; or all calls ever made
        in this folder.

        Calls before a program was named (probes) belong to all of them.
        """
        by_role: dict[str, RoleUsage] = {}
        kinds, numbers = ("role", "model", "outcome"), [f.name for f in fields(Call) if f.type is not str]
        # SUM is NULL where every value is: grouping by IS NULL too keeps known and unknown apart.
        with self._faults():
            sums = self._db.execute(
                f"SELECT COUNT(*), {', '.join(kinds)}, {', '.join(f'SUM({name})' for name in numbers)} FROM calls "
                "WHERE program IN (?, '') OR ? GROUP BY role, model, outcome, cost_usd IS NULL, reserved_usd IS NULL",
                (self.program if program is None else program, whole_folder),
            ).fetchall()
        for count, *values in sums:
            total = Call(**dict(zip((*kinds, *numbers), values, strict=True)))
            by_role.setdefault(total.role, RoleUsage()).add(total, times=count)
        return by_role

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        # The connection commits when the block ends, and rolls back when it raises or the disk refuses the commit.
        with self._faults(), self._db:
            yield

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise InputError(
                    "another process is working in this run folder; wait for it or choose another out folder",
                    file=self.path,
                ) from error
            raise InputError(
                f"the run store cannot be used ({error}): is the disk full, or the folder read-only? What is finished "
                "is kept; the same command goes on once it can write again",
                file=self.path,
            ) from error
        except sqlite3.DatabaseError as error:
            raise InputError(f"this is not a usable run store ({error})", file=self.path) from error


def synthesis_folder(run: str | Path) -> Path | None:
    """The folder itself or its part `synthesis`, whichever holds the summary of a synthesis; None if neither does."""
    for folder in (Path(run), Path(run) / "synthesis"):
        if (folder / "summary.json").is_file():
            found = read_json_object(folder / "summary.json")
            if "verifier" in found and ("funnel" in found or "refused" in found):
                return folder
    return None


def finished_key(run: str | Path) -> str:
    """The program whose synthesis in this run folder is finished. Raises InputError when there is none."""
    summary_file = Path(run) / "summary.json"
    program = read_json_object(summary_file).get("program")
    key = program.get("key") if isinstance(program, dict) else None
    if not isinstance(key, str):
        raise InputError("not the summary of a finished synthesis that this version knows", file=summary_file)
    return key


def read_syntheses(run: str | Path, rows: Iterable[Row]) -> dict[str, Synthesis]:
    """What the synthesis in this run folder did with each row, by query id; rows that it never saw are left out.

    Raises InputError when the folder holds no finished synthesis, or another process is working in it.
    """
    key, store_file = finished_key(run), Path(run) / "store.sqlite"
    if not store_file.is_file():
        raise InputError("is missing: refused candidates cannot be shown", file=store_file)
    with RunStore(store_file, program=key) as store:
        found = {row.query_id: store.load(row_content_id(row)) for row in rows}
    return {query_id: synthesis for query_id, synthesis in found.items() if synthesis is not None}
