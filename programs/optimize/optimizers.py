"""Three optimisers behind one call: same program in, same program out, stopped by the same budget."""

import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, redirect_stdout
from typing import Any, TypeVar

import dspy
from dspy.teleprompt.gepa import InstructionProposer

from data.base.errors import InputError
from programs.feedback.metric import Judge, bool_metric, float_metric, gepa_metric
from programs.lm.budget import Budget
from programs.lm.faults import UNREADABLE, redact
from programs.optimize.config import OptimizeConfig

_Found = TypeVar("_Found")

log = logging.getLogger(__name__)

# A demonstration must at least score this share of the best training example's score.
_DEMO_SHARE = 0.8


def compile_program(
    program: dspy.Module,
    judge: Judge,
    *,
    train: Sequence[dspy.Example],
    dev: Sequence[dspy.Example],
    baseline: Sequence[float],
    reflector: dspy.LM | None,
    budget: Budget,
    config: OptimizeConfig,
) -> dspy.Module:
    """The best program that the chosen optimiser found; when the budget ends or Ctrl-C stops it, the best so far.

    `baseline` holds the uncompiled program's scores on the training examples.
    """
    logging.getLogger("dspy").setLevel(logging.WARNING)
    # The optimisers print to stdout, which is for results.
    with redirect_stdout(sys.stderr), _short_errors(budget):
        if config.optimizer == "gepa":
            assert reflector is not None
            return _gepa(program, judge, train, dev, reflector, budget, config)
        threshold = _DEMO_SHARE * max(baseline)
        if config.optimizer == "mipro":
            return _mipro(program, judge, train, dev, reflector, threshold, config)
        return _bootstrap(program, judge, train, threshold, config)


@contextmanager
def _short_errors(budget: Budget) -> Iterator[None]:
    """DSPy logs the whole example of every failed run: cut that short, and leave out what the budget refuses."""

    def shorten(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        refusal = budget.refusal
        if refusal is not None and refusal in text:
            return False
        record.msg, record.args = redact(text[-300:]), ()
        return True

    logger = logging.getLogger("dspy.utils.parallelizer")
    logger.addFilter(shorten)
    try:
        yield
    finally:
        logger.removeFilter(shorten)


def _gepa(
    program: dspy.Module,
    judge: Judge,
    train: Sequence[dspy.Example],
    dev: Sequence[dspy.Example],
    reflector: dspy.LM,
    budget: Budget,
    config: OptimizeConfig,
) -> dspy.Module:
    optimiser = dspy.GEPA(
        metric=gepa_metric(judge),
        max_metric_calls=config.rollouts,
        reflection_lm=reflector,
        reflection_minibatch_size=min(3, len(train)),
        instruction_proposer=_Proposer(max_chars=6000),
        num_threads=config.concurrency,
        seed=config.seed,
        # gepa's own checkpoint is a pickle; going on works through the store of answers instead.
        log_dir=None,
        gepa_kwargs={"stop_callbacks": [lambda state: not budget.open]},
    )
    return optimiser.compile(program, trainset=list(train), valset=list(dev))


class _Proposer(InstructionProposer):  # type: ignore[misc]
    """DSPy's proposer, except that a reflection that fails proposes no change instead of ending the search."""

    def __call__(
        self, candidate: dict[str, str], reflective_dataset: Any, components_to_update: list[str]
    ) -> dict[str, str]:
        try:
            return dict(super().__call__(candidate, reflective_dataset, components_to_update))
        except (*UNREADABLE, ValueError) as error:
            log.warning("a reflection came to nothing (%s: %.200s)", type(error).__name__, error)
            return {name: candidate[name] for name in components_to_update}


def _mipro(
    program: dspy.Module,
    judge: Judge,
    train: Sequence[dspy.Example],
    dev: Sequence[dspy.Example],
    reflector: dspy.LM | None,
    threshold: float,
    config: OptimizeConfig,
) -> dspy.Module:
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise InputError(
            "mipro needs the package optuna: pip install 'causalneg[optimize]'", field="optimizer"
        ) from error
    kind = dspy.MIPROv2 if reflector is not None else _DemonstrationSearch
    trials = max(2, config.rollouts // max(1, len(dev)) - 1)
    optimiser = kind(
        metric=float_metric(judge),
        prompt_model=reflector or _any_lm(program),
        task_model=_any_lm(program),
        max_bootstrapped_demos=config.demos,
        max_labeled_demos=0,
        auto=None,
        num_candidates=min(6, max(2, trials // 2)),
        num_threads=config.concurrency,
        seed=config.seed + 1,
        track_stats=False,
        metric_threshold=threshold,
        max_errors=len(dev) * 1000,
    )
    return optimiser.compile(
        program,
        trainset=list(train),
        valset=list(dev),
        num_trials=trials,
        minibatch=False,
        # These two would put whole rows and this program's source code into the proposing prompt.
        program_aware_proposer=False,
        data_aware_proposer=False,
    )


class _DemonstrationSearch(dspy.MIPROv2):  # type: ignore[misc]
    """MIPROv2 without a proposing model: the instructions stay, only the demonstrations are searched."""

    def _propose_instructions(self, program: dspy.Module, *args: Any, **kwargs: Any) -> dict[int, list[str]]:
        return {number: [one.signature.instructions] for number, one in enumerate(program.predictors())}


def _bootstrap(
    program: dspy.Module, judge: Judge, train: Sequence[dspy.Example], threshold: float, config: OptimizeConfig
) -> dspy.Module:
    optimiser = dspy.BootstrapFewShot(
        metric=bool_metric(judge, threshold),
        max_bootstrapped_demos=config.demos,
        max_labeled_demos=0,
        max_rounds=1,
        max_errors=len(train) * 1000,
    )
    return optimiser.compile(program, trainset=list(train)[: config.rollouts])


def _any_lm(program: dspy.Module) -> dspy.LM:
    return program.predictors()[0].lm


@contextmanager
def stop_on_interrupt(budget: Budget) -> Iterator[threading.Event]:
    """Turn Ctrl-C into a closed budget: the search ends by itself with the best so far. Yields whether it came."""
    interrupted = threading.Event()

    def stop(number: int, frame: object) -> None:
        interrupted.set()
        budget.close("stopped by Ctrl-C")
        log.info("stopping: calls in flight are settled, then the best so far is saved, if there is one")

    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    before = signal.signal(signal.SIGINT, stop)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def in_background(work: Callable[[], _Found]) -> _Found:
    """Run `work` in a thread of its own, where DSPy leaves Ctrl-C alone; raises what it raised."""
    with ThreadPoolExecutor(1, thread_name_prefix="optimise") as thread:
        found = thread.submit(work)
        while not found.done():
            wait([found], timeout=0.2)
        return found.result()
