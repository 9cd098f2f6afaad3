"""Prompt optimisation: split, project the cost, compile the verifier, then the generator, measure on held-out rows."""

import json
import logging
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import dspy

from data.base.cli import config_dict
from data.base.errors import InputError
from data.base.files import write_json
from data.base.outputs import claim_folder
from data.base.text import content_id
from data.readers.demo import demo_items
from data.records import Row, row_content_id
from data.row_files import read_rows
from programs.feedback.labels import labelled_passages, verifier_example
from programs.feedback.metric import synthesis_judge, verifier_judge
from programs.feedback.retriever import EncoderRetriever, Retriever
from programs.feedback.score import Bands, corpus_style
from programs.lm.budget import Budget, BudgetSpentError
from programs.lm.role_lm import RoleLM
from programs.modules.saved import save_program
from programs.modules.synthesizer import Synthesizer, Verifier
from programs.optimize.config import OptimizeConfig
from programs.optimize.optimizers import in_background, stop_on_interrupt
from programs.optimize.part import StageResult, compile_part, freeze_verifier
from programs.optimize.projection import project
from programs.optimize.splits import Split, split_rows
from programs.profiles.profile import CorpusProfile, load_profile, mined_passages, style_pool
from programs.synthesis.roles import Specs, complete_cassette, open_roles, resolve_roles
from programs.synthesis.run import refuse_forgotten_lm
from programs.synthesis.store import RunStore
from programs.synthesis.workers import row_inputs
from trainer.encoder import Encoder

log = logging.getLogger(__name__)

