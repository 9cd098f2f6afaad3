"""The synthesis run: stream rows, synthesise what the store does not have yet, write the enriched rows."""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from data.base.cli import config_dict
from data.base.errors import InputError, NotYetError
from data.base.files import read_json_object, write_json
from data.base.outputs import claim_folder, refuse_inputs
from data.base.text import in_number
from data.readers.demo import holds_demo_query
from data.records import Row
from data.row_files import count_rows, read_rows
from programs.feedback.hardness import open_scorer
from programs.feedback.score import Bands
from programs.lm.batches.calls import Waves, cancel_waves
from programs.lm.budget import Budget, BudgetSpentError
from programs.lm.pacing import ConcurrencyByPlace
from programs.lm.servers import recorded
from programs.options import AdapterName
from programs.profiles.profile import (
    STYLE_ROWS,
    CorpusProfile,
    load_profile,
    mined_passages,
    style_pool,
    style_texts,
)
from programs.synthesis.agreement import agreement, judged_sample, other_way
from programs.synthesis.config import SynthesizeConfig
from programs.synthesis.roles import (
    Specs,
    build_program,
    complete_cassette,
    known_adapter,
    open_roles,
    resolve_roles,
    work_key,
)
from programs.synthesis.store import RunStore, current_row
from programs.synthesis.summary import finished_so_far, refuse_unusable, usage_summary, write_results
from programs.synthesis.workers import Outcome, RowWork, RowWorkers, rare_collections, run_inline

log = logging.getLogger(__name__)
WRITTEN = ("store.sqlite", "config.json", "rows.jsonl", "summary.json")
# Settings that change nothing about a finished row.
_SHAPES_NOTHING = frozenset(
    {
        *("rows", "out", "max_rows", "again", "accept_unusable_verifier", "max_miss_rate", "budget_usd"),
        *("mined_relevant", "agreement_sample"),
        *("record", "budget_tokens", "concurrency", "retries", "timeout_s", "engine", "ray_actors", "ray_address"),
        *("send", "batch_size", "wait", "cancel", "confirm_above_usd"),
    }
)


class BatchesOutError(NotYetError):
    """The run has ended and its batches go on: the same command fetches what came back."""


def cancel_batches(config: SynthesizeConfig) -> str:
    """Ask for every batch of this run folder that is out to be cancelled; returns what was done, in words."""
    with ExitStack() as stack:
        specs = resolve_roles(stack, config, Budget())
        count = asyncio.run(cancel_waves(config.send, config.out, specs))
    batches = in_number(count, "batch")
    return f"{batches} of {config.out} asked to stop; what was answered before that is still fetched by a later run"


