"""The front door of every room: dataclass configs as sub-commands, users' faults as one line and exit code 2."""

import errno
import logging
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import docstring_parser
import tyro

from data.base.arguments import in_words, is_list, nearest, read_arguments
from data.base.errors import InputError, shown
from data.base.text import public_address


def run_command(
    room: str,
    commands: Mapping[str, tuple[type, Callable[[Any], object]]],
    argv: Sequence[str] | None = None,
    *,
    recipe: str = "just {}",
) -> int:
    """Parse `argv` as COMMAND name=value or --name value, run it, return the exit code.

    `commands` maps a name to its config dataclass and the function that takes the config. InputError ends as one line
    on stderr and code 2; Ctrl-C ends with code 130. `recipe` is how a person calls a command.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    # A stream that was closed before the start (`>&-`) is None.
    sys.stdout = sys.stdout or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until the end
    sys.stderr = sys.stderr or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until the end
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "httpcore", "LiteLLM", "datasets", "sentence_transformers", "faiss.loader", "bm25s"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        if {"--help", "-h"} & set(argv):
            _show_help(room, commands, argv)
        name = argv[0] if argv else ""
        if name not in commands:
            said = f"{shown(name)}: no such command{nearest(name, commands)}" if name else "expected a command"
            raise InputError(f"{said} ({in_words(list(commands), 'or')})")
        kind, run = commands[name]
        run(read_arguments(kind, argv[1:], f"{recipe.format(name)} --help"))
        # Here, where a reader who has gone and a disk that is full can still be answered.
        sys.stdout.flush()
    except InputError as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt:
        return _fail("stopped", 130)
    except BrokenPipeError:
        # Whoever reads the output has seen enough (`| head`); what is still buffered must not complain at exit.
        _drop_output()
        return 141
    except OSError as error:
        # Of files, each place makes an InputError; what is left is the output itself.
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EIO, errno.EFBIG):
            raise
        _drop_output()
        return _fail(f"cannot write: {error.strerror}", 2)
    return 0


def _drop_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_help(room: str, commands: Mapping[str, tuple[type, Callable[[Any], object]]], argv: Sequence[str]) -> None:
    for kind, _ in commands.values():
        _say_help(kind)
    tyro.extras.subcommand_cli_from_dict(
        {name: kind for name, (kind, _) in commands.items()},
        prog=f"python -m {room}",
        args=[*(argv[:1] if argv[0] in commands else []), "--help"],
        config=(tyro.conf.OmitArgPrefixes,),
    )


@cache
def _say_help(config_type: type) -> None:
    """Give each option the docstring of the class that says it last, as one line that help wraps anew."""
    hints = get_type_hints(config_type, include_extras=True)
    for kind in reversed(config_type.__mro__[:-1]):
        for field in docstring_parser.parse_from_object(kind).params:
            hint = hints[field.arg_name]
            words = tyro.conf.arg(
                help=" ".join((field.description or "").split()), metavar="A,B,..." if is_list(hint) else None
            )
            config_type.__annotations__[field.arg_name] = Annotated[hint, words]


def config_dict(config: Any) -> dict[str, Any]:
    """A config dataclass as it is saved in config.json: paths as text, addresses without what they hold of secrets."""
    found = {name: _plain(value) for name, value in asdict(config).items()}
    return {n: public_address(v) if n.endswith("api_base") and v is not None else v for n, v in found.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


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
