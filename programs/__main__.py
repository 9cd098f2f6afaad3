"""`python -m programs COMMAND --flag value`: the command line of this room."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from data.base.cli import run_command
from programs.optimize.config import OptimizeConfig
from programs.profiles.config import ProfileConfig
from programs.queries.config import QueriesConfig
from programs.synthesis.config import PromptsConfig, SynthesizeConfig, TryConfig, VerifyConfig
from programs.synthesis.dataset import DatasetConfig, run_dataset


def _synthesize(config: SynthesizeConfig) -> None:
    # Imported here: the libraries behind the run take seconds to load, which --help should not.
    from programs.preview.forecast import confirm
    from programs.synthesis.run import cancel_batches, synthesize
    from programs.synthesis.summary import synthesis_table

    if config.cancel:
        sys.stdout.write(f"{cancel_batches(config)}\n")
        return
    sys.stdout.write(synthesis_table(synthesize(config, before=confirm)))


def _prompts(config: PromptsConfig) -> None:
    from programs.preview.forecast import run_prompts

    run_prompts(config)


def _try(config: TryConfig) -> None:
    from programs.preview.try_row import try_row

    try_row(config)


def _verify(config: VerifyConfig) -> None:
    _synthesize(config.as_synthesis())


def _optimize(config: OptimizeConfig) -> None:
    from programs.optimize.run import optimize
    from programs.synthesis.summary import optimization_table

    sys.stdout.write(optimization_table(optimize(config)))


def _queries(config: QueriesConfig) -> None:
    from programs.queries.run import run_queries

    run_queries(config)


def _profile(config: ProfileConfig) -> None:
    from programs.profiles.draft import run_profile

    run_profile(config)


COMMANDS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "try": (TryConfig, _try),
    "synthesize": (SynthesizeConfig, _synthesize),
    "verify": (VerifyConfig, _verify),
    "prompts": (PromptsConfig, _prompts),
    "optimize": (OptimizeConfig, _optimize),
    "dataset": (DatasetConfig, run_dataset),
    "profile": (ProfileConfig, _profile),
    "queries": (QueriesConfig, _queries),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    return run_command("programs", COMMANDS, argv)


if __name__ == "__main__":
    sys.exit(main())