_REFLECTION_LENGTH = 4
# What a manifest repeats of the summary.
_OF_THE_SUMMARY = (
    "optimizer", "retriever", "split", "adapters", "budget", "spent", "ended_early", "parts", "parts_not_compiled"
)  # fmt: skip
WRITTEN = ("program", "store.sqlite", "config.json", "summary.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What the parts of an optimisation share."""

    config: OptimizeConfig
    split: Split
    program: Synthesizer
    lms: Mapping[str, RoleLM]
    budget: Budget
    profile: CorpusProfile


def optimize(config: OptimizeConfig, retriever: Retriever | None = None) -> dict[str, Any]:
    """Run the optimisation that `config` describes; returns what it writes to summary.json.

    `retriever` replaces the one that the config names. Raises InputError for anything a user can mend,
    KeyboardInterrupt when Ctrl-C came before there was anything to keep.
    """
    started = time.monotonic()
    rows = with_gold(islice(read_rows(config.rows), config.max_rows))
    if not rows:
        raise InputError("holds no rows", file=config.rows)
    refuse_forgotten_lm(config.lm, config.rows, rows)
    split = split_rows(rows, dev_share=config.dev_share, held_out_share=config.held_out_share, seed=config.seed)
    profile = load_profile(config.profile)
    if not profile.style:
        pool = style_pool(mined_passages(rows), seed=config.seed)
        profile = replace(profile, pool=pool, shown_of_pool=config.style_passages)
    with ExitStack() as stack:
        budget = Budget(usd=config.budget_usd, tokens=config.budget_tokens)
        specs = resolve_roles(stack, config, budget)
        for reflector in specs.get("reflector", []):
            longer = None if reflector.max_tokens is None else reflector.max_tokens * _REFLECTION_LENGTH
            specs["reflector"] = [replace(reflector, max_tokens=longer)]
        retriever = retriever or EncoderRetriever(Encoder.load(config.retriever))
        program = Synthesizer(
            negatives_per_row=config.negatives_per_row,
            repairs=0,
            batched=config.batched,
            verify=config.verify or "line-up",
            keep_at_least=config.keep_at_least,
        )
        key = content_id(json.dumps([config_dict(config), [row_content_id(row) for row in rows]], sort_keys=True))
        claim_folder("optimize", config.out, WRITTEN, inputs=[config.rows, config.profile, config.retriever])
        store = stack.enter_context(RunStore(config.out / "store.sqlite", program=key))
        budget.add_spent(store.usage(whole_folder=True).values())
        # What is stored is replayed whatever the settings were when it was asked.
        complete_cassette(config, store, whole_folder=True)
        if kept := sum(usage.outcomes["ok"] for usage in store.usage().values()):
            log.info("%s has %d answers of earlier starts, which cost nothing now", config.out, kept)
        write_json(config.out / "config.json", config_dict(config))
        lms, layouts = open_roles(program, specs, config, store=store, budget=budget)
        setting = Setting(config=config, split=split, program=program, lms=lms, budget=budget, profile=profile)
        log.info("rows: %s", ", ".join(f"{name.replace('_', '-')} {size}" for name, size in split.sizes().items()))
        projection = project(config, split, program, specs)
        log.info("%s", projection.sentence(budget))
        with stop_on_interrupt(budget) as interrupted:
            try:
                results, not_compiled = in_background(lambda: compile_parts(setting, retriever))
            except BudgetSpentError:
                if interrupted.is_set():
                    raise KeyboardInterrupt from None
                raise
        if budget.fatal is not None:
            raise budget.fatal
        summary = {
            "split": split.sizes(),
            "retriever": retriever.name,
            "optimizer": config.optimizer,
            "adapters": layouts,
            "parts": {result.name: result.as_dict() for result in results},
            "parts_not_compiled": not_compiled,
            "projected": projection.as_dict(),
            "budget": {"usd": config.budget_usd, "tokens": config.budget_tokens},
            "spent": {"usd": spent_usd(budget, store), "tokens": budget.spent_tokens},
            "usage": {role: usage.as_dict() for role, usage in sorted(store.usage().items())},
            "ended_early": budget.refusal or next(filter(None, (part.search_ended_by for part in results)), None),
            "seconds_this_run": round(time.monotonic() - started, 3),
            "program_folder": str(config.out / "program"),
        }
        save_program(program, config.out / "program", manifest(config, rows, specs, summary))
        write_json(config.out / "summary.json", summary)
        return summary


def compile_parts(setting: Setting, retriever: Retriever) -> tuple[list[StageResult], dict[str, str]]:
    """The verifier first, then the generator with the verifier frozen; `setting.program` ends up compiled.

    Returns the results, and why a part has none. Raises InputError, also for the generator, unless the verifier's
    prompt became another: that is kept, whatever ends the generator's turn.
    """
    config, program = setting.config, setting.program
    results: list[StageResult] = []
    not_compiled: dict[str, str] = {}
    if config.parts in ("verifier", "both"):
        examples = {name: _verifier_examples(setting, rows) for name, rows in setting.split.parts().items()}
        verifier = Verifier(verify=program.verify_by).use(setting.lms["verifier"], program.adapters["verify"])
        result, compiled = compile_part(
            "verifier", verifier, verifier_judge, examples, setting.lms.get("reflector"), setting.budget, config
        )
        program.verify = compiled.verify
        program.verify.lm = setting.lms["verifier"]
        results.append(result)
    if config.parts in ("generator", "both"):
        try:
            results.append(_compile_generator(setting, retriever))
        except InputError as error:
            if all(result.kept_uncompiled for result in results):
                raise
            not_compiled["generator"] = str(error)
    return results, not_compiled


def _compile_generator(setting: Setting, retriever: Retriever) -> StageResult:
    if not setting.budget.open:
        raise BudgetSpentError(str(setting.budget.refusal))
    program, frozen, train = setting.program, freeze_verifier(setting.program), setting.split.train
    examples = {
        name: [dspy.Example(row=row, inputs=row_inputs(row, setting.profile)).with_inputs("inputs") for row in rows]
        for name, rows in setting.split.parts().items()
    }
    texts = [negative.text for row in train for negative in row.of_source("mined")]
    texts += [passage.text for row in train for passage in row.positives]
    judge = synthesis_judge(retriever, Bands(temperature=setting.config.ranking_temperature), corpus_style(texts))
    result, compiled = compile_part(
        "generator", frozen, judge, examples, setting.lms.get("reflector"), setting.budget, setting.config
    )
    program.extract, program.violate = compiled.extract, compiled.violate
    program.extract.lm = program.violate.lm = setting.lms["generator"]
    return result


def spent_usd(budget: Budget, store: RunStore) -> float | None:
    """What all runs in this folder cost; None when nobody has said what a model that was used costs."""
    unknown = any(usage.unpriced_calls for usage in store.usage(whole_folder=True).values())
    return None if unknown else round(budget.spent_usd, 6)


def with_gold(rows: Iterable[Row]) -> list[Row]:
    """Demo rows get the requirements and judged negatives that ship with the demo data; others stay as they are."""
    gold_rows = {row_content_id(item.row): item.row for item in demo_items()}
    found = []
    for row in rows:
        gold = None if row.requirements else gold_rows.get(row_content_id(row))
        if gold is not None:
            judged = tuple(negative for negative in gold.negatives if negative.verdict is not None)
            row = replace(row, requirements=gold.requirements, negatives=row.of_source("mined") + judged)
        found.append(row)
    return found


def manifest(config: OptimizeConfig, rows: list[Row], specs: Specs, summary: dict[str, Any]) -> dict[str, Any]:
    """What a reader of a compiled program must know."""
    return {
        "models": {role: models[0].name for role, models in specs.items()},
        "data_sha": content_id(*(row_content_id(row) for row in rows)),
        "seed": config.seed,
        "profile": config.profile,
        **{name: summary[name] for name in _OF_THE_SUMMARY},
        "python": ".".join(map(str, sys.version_info[:3])),
    }


def _verifier_examples(setting: Setting, rows: Sequence[Row]) -> list[dspy.Example]:
    """What is labelled of each row; the generator extracts the requirements of one that came without."""
    by_row = []
    for row in rows:
        requirements = row.requirements or setting.program.requirements_of(row_inputs(row, setting.profile))
        by_row.append(labelled_passages(replace(row, requirements=requirements)))
    if setting.program.verify_by == "one-by-one":
        by_row = [[label] for labels in by_row for label in labels]
    return [verifier_example(labels, setting.profile.relevance) for labels in by_row if labels]
