"""Every file that a command reads, damaged in every way: it is refused or done without, in one line at most."""

import contextlib
import importlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.readers.beir import write_beir
from data.readers.demo import demo_family_set, demo_items
from data.row_files import write_rows
from tests.chaos.inputs import BAD_FILES, ending
from tests.chaos.promises import promise, run_here
from tests.chaos.training import write_tiny_training

# What each command is asked, in a folder that `lay_out_runs` made, and the folders and files that it reads there.
_READS = {
    ("trainer", "train", "rows=rows.jsonl model=tiny out=train device=cpu epochs=2 checkpoint-every=2"): "train",
    ("trainer", "train", "rows=rows.jsonl model=tiny out=new device=cpu epochs=1"): "tiny rows.jsonl",
    ("trainer", "mine", "data=beir split=dev out=new.jsonl model=tiny device=cpu cache=cache"): "beir cache",
    ("trainer", "publish", "model=train/model evaluations=eval.json"): "train/model eval.json",
    ("programs", "synthesize", "rows=mined.jsonl out=synthesis lm=recorded:demo"): "synthesis",
    ("programs", "dataset", "run=synthesis out=new licence=cc0-1.0"): "synthesis",
    ("programs", "prompts", "rows=mined.jsonl profile=profile.toml max-rows=1"): "profile.toml",
    ("evals", "eval", "model=train/model data=beir split=dev device=cpu out=eval.json force=true"): "train/model",
    ("evals", "report", "run=. out=new.html"): "train synthesis eval.json diagnostics",
    ("evals", "diagnose", "run=. out=new device=cpu"): "train/model synthesis",
    ("data", "convert", "input=converted.jsonl source=flag-embedding out=new.jsonl"): (
        "converted.jsonl converted.jsonl.provenance.jsonl"
    ),
}
_WRONG: tuple[Any, ...] = (None, "x", -1, 10**30, float("nan"), True, [], {}, [None], {"../../x": 1}, "../../x")


def damaged(folder: Path, *, only: str = "", every: int = 1) -> dict[str, Any]:
    """Damage each file of each command whose name holds `only`, every so manyth case.

    Raises BrokenPromiseError that lists what was not held in one line when fewer than 99 in 100 were.
    """
    whole = folder / "whole"
    lay_out_runs(whole)
    tried, held, broken = Counter[str](), Counter[str](), list[str]()
    number = 0
    for (room, command, words), read in _READS.items():
        if only not in command:
            continue
        argv = [command, *words.split()]
        with _working_in_a_copy(whole):
            code, said = run_here(room, argv)
            promise(code == 0, f"{command} ends with {code} where nothing is damaged: {said[-300:]}")
        for path in sorted(_files(whole, read.split())):
            for what, damage in _damages(path):
                number += 1
                if number % every:
                    continue
                with _working_in_a_copy(whole):
                    damage(path.relative_to(whole))
                    fault = fault_of(room, argv)
                tried[command] += 1
                held[command] += fault is None
                if fault:
                    broken.append(f"{command}: {path.relative_to(whole)} {what}: {fault}")
    total, right = sum(tried.values()), sum(held.values())
    promise(right >= 0.99 * total, f"{total} tried, {right} held:\n" + "\n".join(broken))
    return {"tried": total, "held": right, "by_command": {n: f"{held[n]} of {tried[n]}" for n in tried}, "not": broken}


@contextlib.contextmanager
def _working_in_a_copy(whole: Path) -> Iterator[None]:
    copy = whole.with_name("damaged")
    shutil.copytree(whole, copy, symlinks=True)
    try:
        with contextlib.chdir(copy):
            yield
    finally:
        shutil.rmtree(copy)


def lay_out_runs(folder: Path) -> None:
    """A corpus, rows, an encoder, a training, a synthesis, an evaluation, diagnostics and a profile."""
    folder.mkdir(parents=True)
    write_tiny_training(folder)
    write_beir(folder / "beir", demo_family_set("dev"), "dev")
    write_rows(folder / "mined.jsonl", [replace(item.row, negatives=()) for item in demo_items()[:4]])
    shutil.copy(Path(importlib.import_module("programs.profiles").__file__ or "").parent / "generic.toml",
                folder / "profile.toml")  # fmt: skip
    with contextlib.chdir(folder):
        for room, words in (
            ("trainer", "train rows=rows.jsonl model=tiny out=train device=cpu epochs=2 checkpoint-every=2"),
            ("programs", "synthesize rows=mined.jsonl out=synthesis lm=recorded:demo"),
            ("trainer", "mine data=beir split=dev out=m.jsonl model=tiny device=cpu cache=cache"),
            ("evals", "eval model=train/model data=beir split=dev device=cpu out=eval.json"),
            ("evals", "diagnose run=synthesis model=train/model out=diagnostics device=cpu"),
            ("data", "convert input=synthesis/rows.jsonl to=flag-embedding out=converted.jsonl"),
        ):
            code, said = run_here(room, words.split())
            promise(code == 0, f"{words} ends with {code}: {said[-300:]}")


def _files(folder: Path, read: list[str]) -> Iterator[Path]:
    for name in read:
        path = folder / name
        yield from (p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def _damages(path: Path) -> Iterator[tuple[str, Any]]:
    content = path.read_bytes()
    for what, bad in BAD_FILES.items():
        yield what, lambda at, bad=bad: at.write_bytes(bad)
    yield "half", lambda at: at.write_bytes(content[: len(content) // 2])
    yield "zeros", lambda at: at.write_bytes(bytes(min(len(content), 10_000)))
    yield "absent", lambda at: at.unlink()
    yield "a folder", lambda at: (at.unlink(), at.mkdir())
    yield "a FIFO", lambda at: (at.unlink(), os.mkfifo(at))
    try:
        value = json.loads(content if path.suffix == ".json" else content.splitlines()[0])
    except (ValueError, IndexError):
        return
    rest = b"" if path.suffix == ".json" else b"\n" + content.partition(b"\n")[2]
    for place in list(_places(value))[:40]:
        for wrong in _WRONG:
            text = json.dumps(_with(value, place, wrong)).encode() + rest
            yield f"{'.'.join(map(str, place))}={wrong!r}", lambda at, text=text: at.write_bytes(text)


def _places(value: Any, depth: int = 0) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for name, each in items:
        yield (name,)
        if depth < 3:
            yield from ((name, *place) for place in _places(each, depth + 1))


def _with(value: Any, place: tuple[Any, ...], wrong: Any) -> Any:
    if not place:
        return wrong
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[place[0]] = _with(copy[place[0]], place[1:], wrong)
    return copy


def fault_of(room: str, words: list[str]) -> str | None:
    """What is wrong with how a command takes damaged input; None when it ends with 0, or with 2 and one line."""
    code, said = ending(room, words)
    if code is None:
        return said
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    if code == 0:
        return None
    if code != 2:
        return f"ends with code {code}"
    return None if len(lines) == 1 and len(lines[0]) < 1000 else f"says {said[-200:]!r}"