def synthesize(
    config: SynthesizeConfig, *, before: Callable[[SynthesizeConfig, Specs, RunStore, str], None] | None = None
) -> dict[str, Any]:
    """Run the synthesis that `config` describes; returns what it writes to summary.json.

    `before` sees the checked models, the store and the key of this run's rows in it before the first call, and may
    raise InputError to keep it from being made. Raises InputError for anything a user can mend, KeyboardInterrupt after
    Ctrl-C; both leave a store to go on from.
    """
    started = time.monotonic()
    for name in WRITTEN:
        refuse_inputs(config.out / name, [config.rows] if config.rows.is_file() else [])
    total = count_input(config)
    refuse_forgotten_lm(config.lm, config.rows, read_input(config))
    # Reads the first rows: what is wrong with them is said before anything is written.
    mined = mined_passages(mined_rows(config.rows, STYLE_ROWS, generated=config.method == "verify"))
    profile = load_profile(config.profile)
    with ExitStack() as stack:
        budget = Budget(usd=config.budget_usd, tokens=config.budget_tokens)
        specs = resolve_roles(stack, config, budget)
        program, name = build_program(config)
        scorer = None
        if config.retriever is not None:
            bands = Bands(temperature=config.ranking_temperature, margin=config.judge_twice_above)
            program.scorer = scorer = open_scorer(config.retriever, config.hardness, bands)
        claim_folder(
            "verify" if config.method == "verify" else "synthesize",
            config.out,
            WRITTEN,
            inputs=[config.rows, config.profile, config.program],
        )
        store = stack.enter_context(RunStore(config.out / "store.sqlite"))
        if not profile.style:
            profile = replace(profile, pool=folder_pool(config, store, mined), shown_of_pool=config.style_passages)
        budget.add_spent(store.usage(whole_folder=True).values())
        if before is not None:
            # Of a model whose layout is not known nothing is finished.
            known = {
                role: known_adapter(config.adapter, specs[role][0], store, probes=config.send == "calls")
                for role in ("generator", "verifier")
            }
            before(config, specs, store, work_key(program, profile, specs, known, config))
        limits = ConcurrencyByPlace(config.concurrency)
        waves = None
        if config.send != "calls":
            waves = Waves(config.send, config.out, batch_size=config.batch_size, whose=current_row.get, budget=budget)
        _, layouts = open_roles(program, specs, config, store=store, budget=budget, limits=limits, waves=waves)
        store.program = key = work_key(program, profile, specs, layouts, config)
        refuse_unasked_again(config, store)
        complete_cassette(config, store)
        write_json(config.out / "config.json", config_dict(config))
        if "refused" in read_json_object(config.out / "summary.json", missing_ok=True):
            # More rows would be paid for only to find the same again.
            funnel, missed = finished_so_far(config, read_input(config), store)
            if funnel.condemns_verifier(config):
                raise refuse_unusable(config, funnel, missed, store, time.monotonic() - started)
        try:
            if config.engine == "ray":
                # The engine imports what only the extra `ray` installs.
                from programs.synthesis.ray.engine import WorkerSpec, run_on_ray

                # While the cluster works, its ledger holds the store.
                store.close()
                spec = WorkerSpec(config=config, profile=profile, specs=specs, layouts=layouts)
                outcome = run_on_ray(spec, program=key, total=total)
                store = stack.enter_context(RunStore(store.path, program=key))
            else:
                workers = RowWorkers(program, profile, config, store, limits.all(), waves)
                outcome = work_here(workers, specs, read_input(config), total)
            agreed = None
            if config.agreement_sample and not outcome.condemned:
                agreed = _judge_in_the_other_way(config, profile, specs, layouts, store, budget)
        except BudgetSpentError as spent:
            raise InputError(f"{spent}; finished rows are kept: a larger budget on the same command goes on") from None
        seconds = time.monotonic() - started
        if outcome.condemned:
            _, missed = finished_so_far(config, read_input(config), store)
            raise refuse_unusable(config, outcome.funnel, missed, store, seconds)
        return write_results(
            config,
            read_input(config),
            store,
            seconds,
            program=name,
            layouts=layouts,
            total=total,
            lowest_limit=outcome.lowest_limit,
            agreed=agreed,
            scorer=scorer,
        )


def work_here(workers: RowWorkers, specs: Specs, rows: Iterator[Row], total: int) -> Outcome:
    """Work on `rows`, `total` of them, in this process. Raises what `synthesize` does."""

    async def work() -> Outcome:
        async with workers.waves or nullcontext():
            return await workers.run(rows, total)

    with rare_collections():
        outcome = run_inline(work(), specs)
    if workers.stopped and workers.waves is not None and workers.waves.requests_out:
        raise BatchesOutError(workers.waves.left_running())
    if workers.stopped:
        log.info(
            "stopped: %d rows finished in this run, %d calls in flight were given up; run the same command again to go "
            "on",
            outcome.funnel.rows,
            workers.cancelled_calls,
        )
        raise KeyboardInterrupt
    return outcome


def _judge_in_the_other_way(
    config: SynthesizeConfig,
    profile: CorpusProfile,
    specs: Specs,
    layouts: Mapping[str, AdapterName],
    store: RunStore,
    budget: Budget,
) -> dict[str, Any]:
    """Judge a sample of the finished rows as `config` does not; how far the two agree. What is stored of it counts as
    work of another program."""
    sample, key = judged_sample(config, read_input(config), store), store.program
    other = other_way(config)
    program, _ = build_program(other)
    limits = ConcurrencyByPlace(config.concurrency)
    open_roles(program, specs, other, store=store, budget=budget, limits=limits, layouts=layouts)
    store.program = f"{key} {other.verify}"
    try:
        workers = RowWorkers(program, profile, other, store, limits.all())
        if sample:
            work_here(workers, specs, iter([one.row for one in sample]), len(sample))
        pairs = []
        for one in sample:
            again = store.load(RowWork.of(one.row, other).row_id)
            if again is not None:
                found = [*zip(one.verdicts, again.mined, strict=False), (one.canary, again.canary)]
                pairs.append([(a, b) for a, b in found if a is not None and b is not None])
    finally:
        store.program = key
    return agreement(pairs)


