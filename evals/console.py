"""`causalneg COMMAND`: every command of every room, for an installation without a checkout and `just`."""

from collections.abc import Sequence

from data.__main__ import COMMANDS as DATA
from data.base.cli import run_command
from evals.__main__ import COMMANDS as EVALS
from programs.__main__ import COMMANDS as PROGRAMS
from trainer.__main__ import COMMANDS as TRAINER

# `demo` is that of evals, as with `just`.
COMMANDS = {**DATA, **TRAINER, **PROGRAMS, **EVALS}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    return run_command(COMMANDS, argv, recipe="causalneg {}")
