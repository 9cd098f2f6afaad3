"""The synthesis run: stream rows, synthesise what the store does not have yet, write the enriched rows."""

import asyncio
import json
import logging
import random
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import dspy

from data.errors import InputError
from data.files import open_text, write_json
from data.jsonl import read_rows
from data.records import Row
from data.text import content_id
from programs.budget import Budget, BudgetSpentError
from programs.compiled import load_program
from programs.conclude import UNCOMPILED, ProgramName, conclude, refuse_unusable
from programs.config import AdapterName, SynthesizeConfig
from programs.lms import ModelSpec
from programs.models import Models
from programs.pacing import CallLimit
from programs.profile import CorpusProfile, load_profile
from programs.role_lm import RoleLM
from programs.store import RunStore
from programs.synthesizer import Synthesizer
from programs.worker import SynthesisWork

log = logging.getLogger(__name__)

# Style passages are drawn from the first rows only, so that a file of any size starts at once.
_STYLE_ROWS = 200
_STYLE_CHARS = 800


def synthesize(config: SynthesizeConfig) -> dict[str, Any]:
    """Run the synthesis that `config` describes; returns what it writes to summary.json.

    Raises InputError for anything a user can mend, KeyboardInterrupt after Ctrl-C; both leave a store to go on from.
    """
    started = time.monotonic()
    total = count_rows(config)
    profile = load_profile(config.profile)
    if not profile.style:
        profile = replace(profile, style=mined_style(read_input(config), count=config.style_passages, seed=config.seed))
    with ExitStack() as stack:
        resolver = Models(
            stack, max_tokens=config.max_tokens, timeout_s=config.timeout_s, api_key_env=config.api_key_env
        )
        generator, verifier = resolve_roles(resolver, config)
        program = Synthesizer(
            negatives_per_row=config.negatives_per_row,
            repairs=config.repairs,
            malformed_retries=config.malformed_retries,
        )
        name = UNCOMPILED if config.program is None else load_program(config.program, program)
        budget = Budget(usd=config.budget_usd, tokens=config.budget_tokens)
        budget.check_priced(generator, "lm")
        budget.check_priced(verifier, "verifier-lm" if config.verifier_lm else "lm")
        key = work_key(program, profile, generator, verifier, config)
        store = stack.enter_context(RunStore(config.out / "store.sqlite", program=key))
        write_json(config.out / "config.json", {k: _plain(v) for k, v in asdict(config).items()})
        for usage in store.usage().values():
            budget.add_spent(tokens=usage.prompt_tokens + usage.completion_tokens, usd=usage.cost_usd)
        limits = [CallLimit(config.concurrency)]
        if verifier.model != generator.model:
            limits.append(CallLimit(config.concurrency))
        adapter = make_adapter(config.adapter)
        program.use(
            generator=RoleLM("generator", generator, config.retries, limits[0], store, config.seed, budget),
            verifier=RoleLM("verifier", verifier, config.retries, limits[-1], store, config.seed + 1, budget),
            generator_adapter=adapter,
            verifier_adapter=adapter,
        )
        work = SynthesisWork(program, profile, config, store, limits)
        try:
            live = asyncio.run(work.run(read_input(config), total))
        except BudgetSpentError as spent:
            raise InputError(f"{spent}; finished rows are kept: a larger budget on the same command goes on") from None
        if work.stopped:
            log.info(
                "stopped: %d rows finished in this run, %d calls in flight were given up; run the same command again "
                "to go on",
                live.rows,
                work.cancelled_calls,
            )
            raise KeyboardInterrupt
        seconds = time.monotonic() - started
        if work.verifier_condemned:
            raise refuse_unusable(config, live.calibration(config.max_miss_rate), store, seconds)
        named = ProgramName(name=name, key=key)
        return conclude(config, read_input(config), store, named, seconds, lowest_limit=int(limits[0].lowest))


def resolve_roles(resolver: Models, config: SynthesizeConfig) -> tuple[ModelSpec, ModelSpec]:
    """The checked models of the generator and the verifier."""
    generator = resolver.resolve(config.lm, flag="lm", temperature=config.temperature, api_base=config.api_base)
    if config.verifier_lm is None:
        name, flag, api_base = config.lm, "lm", config.verifier_api_base or config.api_base
    else:
        name, flag, api_base = config.verifier_lm, "verifier-lm", config.verifier_api_base
    return generator, resolver.resolve(name, flag=flag, temperature=0.0, api_base=api_base)


def read_input(config: SynthesizeConfig) -> Iterator[Row]:
    """Stream the rows of this run."""
    return islice(read_rows(config.rows), config.max_rows)


def count_rows(config: SynthesizeConfig) -> int:
    """How many rows the run has, for the progress bar. Raises InputError when there are none."""
    with open_text(config.rows) as file:
        count = sum(1 for line in islice(_lines(file, config.rows), config.max_rows) if line.strip())
    if count == 0:
        raise InputError("holds no rows", file=config.rows)
    return count


def _lines(file: Iterable[str], path: Path) -> Iterator[str]:
    try:
        yield from file
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 text ({error.reason})", file=path) from error


def mined_style(rows: Iterator[Row], *, count: int, seed: int) -> tuple[str, ...]:
    """A seeded choice of mined passages of the first rows: one for the whole run, so that prompts share a prefix."""
    texts = sorted({negative.text for row in islice(rows, _STYLE_ROWS) for negative in row.of_source("mined")})
    chosen = random.Random(seed).sample(texts, min(count, len(texts)))
    return tuple(text[:_STYLE_CHARS] for text in chosen)


def make_adapter(name: AdapterName) -> dspy.Adapter:
    """The DSPy adapter with this layout; none of them falls back to another one by itself."""
    if name == "json":
        return dspy.JSONAdapter()
    if name == "xml":
        return dspy.XMLAdapter(use_json_adapter_fallback=False)
    return dspy.ChatAdapter(use_json_adapter_fallback=False)


def work_key(
    program: Synthesizer, profile: CorpusProfile, generator: ModelSpec, verifier: ModelSpec, config: SynthesizeConfig
) -> str:
    """The hash of all that shapes a row's outcome: finished work counts only for the same key."""
    predictors = {
        name: {"signature": predictor.signature.dump_state(), "demos": predictor.dump_state()["demos"]}
        for name, predictor in program.named_predictors()
    }
    roles = [(spec.name, spec.temperature, spec.max_tokens) for spec in (generator, verifier)]
    options = [
        config.adapter,
        config.negatives_per_row,
        config.repairs,
        config.malformed_retries,
        config.canary_share,
        config.seed,
    ]
    return content_id(json.dumps([predictors, roles, options, profile.relevance, profile.style], sort_keys=True))


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
