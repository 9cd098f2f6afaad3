"""The front door of every room: dataclass configs as sub-commands, users' faults as one line and exit code 2."""

import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import docstring_parser
import tyro

from data.base.errors import InputError

_ASSIGNMENT = re.compile(r"^([a-z][a-z0-9_-]*)=(.*)$", re.DOTALL)


def _as_flag(word: str, known: set[str]) -> str:
    match = _ASSIGNMENT.match(word)
    # A flag's value may hold an equals sign too; only a known name in front of it makes it an assignment.
    if match is None or match[1].replace("-", "_") not in known:
        return word
    name, value = match[1].replace("_", "-"), match[2]
    return {"true": f"--{name}", "false": f"--no-{name}"}.get(value.lower(), f"--{name}={value}")


def run_command(
    room: str, commands: Mapping[str, tuple[type, Callable[[Any], object]]], argv: Sequence[str] | None = None
) -> int:
    """Parse `argv` as COMMAND --flag value (or flag=value, as the justfile passes it), run it, return the exit code.

    `commands` maps a name to its config dataclass and the function that takes the config. InputError, and a ValueError
    that a config raises about its own fields, end as one line on stderr and code 2; Ctrl-C ends with code 130.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0] in commands:
        known = {field.name for field in fields(commands[argv[0]][0])}
        argv = [_as_flag(word, known) for word in argv]
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "httpcore", "LiteLLM", "datasets", "sentence_transformers", "faiss.loader"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    for config_type, _ in commands.values():
        _say_help(config_type)
    try:
        config = tyro.extras.subcommand_cli_from_dict(
            {name: config_type for name, (config_type, _) in commands.items()},
            prog=f"python -m {room}",
            args=argv,
            config=(tyro.conf.OmitArgPrefixes,),
        )
        by_type = dict(commands.values())
        by_type[type(config)](config)
    except InputError as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt:
        return _fail("stopped", 130)
    except BrokenPipeError:
        # Whoever reads the output has seen enough (`| head`); what is still buffered must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0


@cache
def _say_help(config_type: type) -> None:
    """Give each option the docstring of the class that says it last, as one line that help wraps anew."""
    hints = get_type_hints(config_type, include_extras=True)
    for kind in reversed(config_type.__mro__[:-1]):
        for field in docstring_parser.parse_from_object(kind).params:
            words = tyro.conf.arg(help=" ".join((field.description or "").split()))
            config_type.__annotations__[field.arg_name] = Annotated[hints[field.arg_name], words]


def config_dict(config: Any) -> dict[str, Any]:
    """A config dataclass as it is saved in config.json: paths as text, everything else as it is."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(config).items()}


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"error: {message}\n" if code == 2 else f"{message}\n")
    return code


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, width: int | None = None) -> str:
    """Columns aligned left, two spaces apart, one line a row.

    Where that is wider than `width` (None: the terminal's, 80 where there is none), the first cell of a row stands on a
    line of its own, above the others; where these are too wide as well, each has its line, behind its column's name.
    """
    most = width or shutil.get_terminal_size().columns
    lines = _aligned([header, ["-" * n for n in _widths([header, *rows])], *rows])
    if max(map(len, lines)) <= most:
        return "\n".join(lines)
    others = [line[1:] for line in (header, *rows)]
    lines = _aligned([others[0], ["-" * n for n in _widths(others)], *others[1:]])
    if max(map(len, lines)) <= most - 2:
        pairs = zip(rows, lines[2:], strict=True)
        return "\n".join([header[0], *(f"  {line}" for line in lines[:2])] + [f"{r[0]}\n  {line}" for r, line in pairs])
    named = ([(name, cell) for name, cell in zip(header[1:], row[1:], strict=True) if cell] for row in rows)
    return "\n".join("\n  ".join([row[0], *_aligned(cells)]) for row, cells in zip(rows, named, strict=True))


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*lines, strict=True)]


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = _widths(lines)
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
