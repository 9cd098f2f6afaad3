"""`python -m evals COMMAND --flag value`: the command line of this room."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from data.base.cli import changed_options, next_command, run_command
from evals.ablation.config import AblateConfig, DemoRealConfig
from evals.demo.config import DemoConfig
from evals.diagnostics.config import DiagnoseConfig
from evals.generators.config import CompareConfig, ProbeConfig
from evals.pipeline.config import PipelineConfig
from evals.report.config import ReportConfig
from evals.retrieval.config import EVAL_FILE, EvalConfig
from programs.options import OF_A_RUN, WritingOptions


# The libraries behind a command take seconds to load, which --help should not: each is imported when it runs.
def _eval(config: EvalConfig) -> str | None:
    from evals.retrieval.evaluate import evaluate

    evaluate(config, show=True)
    # Under another name `report` does not find it.
    shown = config.out is not None and config.out.name == EVAL_FILE
    return next_command("report", run=config.out.parent) if shown and config.out else None


def _demo(config: DemoConfig) -> str:
    from evals.demo.run import run_demo

    run_demo(config)
    return next_command("mine", data="DATA", out=config.out.parent / "mine" / "mined.jsonl")


def _diagnose(config: DiagnoseConfig) -> str | None:
    from evals.diagnostics.diagnose import diagnose

    diagnose(config)
    return None if config.run is None else next_command("report", run=config.run)


def _report(config: ReportConfig) -> None:
    from evals.report.page import report

    report(config)


def _ablate(config: AblateConfig) -> str:
    from evals.ablation.ablate import run_ablate

    run_ablate(config)
    return next_command("report", run=config.out)


def _compare(config: CompareConfig) -> str | None:
    from evals.generators.compare import cancel, compare, leaderboard_text, shown

    if config.cancel:
        sys.stdout.write(f"{cancel(config)}\n")
        return None
    result = compare(config)
    sys.stdout.write(leaderboard_text(result))
    best = next(name for name in config.lms if shown(name) == result["board"][0]["model"])
    same = changed_options(config, WritingOptions, but=OF_A_RUN)
    return next_command("synthesize", rows=config.rows, out=config.out.parent / "synthesis", lm=best, **same)


def _pipeline(config: PipelineConfig) -> str | None:
    from evals.pipeline.run import run_pipeline
    from programs.__main__ import COMMANDS as PROGRAMS
    from trainer.__main__ import COMMANDS as TRAINER

    made = run_pipeline(config, {**TRAINER, **PROGRAMS, **COMMANDS})
    if "train" not in made:
        return None
    return next_command("publish", model=made["train"], evaluations=made.get("eval"), hub="ORG/NAME")


def _probe(config: ProbeConfig) -> None:
    from evals.generators.injections import judge_injections

    sys.stdout.write(judge_injections(config).summary())


COMMANDS: dict[str, tuple[type, Callable[[Any], str | None]]] = {
    "eval": (EvalConfig, _eval),
    "demo": (DemoConfig, _demo),
    "ablate": (AblateConfig, _ablate),
    "demo-real": (DemoRealConfig, _ablate),
    "diagnose": (DiagnoseConfig, _diagnose),
    "report": (ReportConfig, _report),
    "compare": (CompareConfig, _compare),
    "probe": (ProbeConfig, _probe),
    "pipeline": (PipelineConfig, _pipeline),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    return run_command(COMMANDS, argv)


if __name__ == "__main__":
    sys.exit(main())
