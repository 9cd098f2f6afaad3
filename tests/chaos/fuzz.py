"""Minutes of damaged input for everything that reads what others wrote (tests/fuzz/targets.py).

Where atheris is installed it drives the inputs by what code they reach, one process a target; otherwise a small
mutator of our own does: bits, bytes, blocks, numbers and pieces of JSON.
"""

import hashlib
import importlib.util
import random
import re
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from tests.chaos.promises import promise
from tests.fakes.fake_process import ROOT
from tests.fuzz.targets import TARGETS, feed, seeds

_PIECES = [
    b"null", b"true", b"1e999", b"-1", b"0", b"99999999999999999999", b"1" * 5000, b'""', b"[]", b"{}", b"NaN", b"\x00",
    b"\xff\xfe", b"\\ud800", b"\\u0000", "e\u0301\u200f🙂".encode(), b'{"a": {"a": {}}}', b"[" * 2000, b"\r\n", b"\t",
    b"../../x", b"\xef\xbb\xbf", b"\n=====\n", b'"',
]  # fmt: skip


def fuzz(folder: Path, *, seconds: float = 600.0, seed: int = 0) -> dict[str, Any]:
    """Feed all targets for `seconds` together; nothing but InputError may come out of them."""
    with_atheris = importlib.util.find_spec("atheris") is not None
    executions: dict[str, int] = {}
    broken: list[str] = []
    for name in TARGETS:
        share = seconds / len(TARGETS)
        done, faults = (_by_coverage if with_atheris else _by_chance)(name, share, seed, folder)
        executions[name] = done
        broken += faults
    total = sum(executions.values())
    promise(not broken, f"{len(broken)} of {total} inputs broke something:\n" + "\n".join(broken))
    return {
        "engine": "atheris" if with_atheris else "own mutator",
        "seconds": seconds,
        "executions": total,
        "executions_by_target": executions,
        "uncaught": 0,
    }


def _by_chance(name: str, seconds: float, seed: int, folder: Path) -> tuple[int, list[str]]:
    rng, pool = random.Random(f"{seed} {name}"), seeds(name)
    until, done = time.monotonic() + seconds, 0
    faults: dict[str, str] = {}
    while time.monotonic() < until:
        raw = mutated(rng.choice(pool), rng)
        done += 1
        try:
            feed(name, raw)
        except Exception as error:  # noqa: BLE001 - any of them is a finding
            where = traceback.extract_tb(error.__traceback__)[-1]
            fault = f"{name}: {type(error).__name__}: {str(error)[:200]} at {Path(where.filename).name}:{where.lineno}"
            faults.setdefault(re.sub(r"\d+", "0", fault)[:120], f"{fault}; input {_kept(name, raw, folder)}")
    return done, list(faults.values())


def mutated(raw: bytes, rng: random.Random) -> bytes:
    """`raw` with one to six random changes."""
    changed = bytearray(raw)
    for _ in range(rng.randint(1, 6)):
        place = rng.randrange(len(changed) + 1)
        kind = rng.randrange(6)
        if kind == 0 and changed:
            changed[place % len(changed)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[place:place] = rng.choice(_PIECES)
        elif kind == 2:
            del changed[place : place + rng.randint(1, 20)]
        elif kind == 3:
            changed[place:place] = changed[place : place + rng.randint(1, 60)]
        elif kind == 4:
            values = list(re.finditer(rb"-?\d+(\.\d+)?|\"[^\"]*\"|true|false|null", bytes(changed)))
            if values:
                value = rng.choice(values)
                changed[value.start() : value.end()] = rng.choice(_PIECES)
        else:
            changed[place:place] = rng.randbytes(rng.randint(1, 8))
    return bytes(changed)


def _kept(name: str, raw: bytes, folder: Path) -> str:
    path = ROOT / "runs" / "chaos" / "fuzz" / f"{name}-{hashlib.sha256(raw).hexdigest()[:12]}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)
    return str(path.relative_to(ROOT))


def _by_coverage(name: str, seconds: float, seed: int, folder: Path) -> tuple[int, list[str]]:
    corpus = folder / name
    corpus.mkdir()
    for number, raw in enumerate(seeds(name)):
        (corpus / str(number)).write_bytes(raw)
    command = [sys.executable, "-m", "tests.fuzz.with_atheris", name, str(corpus), f"-max_total_time={int(seconds)}"]
    ended = subprocess.run(
        [*command, f"-seed={seed + 1}", f"-artifact_prefix={folder}/{name}-", "-max_len=8192"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    done = re.findall(r"Done (\d+) runs|#(\d+)\t", ended.stderr)
    executions = max((int(one or two) for one, two in done), default=0)
    if ended.returncode == 0:
        return executions, []
    inputs = [_kept(name, path.read_bytes(), folder) for path in folder.glob(f"{name}-*")]
    return executions, [f"{name}: {ended.stderr[-1500:]}; inputs {inputs}"]
