"""Outputs against inputs, files of the user's and folders of other runs: every command refuses and touches nothing."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.base.files import write_json
from data.base.outputs import claim_folder
from data.readers.beir import write_beir
from data.readers.demo import demo_family_set, demo_items
from data.row_files import write_rows
from tests.chaos.promises import promise, run_here

# What each command is asked, without its output, and how that ends; the folder stands for {}.
_FILES = {
    "mine": ("trainer", ".jsonl", "data={}/beir", "split=dev"),
    "convert": ("data", ".jsonl", "input={}/rows.jsonl", "to=flag-embedding"),
    "eval": ("evals", ".json", "model={}/model", "data={}/beir", "split=dev"),
    "report": ("evals", ".html", "run={}/run"),
    "profile": ("programs", ".toml", "data={}/beir", "split=dev", "lm=openai/x"),
    "prompts": ("programs", ".jsonl", "rows={}/mined.jsonl", "max-rows=1"),
    "leakage": ("data", ".jsonl", "rows={}/rows.jsonl", "eval={}/beir", "split=dev"),
}
# Options that name what a command writes, where it is not `out`.
_OUT = {"prompts": "write", "leakage": "log-file"}
_FOLDERS = {
    "train": ("trainer", "rows={}/rows.jsonl", "restart=true"),
    "synthesize": ("programs", "rows={}/mined.jsonl", "lm=recorded:demo"),
    "dataset": ("programs", "run={}/run/other", "licence=cc0-1.0"),
    "ablate": ("evals", "rows={}/rows.jsonl", "test={}/beir"),
    "diagnose": ("evals", "rows={}/rows.jsonl", "model={}/model"),
    "demo": ("evals",),
    "optimize": ("programs", "rows={}/mined.jsonl", "lm=recorded:demo"),
    "compare": ("evals", "rows={}/mined.jsonl", "lms=recorded:demo"),
}
_FOREIGN_FILES = (
    *("own", "link", "hard", "folder", "model/own", "model/new", "run/synthesis/own", "run/synthesis/new", "beir/own"),
)
_FOREIGN_FOLDERS = ("own", "run/synthesis", "model", "own.json", "link-to-own", "own/model")


def owner(folder: Path, commands: Sequence[str] = (*_FILES, *_FOLDERS)) -> dict[str, Any]:
    """Ask each command to write where it must not."""
    lay_out(folder)
    tried: dict[str, int] = {}
    for command in commands:
        if command in _FILES:
            room, suffix, *words = _FILES[command]
            # A log may begin in any folder.
            targets = [f"{n}{suffix}" for n in _FOREIGN_FILES if command != "leakage" or not n.endswith("new")]
        else:
            room, *words = _FOLDERS[command]
            targets = [name for name in _FOREIGN_FOLDERS if (command, name) != ("synthesize", "run/synthesis")]
        for target in targets:
            argv = [command, *(word.format(folder) for word in words), f"{_OUT.get(command, 'out')}={folder / target}"]
            before = _snapshot(folder)
            code, line = run_here(room, argv)
            promise(_snapshot(folder) == before, f"{' '.join(argv)} changed a file that is not its own")
            errors = [part for part in line.splitlines() if part.startswith("error: ")]
            promise(code == 2 and len(errors) == 1, f"{' '.join(argv)} ended with {code}: {line[-300:]!r}")
            promise(
                any(words in line for words in ("choose another", "folder", "is a directory")),
                f"{' '.join(argv)}: {line[-300:]!r}",
            )
            tried[command] = tried.get(command, 0) + 1
    return {"tried": sum(tried.values()), "held": sum(tried.values()), "by_command": tried}


def lay_out(folder: Path) -> None:
    """A corpus, rows, a model, a synthesis run and files of the user's that are named as commands name theirs."""
    write_beir(folder / "beir", demo_family_set("dev"), "dev")
    write_rows(folder / "rows.jsonl", [item.row for item in demo_items()[:4]])
    write_rows(folder / "mined.jsonl", [replace(item.row, negatives=()) for item in demo_items()[:4]])
    synthesis = folder / "run" / "synthesis"
    claim_folder("synthesize", synthesis, ())
    for name in ("store.sqlite", "rows.jsonl", "config.json", "summary.json"):
        (synthesis / name).write_text("{}", encoding="utf-8")
    own = folder / "own"
    for name in ("model/a.txt", "checkpoints/b.txt", "arms/c.txt", "data/d.txt", "diagnostics/diagnostics.json"):
        (own / name).parent.mkdir(parents=True)
        (own / name).write_text("mine", encoding="utf-8")
    for name in (
        "config.json",
        "rows.jsonl",
        "summary.json",
        "leaderboard.md",
        "ablation.json",
        "diagnostics.json",
        "scores.jsonl",
    ):
        write_json(own / name, {})
        write_json(own / "model" / name, {})
    write_json(folder / "model" / "modules.json", {})
    for name in ("config.json", "diagnostics.json", "summary.json"):
        write_json(folder / "model" / name, {})
    for suffix in (".jsonl", ".json", ".html", ".toml"):
        for name in ("own", "model/own", "run/synthesis/own", "beir/own"):
            (folder / f"{name}{suffix}").write_text("mine", encoding="utf-8")
        (folder / f"link{suffix}").symlink_to(folder / "rows.jsonl")
        os.link(folder / "beir" / "corpus.jsonl", folder / f"hard{suffix}")
        (folder / f"folder{suffix}").mkdir()
    (folder / "link-to-own").symlink_to(own)
    other = folder / "run" / "other"
    write_json(other / "config.json", {})
    write_json(other / "summary.json", {"funnel": {}})


def _snapshot(folder: Path) -> dict[str, bytes | str]:
    paths = [path for path in folder.rglob("*") if path.is_symlink() or path.is_file()]
    return {str(path): str(path.readlink()) if path.is_symlink() else path.read_bytes() for path in paths}
