"""`python -m programs COMMAND --flag value`: the command line of this room."""

import sys
from collections.abc import Sequence

from data.cli import run_command
from programs.config import SynthesizeConfig


def _synthesize(config: SynthesizeConfig) -> None:
    # Imported here: the libraries behind the run take seconds to load, which --help should not.
    from programs.closing import synthesis_table
    from programs.run import synthesize

    sys.stdout.write(synthesis_table(synthesize(config)))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    return run_command("programs", {"synthesize": (SynthesizeConfig, _synthesize)}, argv)


if __name__ == "__main__":
    sys.exit(main())
