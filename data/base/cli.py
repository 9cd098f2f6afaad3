"""The front door of every room: dataclass configs as sub-commands, users' faults as one line and exit code 2."""

import errno
import io
import json
import logging
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, asdict, field, fields, make_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import docstring_parser
import tyro

from data.base.arguments import assigned_texts, from_texts, in_words, is_list, nearest, option_types
from data.base.errors import InputError, NotYetError, shown
from data.base.files import open_bytes
from data.base.options import options
from data.base.run_file import as_run_file, read_run_file, started
from data.base.text import public_address


@options
class CommandOptions:
    """What every command takes."""

    config: Path | None = None
    """TOML file of options, as a run writes it (run.toml); what the command line says holds over it."""

    quiet: bool = False
    """Say warnings and the result alone, no progress."""

    verbose: bool = False
    """Say more."""

    log_file: Path | None = None
    """File that what is said goes to as well, with the time of each line; behind what earlier runs said in it."""


# How a log file begins, which is empty before anything was said.
_LOGGED = re.compile(rb"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ |\Z)")


def _common_names(kind: type) -> set[str]:
    """The options of every command; of the same name as one of its own, a command's own holds."""
    return {option.name for option in fields(CommandOptions)} - option_types(kind).keys()


def run_command(
    commands: Mapping[str, tuple[type, Callable[[Any], object]]],
    argv: Sequence[str] | None = None,
    *,
    recipe: str = "just {}",
) -> int:
    """Parse `argv` as COMMAND name=value or --name value, run it, return the exit code.

    `commands` maps a name to its config dataclass and the function that takes the config; every command takes those of
    CommandOptions, too. InputError ends as one line on stderr and code 2; Ctrl-C ends with code 130. `recipe` is how a
    person calls a command. What a function returns as text is the command to run next (`next_command`): the last line.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    # A stream that was closed before the start (`>&-`) is None.
    sys.stdout = sys.stdout or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until the end
    sys.stderr = sys.stderr or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until the end
    if isinstance(sys.stdout, io.TextIOWrapper):
        # As stderr does: a query in letters that the terminal lacks is no reason to lose the result.
        sys.stdout.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "httpcore", "LiteLLM", "datasets", "sentence_transformers", "faiss.loader", "bm25s"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    log_file = None
    try:
        if {"--help", "-h"} & set(argv):
            _show_help(commands, argv, recipe)
        name = argv[0] if argv else ""
        if name not in commands:
            said = f"{shown(name)}: no such command{nearest(name, commands)}" if name else "expected a command"
            raise InputError(f"{said} ({in_words(list(commands), 'or')})")
        kind, run = commands[name]
        help_command = f"{recipe.format(name)} --help"
        given = assigned_texts([kind, CommandOptions], argv[1:], help_command)
        common = from_texts(
            CommandOptions, {each: given.pop(each) for each in _common_names(kind) & given.keys()}, help_command
        )
        log_file = _start_log(common)
        from_file = {} if common.config is None else read_run_file(kind, name, common.config)
        config: Any = from_texts(kind, {**from_file, **given}, help_command)
        with started(getattr(config, "out", None), as_run_file(kind, name, config_dict(config))):
            try:
                follows = run(config)
            except NotYetError as left:
                follows = sys.stdout.write(f"{left}\n")
        if isinstance(follows, str) and not common.quiet:
            sys.stdout.write(f"next: {recipe.format(follows)}\n")
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
        # Reading and writing make an InputError; what is left is a name that no file can have, and the output itself.
        if error.filename is not None:
            return _fail(f"{shown(str(error.filename))}: {error.strerror}", 2)
        if error.errno not in (errno.ENOSPC, errno.EIO, errno.EFBIG):
            raise
        _drop_output()
        return _fail(f"cannot write: {error.strerror}", 2)
    finally:
        if log_file is not None:
            logging.getLogger().removeHandler(log_file)
            log_file.close()
    return 0


def _start_log(common: CommandOptions) -> logging.Handler | None:
    """Set how much is said; returns the handler that writes the log file, if there is one."""
    if common.quiet or common.verbose:
        for handler in logging.getLogger().handlers:
            handler.setLevel(logging.WARNING if common.quiet else logging.DEBUG)
    if common.verbose:
        # In a wheel the rooms lie below one name.
        above = __name__.removesuffix("data.base.cli")
        rooms = (f"{above}{room}" for room in ("data", "trainer", "programs", "evals"))
        for room in (*rooms, "datasets", "sentence_transformers", "bm25s"):
            logging.getLogger(room).setLevel(logging.DEBUG)
    if common.log_file is None:
        return None
    try:
        common.log_file.parent.mkdir(parents=True, exist_ok=True)
        if common.log_file.exists():
            with open_bytes(common.log_file) as there:
                if not _LOGGED.match(there.read(40)):
                    raise InputError(
                        "--log-file: is there already and is no log file: choose another", file=common.log_file
                    )
        handler = logging.FileHandler(common.log_file, encoding="utf-8")
    except OSError as error:
        raise InputError(f"--log-file: cannot be written: {error.strerror}", file=common.log_file) from None
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)
    return handler


def _drop_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_help(commands: Mapping[str, tuple[type, Callable[[Any], object]]], argv: Sequence[str], recipe: str) -> None:
    name = argv[0] if argv[0] in commands else None
    for kind in [each for each, _ in commands.values()] if name is None else [commands[name][0], CommandOptions]:
        _say_help(kind)
    tyro.extras.subcommand_cli_from_dict(
        {each: _grouped(kind) if each == name else kind for each, (kind, _) in commands.items()},
        prog=recipe.format("").strip(),
        args=[*([] if name is None else [name]), "--help"],
        config=(tyro.conf.OmitArgPrefixes,),
    )


def _grouped(kind: type) -> type:
    """A class for help alone: the options of each class that `kind` inherits from, and every command's, in a group."""
    hints = get_type_hints(CommandOptions, include_extras=True) | get_type_hints(kind, include_extras=True)
    groups: dict[type, list[Any]] = {each: [] for each in (*kind.__mro__[:-1], CommandOptions)}
    common = _common_names(kind)
    for option in (*fields(kind), *(each for each in fields(CommandOptions) if each.name in common)):
        # A class may give an option of another one a default of its own.
        homes = [each for each in groups if option.name in getattr(each, "__dataclass_fields__", {})]
        first = homes[-1] if option.name in common else [each for each in homes if each is not CommandOptions][-1]
        given = {name: getattr(option, name) for name in ("default", "default_factory")}
        default = field(**{name: value for name, value in given.items() if value is not MISSING})
        groups[first].append((option.name, hints[option.name], default))
    shown_as = []
    for each, options_of in groups.items():
        if options_of:
            name = re.sub("(?<=[a-z])(?=[A-Z])", "_", re.sub("(Options|Config)$", "", each.__name__)).lower()
            group = make_dataclass(each.__name__, options_of, kw_only=True)
            group.__doc__ = "" if each is kind else " ".join((each.__doc__ or "").split())
            # help that is given here is not searched for in the source, which takes longer than all the rest
            # `try` names a command, but no field.
            shown_as.append((f"{name}_", Annotated[group, tyro.conf.arg(name=name, help=group.__doc__)]))
    made = make_dataclass(kind.__name__, shown_as, kw_only=True)
    made.__doc__ = kind.__doc__
    return made


