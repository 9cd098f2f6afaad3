"""`just synthesize engine=ray`: Ray Data streams rows through actors that run the same program as a run in one process.

Every actor keeps its books with one ledger (ledger.py). Ray runs a lost actor's batch again on another;
rows that it had finished are skipped there, and answers that it had paid for are found in the store.
"""

import asyncio
import json
import logging
import os
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data.base.errors import InputError
from data.base.progress import progress_bar
from data.records import Row, row_from_dict
from programs.lm.budget import BudgetSpentError
from programs.lm.faults import redact
from programs.lm.models import ModelSpec
from programs.options import AdapterName
from programs.profiles.profile import CorpusProfile
from programs.synthesis.config import SynthesizeConfig
from programs.synthesis.ray.ledger import BEAT_S, LOST_AFTER_S, Ledger, Remote
from programs.synthesis.roles import Specs, build_program, open_roles
from programs.synthesis.workers import Outcome, RowWork

log = logging.getLogger(__name__)
# How soon to ask again for a row that another actor has: it may be lost, and its rows free after a while.
_ASK_AGAIN_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """What an actor needs to work on rows like every other; plain values, and no key: that is in its environment."""

    config: SynthesizeConfig
    profile: CorpusProfile
    specs: Specs
    layouts: Mapping[str, AdapterName]


class RowActor:
    """Takes lines of rows, runs the program on those that the ledger gives it, and hands the outcomes to the ledger."""

    def __init__(self, spec: WorkerSpec, ledger: Any):
        self._spec, self._ledger = spec, ledger
        self._name = secrets.token_hex(8)
        # In the place of store, budget and limits, whose every method that a model calls it has.
        remote: Any = Remote(ledger, self._name)
        specs = {role: [with_key(model) for model in models] for role, models in spec.specs.items()}
        self._program, _ = build_program(spec.config)
        open_roles(self._program, specs, spec.config, store=remote, budget=remote, limits=remote, layouts=spec.layouts)
        # One loop for all batches: clients of the models belong to it.
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._beat, daemon=True).start()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One outcome a row: done, skipped, or why the run has to stop."""

        async def together() -> list[str]:
            return list(await asyncio.gather(*(self._one(str(line)) for line in batch["text"])))

        return {"outcome": np.array(self._loop.run_until_complete(together()), dtype=object)}

    async def _one(self, line: str) -> str:
        config = self._spec.config
        try:
            row = read_line(line, config.rows)
            work = RowWork.of(row, config)
            row_id = work.row_id
            while (taken := await self._ledger.take.remote(self._name, row_id, work.judged)) == "under way":
                await asyncio.sleep(_ASK_AGAIN_S)
            if taken == "finished":
                return "skipped"
            try:
                synthesis = await work.run(self._program, self._spec.profile, config)
                await self._ledger.finish.remote(row_id, synthesis)
            except BaseException:
                self._ledger.drop.remote(row_id)
                raise
        except InputError as stop:
            return f"stop: {stop}"
        return "done"

    def _beat(self) -> None:
        import ray

        pid, pause = os.getpid(), threading.Event()
        while True:
            try:
                ray.get(self._ledger.beat.remote(self._name, pid))
            except ray.exceptions.RayError:
                return  # the ledger is gone, so the run is over
            pause.wait(BEAT_S)


def read_line(line: str, file: Path) -> Row:
    """The row of one line. Raises InputError that says how the line begins."""
    # Lines reach actors without their numbers.
    where = f"in the line that begins {line[:60]!r}"
    try:
        return row_from_dict(json.loads(line))
    except ValueError as error:
        raise InputError(f"not valid JSON ({error}) {where}", file=file) from error
    except InputError as error:
        raise InputError(f"{error.what} {where}", file=file, field=error.field) from error


def with_key(spec: ModelSpec) -> ModelSpec:
    """The model with the key of this machine's environment. Raises InputError when it has none."""
    if spec.key_env is None:
        return spec
    key = os.environ.get(spec.key_env)
    if not key:
        raise InputError(f"the environment variable {spec.key_env} is not set where this actor runs", field="lm")
    return replace(spec, api_key=key)


def without_key(spec: ModelSpec) -> ModelSpec:
    """The model as it travels: what came from the environment stays there."""
    return spec if spec.key_env is None else replace(spec, api_key=None)


