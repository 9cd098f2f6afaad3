"""The fake model in a process of its own, with its log on disk: for runs that are killed, and for measuring speed."""

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.fakes.fake_model import MIXED_FAULTS, FakeModel, Served

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How the fake answers: after `delay_s`, with a share of mixed faults, refusing more than `max_at_once` calls.

    `faults` takes turns instead, over and over; `key` is its token where it must be a certain one.
    """

    delay_s: float = 0.0
    fault_share: float = 0.0
    stall_s: float = 30.0
    max_at_once: int | None = None
    seed: int = 0
    faults: tuple[str | None, ...] = ()
    echo_key: bool = False
    key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeProcess:
    """A running server: its address, its token and the file in which it logs every request."""

    api_base: str
    token: str
    log_file: Path
    pid: int

    def log(self) -> list[Served]:
        """Every request so far; a line that is being written right now is left out."""
        whole = self.log_file.read_text(encoding="utf-8").rpartition("\n")[0]
        return [Served(**json.loads(line)) for line in whole.splitlines()]

    def num_requests(self) -> int:
        """How many requests came so far."""
        return self.log_file.read_bytes().count(b"\n")


@contextmanager
def fake_process(log_file: Path, behaviour: Behaviour) -> Iterator[FakeProcess]:
    """Run the fake until the block ends; it ends by itself when this process is killed."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.fakes.fake_process"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(json.dumps({"log_file": str(log_file), **asdict(behaviour)}) + "\n")
        child.stdin.flush()
        started = json.loads(child.stdout.readline())
        yield FakeProcess(log_file=log_file, pid=child.pid, **started)
    finally:
        child.stdin.close()
        child.wait(timeout=30)
        child.stdout.close()


class LoggedModel(FakeModel):
    """Writes its log to a file instead of keeping it."""

    def __init__(self, log_file: Path, behaviour: Behaviour):
        rng = random.Random(behaviour.seed)

        def fault(number: int) -> Any:
            if behaviour.faults:
                return behaviour.faults[number % len(behaviour.faults)]
            return rng.choice(MIXED_FAULTS) if rng.random() < behaviour.fault_share else None

        super().__init__(
            fault=fault,
            delay_s=behaviour.delay_s,
            stall_s=behaviour.stall_s,
            max_at_once=behaviour.max_at_once,
            echo_key=behaviour.echo_key,
        )
        self.token = behaviour.key or self.token
        self._file = log_file.open("a", encoding="utf-8", buffering=1)

    def keep(self, served: Served) -> None:
        """Write one request to the log file."""
        self._file.write(json.dumps(asdict(served)) + "\n")


def _main() -> None:
    order = json.loads(sys.stdin.readline())
    log_file = Path(order.pop("log_file"))
    with LoggedModel(log_file, Behaviour(**order)) as server:
        sys.stdout.write(json.dumps({"api_base": server.api_base, "token": server.token}) + "\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    _main()