@cache
def _say_help(config_type: type) -> None:
    """Give each option the docstring of the class that says it last, as one line that help wraps anew."""
    hints = get_type_hints(config_type, include_extras=True)
    for kind in reversed(config_type.__mro__[:-1]):
        for param in docstring_parser.parse_from_object(kind).params:
            hint = hints[param.arg_name]
            words = tyro.conf.arg(
                help=" ".join((param.description or "").split()), metavar="A,B,..." if is_list(hint) else None
            )
            config_type.__annotations__[param.arg_name] = Annotated[hint, words]


def next_command(command: str, **options: object) -> str:
    """What a command's function returns for its last line: the command that follows, without the recipe that calls it.

    Options that are None are left out; a word in capitals is for the reader to fill in.
    """
    words = [f"{n.replace('_', '-')}={_word(value)}" for n, value in options.items() if value is not None]
    return " ".join([command, *map(shlex.quote, words)])


def _word(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return json.dumps(value) if isinstance(value, bool | Mapping) else str(value)


def changed_options(config: Any, *kinds: type, but: Collection[str] = ()) -> dict[str, Any]:
    """Those that a command has from these classes and that are not as they are by default, to say them again."""
    every = {option.name: option.default for kind in kinds for option in fields(kind) if option.name not in but}
    return {name: getattr(config, name) for name, default in every.items() if getattr(config, name) != default}


def config_dict(config: Any) -> dict[str, Any]:
    """A config dataclass as it is saved in config.json: paths as text, addresses without what they hold of secrets."""
    found = {name: _plain(value) for name, value in asdict(config).items()}
    return {n: public_address(v) if n.endswith("api_base") and v is not None else v for n, v in found.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def _fail(message: str, code: int) -> int:
    # A value, or a library's words, may be of any length.
    if len(message) > 1000:
        message = f"{message[:600]} ... {message[-300:]}"
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
