"""Every command with every kind of bad value, made from the option tables: one clear line, code 2, nothing made."""

import contextlib
import importlib
import logging
import os
import signal
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from types import FrameType
from typing import Any, get_args

from data.base.arguments import is_list, option_types
from data.base.options import Bound
from tests.chaos.owner import lay_out
from tests.chaos.promises import promise, run_here

ROOMS = ("data", "trainer", "programs", "evals")
# So long a command may take to refuse what it was given.
PATIENCE_S = 20
SHARE_THAT_HOLDS = 0.99
# What commands want beside files.
_WORDS = {"lm": "openai/none", "lms": "openai/none", "licence": "cc0-1.0"}
# Imported before the clock runs; an import that is broken off stays broken.
_SLOW_TO_IMPORT = (
    *("transformers.models.bert.modeling_bert", "trainer.loop", "trainer.mining.mine", "programs.optimize.run"),
    *("evals.ablation.ablate", "evals.diagnostics.diagnose", "evals.generators.compare", "evals.retrieval.evaluate"),
)
# Files that exist and are none of what a command could want.
BAD_FILES = {
    "empty": b"",
    "not-utf8": b"\xff\xfe\x00\x81",
    "not-json": b"{",
    "wrong-type": b"[1, 2]\n",
    "wrong-fields": b'{"a": {"b": []}}\n',
    "deep": b"[" * 100_000,
    "nan": b'{"query": NaN}\n',
    "half-a-character": b'{"query": "\\ud800", "positives": []}\n',
}


def inputs(folder: Path, *, only: str = "") -> dict[str, Any]:
    """Try each bad value of each option of each command whose name contains `only`.

    Raises BrokenPromiseError that lists what was not refused in one line when fewer than 99 in 100 were.
    """
    lay_out(folder)
    for module in _SLOW_TO_IMPORT:
        importlib.import_module(module)
    commands = {
        (room, name): entry
        for room in ROOMS
        for name, entry in importlib.import_module(f"{room}.__main__").COMMANDS.items()
        if only in name
    }
    tried, held, broken = Counter[str](), Counter[str](), list[str]()
    for (room, name), (kind, _) in commands.items():
        for case, words in bad_words(kind, folder):
            fault = refusal_fault(room, [name, *words], named=words[-1])
            tried[name] += 1
            held[name] += fault is None
            if fault is not None:
                broken.append(f"{room} {name} {' '.join(words)[:200]} ({case}): {fault}")
    total, right = sum(tried.values()), sum(held.values())
    lines = "\n".join(broken)
    promise(right >= SHARE_THAT_HOLDS * total, f"{total} tried, {right} held; not refused in one line:\n{lines}")
    return {"tried": total, "held": right, "by_command": {n: f"{held[n]} of {tried[n]}" for n in tried}, "not": broken}


