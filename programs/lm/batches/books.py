"""What is out and what came back, kept so that a killed run neither sends a wave twice nor loses one.

A wave is written down before it is sent, and its id at the service as soon as there is one: one that was written down
without an id is looked for at the service by its mark. Answers are written down before anything is done with them.
"""

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from data.base.errors import InputError
from programs.lm.batches.lines import BatchAnswer

_SCHEMA = """
CREATE TABLE IF NOT EXISTS waves (
    mark TEXT PRIMARY KEY, target TEXT NOT NULL, batch_id TEXT, state TEXT NOT NULL, made_at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS requests (mark TEXT NOT NULL, id TEXT NOT NULL, PRIMARY KEY (mark, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS answers (id TEXT PRIMARY KEY, answer TEXT NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wave:
    """One file of requests: `mark` is the hash of its contents, `target` the model that it goes to."""

    mark: str
    target: str
    ids: frozenset[str]
    made_at: float
    batch_id: str | None = None


class WaveBooks:
    """The waves of one run folder, in a file of their own; safe to use from several threads of one process."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._lock = threading.Lock()
        with self._faults():
            self._db = sqlite3.connect(path, isolation_level="IMMEDIATE", check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Release the file."""
        self._db.close()

    def made(self, wave: Wave) -> None:
        """Write down a wave that is about to be sent."""
        with self._transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO waves VALUES (?, ?, NULL, 'made', ?)", (wave.mark, wave.target, wave.made_at)
            )
            self._db.executemany(
                "INSERT OR REPLACE INTO requests VALUES (?, ?)", [(wave.mark, one) for one in wave.ids]
            )

    def sent(self, mark: str, batch_id: str) -> None:
        """Write down the id that the service gave a wave."""
        with self._transaction():
            self._db.execute("UPDATE waves SET batch_id = ?, state = 'sent' WHERE mark = ?", (batch_id, mark))

    def never_sent(self, mark: str) -> None:
        """Forget a wave that never reached the service: its requests go out in another one."""
        with self._transaction():
            self._db.execute("DELETE FROM waves WHERE mark = ?", (mark,))
            self._db.execute("DELETE FROM requests WHERE mark = ?", (mark,))

    def settled(self, mark: str, answers: Iterable[BatchAnswer]) -> None:
        """Keep the answers of a wave that has ended; from then on it is not out any more."""
        with self._transaction():
            self._db.executemany(
                "INSERT OR REPLACE INTO answers VALUES (?, ?)",
                [(answer.id, json.dumps(asdict(answer), ensure_ascii=False)) for answer in answers],
            )
            self._db.execute("UPDATE waves SET state = 'settled' WHERE mark = ?", (mark,))
            self._db.execute("DELETE FROM requests WHERE mark = ?", (mark,))

    def take(self, request_id: str) -> BatchAnswer | None:
        """The answer to a request, kept until it is `used`."""
        with self._faults():
            found = self._db.execute("SELECT answer FROM answers WHERE id = ?", (request_id,)).fetchone()
        return None if found is None else BatchAnswer(**json.loads(found[0]))

    def used(self, request_id: str) -> None:
        """Drop an answer that the run's own store has now, or that is not to be used again."""
        with self._transaction():
            self._db.execute("DELETE FROM answers WHERE id = ?", (request_id,))

    def out(self) -> list[Wave]:
        """The waves that were made and are not settled, oldest first."""
        with self._faults():
            waves = self._db.execute(
                "SELECT mark, target, batch_id, made_at FROM waves WHERE state != 'settled' ORDER BY made_at"
            ).fetchall()
            ids = {
                mark: frozenset(one for (one,) in self._db.execute("SELECT id FROM requests WHERE mark = ?", (mark,)))
                for mark, *_ in waves
            }
        return [
            Wave(mark=mark, target=target, batch_id=batch_id, made_at=made_at, ids=ids[mark])
            for mark, target, batch_id, made_at in waves
        ]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._faults(), self._db:
            yield

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        except sqlite3.Error as error:
            raise InputError(
                f"the books of the batches cannot be used ({error}): is another process working in this run folder, "
                "the disk full, or the folder read-only?",
                file=self.path,
            ) from error
