"""`python -m evals COMMAND --flag value`: the command line of this room."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from data.base.cli import run_command
from evals.ablation.config import AblateConfig
from evals.demo.config import DemoConfig
from evals.diagnostics.config import DiagnoseConfig
from evals.generators.config import CompareConfig, ProbeConfig
from evals.pipeline.config import PipelineConfig
from evals.report.config import ReportConfig
from evals.retrieval.config import EvalConfig


# The libraries behind a command take seconds to load, which --help should not: each is imported when it runs.
def _eval(config: EvalConfig) -> None:
    from evals.retrieval.evaluate import evaluate

    evaluate(config, show=True)


def _demo(config: DemoConfig) -> None:
    from evals.demo.run import run_demo

    run_demo(config)


def _diagnose(config: DiagnoseConfig) -> None:
    from evals.diagnostics.diagnose import diagnose

    diagnose(config)


def _report(config: ReportConfig) -> None:
    from evals.report.page import report

    report(config)


def _ablate(config: AblateConfig) -> None:
    from evals.ablation.ablate import run_ablate

    run_ablate(config)


def _compare(config: CompareConfig) -> None:
    from evals.generators.compare import cancel, compare, leaderboard_text

    if config.cancel:
        sys.stdout.write(f"{cancel(config)}\n")
        return
    sys.stdout.write(leaderboard_text(compare(config)))


def _pipeline(config: PipelineConfig) -> None:
    from evals.pipeline.run import run_pipeline
    from programs.__main__ import COMMANDS as PROGRAMS
    from trainer.__main__ import COMMANDS as TRAINER

    run_pipeline(config, {**TRAINER, **PROGRAMS, **COMMANDS})


def _probe(config: ProbeConfig) -> None:
    from evals.generators.injections import judge_injections

    sys.stdout.write(judge_injections(config).summary())


COMMANDS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "eval": (EvalConfig, _eval),
    "demo": (DemoConfig, _demo),
    "ablate": (AblateConfig, _ablate),
    "diagnose": (DiagnoseConfig, _diagnose),
    "report": (ReportConfig, _report),
    "compare": (CompareConfig, _compare),
    "probe": (ProbeConfig, _probe),
    "pipeline": (PipelineConfig, _pipeline),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    return run_command("evals", COMMANDS, argv)


if __name__ == "__main__":
    sys.exit(main())