def bad_words(kind: type, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """What is wrong with it, and the words of a command line: one bad value each, beside good enough others."""
    needed = [field.name for field in fields(kind) if field.default is MISSING]
    # Each command has an output of its own: what another one made is refused before anything else is looked at.
    out = f"out-{kind.__name__}" + (".jsonl" if kind.__name__ in ("MineConfig", "ConvertConfig") else "")
    rows = "rows.jsonl" if {"dev", "to", "test", "eval"} & option_types(kind).keys() else "mined.jsonl"
    places = {"rows": rows, "input": rows, "out": out, "run": "run/synthesis", "model": "model"}
    good = {name: str(folder / places.get(name, "beir")) for name in needed}
    good |= {name: value for name, value in _WORDS.items() if name in needed}
    good |= {name: "dev" for name in ("split", "dev_split", "test_split") if name in option_types(kind)}
    if kind.__name__ in ("ProfileConfig", "QueriesConfig"):
        good["lm"] = "openai/none"
    if kind.__name__ == "PipelineConfig":
        good["config"] = str(folder / "pipeline.toml")
        steps = {"mine": {"split": "dev"}, "train": {"dev-split": "dev"}, "eval": {"split": "dev"}}
        tables = (f"[{step}]\n" + "".join(f'{n} = "{v}"\n' for n, v in each.items()) for step, each in steps.items())
        top = f'out = "{folder / out}"\ndata = "{folder / "beir"}"\n'
        (folder / "pipeline.toml").write_text(top + "".join(tables), encoding="utf-8")
    if kind.__name__ == "DiagnoseConfig":
        good |= {name: str(folder / places[name]) for name in ("rows", "out", "model")}
    if kind.__name__ == "PublishConfig":
        good["model"] = str(_model_in_form(folder / "published"))

    def words(name: str, value: str) -> list[str]:
        # A run names what else there is to read.
        others = {n: v for n, v in good.items() if n != name and (name != "run" or n in needed)}
        return [*(f"{n}={v}" for n, v in others.items()), f"{name}={value}"]

    for name, hint in option_types(kind).items():
        alternatives = _leaves(hint)
        bounds = [part for part in _metadata(hint) if isinstance(part, Bound)]
        if int in alternatives or float in alternatives:
            for value in ("x", "1e999x", "0x", "١٢x", "9" * 5000, *([] if is_list(hint) else [""])):
                yield "no number", words(name, value)
            for value in ("-1000000", "nan" if float in alternatives else "-1"):
                if not all(bound.holds(float(value)) for bound in bounds):
                    yield "out of bounds", words(name, value)
        elif bool in alternatives:
            yield "no switch", words(name, "perhaps")
        elif any(get_args(each) and not is_list(hint) for each in alternatives):
            yield "no choice", words(name, "no-such-choice")
        elif name != "extra" and not name.endswith("prompt"):
            if not is_list(hint):
                yield "empty", words(name, "")
            if Path in alternatives or name in ("rows", "data", "dev", "test", "eval", "model", "run", "input"):
                yield from ((what, words(name, str(path))) for what, path in bad_paths(folder, name))
        yield "misspelt", [*words(name, "x")[:-1], f"{name}-x=1"]
    yield "a stray word", ["stray"]


def _model_in_form(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for name in ("config.json", "README.md", "model.safetensors"):
        (folder / name).write_text("{}", encoding="utf-8")
    return folder


def bad_paths(folder: Path, name: str) -> Iterator[tuple[str, Path]]:
    """Paths that no command can use as an input; of outputs those that cannot be made."""
    if name in ("out", "cache", "per_query", "write", "record", "cassette"):
        file = folder / "a-file"
        file.touch()
        yield "beneath a file", file / "x.jsonl"
        return
    yield "absent", folder / "nowhere" / "at all"
    fifo = folder / "fifo.jsonl"
    if not fifo.exists():
        os.mkfifo(fifo)
    yield "a FIFO", fifo
    for what, content in BAD_FILES.items():
        path = folder / f"{what}.jsonl"
        path.write_bytes(content)
        yield what, path
        home = folder / f"folder-{what}"
        home.mkdir(exist_ok=True)
        for part in ("config.json", "summary.json", "rows.jsonl", "store.sqlite", "corpus.jsonl", "queries.jsonl"):
            (home / part).write_bytes(content)
        yield f"a folder of {what} files", home


def refusal_fault(room: str, words: list[str], *, named: str) -> str | None:
    """Why a command does not refuse these words as it should, with a line that names the option or the value of the
    word `named`; None when it does."""
    code, said = ending(room, words)
    if code is None:
        return said
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    if code != 2:
        return f"ends with code {code}"
    if len(lines) != 1 or said.splitlines()[-1:] != lines:
        return f"says {said[-200:]!r}"
    if len(lines[0]) > 1000:
        return f"a line of {len(lines[0])} characters"
    option, _, value = named.partition("=")
    about = [option.replace("_", "-"), *([value.removesuffix("/x.jsonl")] if value else [])]
    return None if any(each in lines[0] for each in about) else f"says of something else: {lines[0][:200]!r}"


def ending(room: str, words: list[str]) -> tuple[int | None, str]:
    """A command's exit code and what it says on stderr; or None, and how else it ends."""
    logging.getLogger().handlers.clear()
    try:
        with patience():
            return run_here(room, words)
    except Late:
        return None, f"still working after {PATIENCE_S} s"
    except SystemExit as end:
        return None, f"ends by itself with {end.code}"
    except BaseException as error:  # noqa: BLE001 - whatever gets out is a traceback for the user
        ours = [f for f in traceback.extract_tb(error.__traceback__) if "/site-packages/" not in f.filename]
        where = [f"{Path(f.filename).name}:{f.lineno}" for f in ours[-2:]]
        return None, f"{type(error).__name__} at {' '.join(where)}: {str(error)[:100]}"


class Late(BaseException):
    """Not an Exception, which a command might take for a fault of its own."""


@contextlib.contextmanager
def patience(seconds: int = PATIENCE_S) -> Iterator[None]:
    def late(number: int, frame: FrameType | None) -> None:
        raise Late

    before: Any = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _leaves(hint: Any) -> list[Any]:
    parts = [part for part in get_args(hint) if part is not Ellipsis]
    if not parts or isinstance(parts[0], str):
        return [hint]
    return [leaf for part in (parts[:1] if hasattr(hint, "__metadata__") else parts) for leaf in _leaves(part)]


def _metadata(hint: Any) -> Iterator[Any]:
    yield from getattr(hint, "__metadata__", ())
    for part in get_args(hint):
        yield from _metadata(part)