def refuse_forgotten_lm(lm: str, file: Path, rows: Iterable[Row]) -> None:
    """Raise InputError when the recorded answers are to be taken for rows of another corpus: no `lm` was named."""
    if lm == recorded.NAME and not holds_demo_query(rows):
        raise InputError(
            f"{lm} has answers for the demo's queries alone, which these rows are not: name a language model, like "
            "lm=openai/gpt-4.1-mini",
            file=file,
            field="lm",
        )


def refuse_unasked_again(config: SynthesizeConfig, store: RunStore) -> None:
    """Raise InputError when rows would be made anew, and paid again, because settings changed, without `again`."""
    worked = store.get_note("key")
    if worked not in (None, store.program) and not config.again:
        anew = sum(store.is_finished(i, program=worked) and not store.is_finished(i) for i in distinct_ids(config))
        if anew:
            spent = usage_summary(store.usage(program=worked), 0)
            raise InputError(
                f"{config.out} has {anew} of these rows with other settings ({_changed(config)}), which took "
                f"{spent['tokens']} tokens (cost: {spent['cost_in_words']}); --again makes them anew and pays again, "
                "another --out keeps both"
            )
    store.set_note("key", store.program)


def _changed(config: SynthesizeConfig) -> str:
    """The settings that differ from those of the last start."""
    file = config.out / "config.json"
    before = read_json_object(file, missing_ok=True)
    now = json.loads(json.dumps(config_dict(config)))
    names = [name for name in now.keys() - _SHAPES_NOTHING if before.get(name, now[name]) != now[name]]
    return ", ".join(f"{name}: {before[name]}, now {now[name]}" for name in sorted(names)) or "prompts or profile"


def read_input(config: SynthesizeConfig) -> Iterator[Row]:
    """Stream the rows of this run."""
    return mined_rows(config.rows, config.max_rows, generated=config.method == "verify")


def distinct_ids(config: SynthesizeConfig) -> dict[str, str]:
    """The ids of what is to be done, each with the name of what is judged of it; copies of a row are done once."""
    found: dict[str, str] = {}
    for row in read_input(config):
        work = RowWork.of(row, config)
        found.setdefault(work.row_id, work.judged)
    return found


def mined_rows(path: Path, max_rows: int | None, *, generated: bool = False) -> Iterator[Row]:
    """Stream the first `max_rows` rows. Unless `generated` says that they may have some, raises InputError at one with
    generated negatives: their verdicts are about the requirements that it has, which a synthesis replaces, and they
    would be counted as its own."""
    for row in islice(read_rows(path), max_rows):
        if row.of_source("generated") and not generated:
            raise InputError(
                f"query {row.query_id!r} already has generated negatives: expected rows as `just mine` writes them",
                file=path,
            )
        yield row


def count_input(config: SynthesizeConfig) -> int:
    """How many rows the run has, for the progress bar. Raises InputError when there are none."""
    count = count_rows(config.rows, config.max_rows)
    if count == 0:
        raise InputError("holds no rows", file=config.rows)
    return count


def folder_pool(config: SynthesizeConfig, store: RunStore, mined: Sequence[str]) -> tuple[str, ...]:
    """The passages that rows of this run folder get their style from, of the `mined` ones: drawn once and kept when
    rows are added, or all finished work would be that of another program, and be paid again.
    """
    note = f"style-pool:{config.seed}"
    noted = tuple(json.loads(store.get_note(note) or "[]"))
    # Passages of a corpus that these rows are not from are no style for them.
    if noted and set(style_texts(mined)).issuperset(noted):
        return noted
    pool = style_pool(mined, seed=config.seed)
    store.set_note(note, json.dumps(pool))
    return pool