def run_on_ray(
    spec: WorkerSpec, *, program: str, total: int, watch: Callable[[Any], None] = lambda ledger: None
) -> Outcome:
    """Synthesise the rows that the store does not have yet, on the cluster of `config.ray_address` or one made here.

    The store must not be open in this process. `watch` is called once with the ledger's handle. Raises InputError when
    the run cannot go on; what is finished is kept.
    """
    config = spec.config
    ray = _import_ray(config.ray_address)
    if config.rows.suffix == ".parquet":
        raise InputError("engine=ray streams lines: just convert the rows to .jsonl first", file=config.rows)
    mine = not ray.is_initialized()
    if mine:
        _connect(ray, config)
    try:
        _refuse_loopback_elsewhere(ray, spec)
        ledger = _start_ledger(ray, spec, program)
        watch(ledger)
        try:
            _stream_until_end(ray, spec, ledger, total)
            state = ray.get(ledger.state.remote())
            if state["refusal"] and not state["condemned"]:
                spent = state["refusal"].startswith("the budget of")
                raise (BudgetSpentError if spent else InputError)(state["refusal"])
            return Outcome(funnel=state["funnel"], condemned=state["condemned"], lowest_limit=state["lowest"])
        finally:
            ray.get(ledger.close.remote())
            ray.kill(ledger)
    finally:
        if mine:
            ray.shutdown()


def _import_ray(address: str | None) -> Any:
    # Both are read while it is imported. The engine itself is to send nothing anywhere, and a cluster that is made for
    # this run listens on the loopback interface alone.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address is None:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise InputError("engine=ray needs ray (pip install 'causalneg[ray]')", field="engine") from error
    return ray


def _connect(ray: Any, config: SynthesizeConfig) -> None:
    # Its own account of every step of the pipeline; faults still come as exceptions.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    settings: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if config.ray_address is not None:
        try:
            ray.init(address=config.ray_address, **settings)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(
                f"no Ray cluster answers at {config.ray_address!r}: {error}", field="ray-address"
            ) from error
        return
    # Loopback only; an actor waits for answers most of its time, so it takes a part of a core.
    ray.init(include_dashboard=False, _node_ip_address="127.0.0.1", num_cpus=max(1, config.ray_actors), **settings)


def _refuse_loopback_elsewhere(ray: Any, spec: WorkerSpec) -> None:
    nodes = sum(node["Alive"] for node in ray.nodes())
    here = [model.name for models in spec.specs.values() for model in models if model.is_local]
    if nodes > 1 and here:
        raise InputError(f"{here[0]} answers on this machine only, but the cluster has {nodes}", field="lm")


def _start_ledger(ray: Any, spec: WorkerSpec, program: str) -> Any:
    # Its process may stand in another folder.
    config = replace(spec.config, out=spec.config.out.resolve())
    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        node_id=ray.get_runtime_context().get_node_id(), soft=False
    )
    # Calls that wait for a place wait inside it, so it takes many at once.
    return (
        ray.remote(Ledger)
        .options(num_cpus=0, max_concurrency=100_000, scheduling_strategy=here, max_restarts=0)
        .remote(config, program, LOST_AFTER_S)
    )


def _stream_until_end(ray: Any, spec: WorkerSpec, ledger: Any, total: int) -> None:
    """`_stream`, with what an actor raised as one line. A lost actor raises nothing: its batch goes to another."""
    try:
        _stream(ray, spec, ledger, total)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, InputError):
            raise cause from error
        reason = redact(str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__)
        raise InputError(f"an actor failed: {reason}; finished rows are kept, the same command goes on") from error


def _stream(ray: Any, spec: WorkerSpec, ledger: Any, total: int) -> None:
    """Drive the pipeline; returns when every row is done or the first one says that the run must stop."""
    config = spec.config
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    share = max(1, config.concurrency // config.ray_actors)
    keyless = {role: [without_key(model) for model in models] for role, models in spec.specs.items()}
    rows = ray.data.read_text(str(config.rows.resolve()))
    if config.max_rows is not None:
        rows = rows.limit(config.max_rows)
    # A file of text is one block; parts of it keep every actor busy to the end.
    outcomes = rows.repartition(target_num_rows_per_block=share).map_batches(
        RowActor,
        batch_size=None,
        fn_constructor_kwargs={"spec": replace(spec, specs=keyless), "ledger": ledger},
        compute=ray.data.ActorPoolStrategy(size=config.ray_actors),
        num_cpus=1 if config.ray_address else 0.5,
    )
    with progress_bar(total=total, unit="row", desc="synthesize") as progress:
        for batch in outcomes.iter_batches(batch_size=None, batch_format="numpy"):
            stop = next((text for text in map(str, batch["outcome"]) if text.startswith("stop: ")), None)
            if stop is not None:
                ray.get(ledger.fail.remote(stop.removeprefix("stop: ")))
                return
            progress.update(len(batch["outcome"]))
