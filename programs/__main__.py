"""`python -m programs COMMAND --flag value`: the command line of this room."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from data.base.cli import changed_options, next_command, run_command
from programs.optimize.config import OptimizeConfig
from programs.options import OF_A_RUN, LMOptions, WritingOptions
from programs.profiles.config import ProfileConfig
from programs.queries.config import QueriesConfig
from programs.synthesis.config import PromptsConfig, SynthesizeConfig, TryConfig, VerifyConfig
from programs.synthesis.dataset import DatasetConfig, run_dataset


def _synthesize(config: SynthesizeConfig) -> str | None:
    # Imported here: the libraries behind the run take seconds to load, which --help should not.
    from programs.preview.forecast import confirm
    from programs.synthesis.run import cancel_batches, synthesize
    from programs.synthesis.summary import synthesis_table

    if config.cancel:
        sys.stdout.write(f"{cancel_batches(config)}\n")
        return None
    sys.stdout.write(synthesis_table(synthesize(config, before=confirm)))
    return next_command("train", rows=config.out / "rows.jsonl", out=config.out.parent / "train")


def _prompts(config: PromptsConfig) -> None:
    from programs.preview.forecast import run_prompts

    run_prompts(config)


def _try(config: TryConfig) -> None:
    from programs.preview.try_row import try_row

    try_row(config)


def _verify(config: VerifyConfig) -> str | None:
    return _synthesize(config.as_synthesis())


def _optimize(config: OptimizeConfig) -> str:
    from programs.optimize.run import optimize
    from programs.synthesis.summary import optimization_table

    sys.stdout.write(optimization_table(optimize(config)))
    return next_command(
        "synthesize",
        rows=config.rows,
        out=config.out.parent / "synthesis",
        program=config.out / "program",
        **changed_options(config, WritingOptions, LMOptions, but=OF_A_RUN),
    )


def _queries(config: QueriesConfig) -> str:
    from programs.queries.run import run_queries

    run_queries(config)
    # Not into the folder, which is that of another command's run and what `mine` reads.
    return next_command("mine", data=config.out, out=config.out.parent / "mined.jsonl")


def _profile(config: ProfileConfig) -> str:
    from programs.profiles.draft import run_profile

    run_profile(config)
    return next_command("synthesize", rows="ROWS", profile=config.out, **changed_options(config, LMOptions))


COMMANDS: dict[str, tuple[type, Callable[[Any], str | None]]] = {
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
    return run_command(COMMANDS, argv)


if __name__ == "__main__":
    sys.exit(main())
