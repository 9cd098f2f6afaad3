"""Every misbehaviour of a server, a row each: the run ends by itself, its books cover what was produced, a restart
against a server that behaves finishes every row, no key is in any file and nobody else is asked."""

import logging
import os
import sqlite3
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

from aiohttp import web

from data.base.errors import InputError
from data.row_files import read_rows
from programs.lm import pacing
from programs.lm.faults import PASSING_LOSSES
from programs.lm.models import ModelSpec, known_price
from programs.lm.servers.recorded import Layout, read_inputs
from programs.lm.usage import estimated_usage, message_text
from programs.modules.verifier import POSITIVE_REFUSED
from programs.synthesis.config import SynthesizeConfig
from programs.synthesis.run import synthesize
from programs.synthesis.store import RunStore
from tests.chaos import misbehaviour, odd_texts
from tests.chaos.inputs import Late, patience
from tests.chaos.misbehaviour import Asked, Misbehaviour
from tests.chaos.promises import promise, write_made_rows
from tests.fakes.fake_model import FakeModel, Kind, kind_of

# A model with a price, so that the books are kept in USD too.
_LM = "openai/gpt-4.1-mini"
_STEPS: tuple[Kind, ...] = ("extract", "violate", "verify")
_LAYOUTS: tuple[Layout, ...] = ("chat", "json")
# Rows of one run: one whose calls fail for good stops once ten in a row have.
_AT_ONCE, _AT_ONCE_LOST = 60, 6
_TIMEOUT_S = 1.5
# So long one run may take.
_PATIENCE_S = 120


@dataclass(frozen=True, slots=True)
class Case:
    """One misbehaviour towards one step, in one layout; the first time that the step is asked, or each time."""

    bad: Misbehaviour
    step: Kind
    layout: Layout
    always: bool

    def __str__(self) -> str:
        times = "always" if self.always else "once"
        return f"{self.bad.kind}, {self.step} in {self.layout}, {times}: {self.bad.name}"


_PROPER = Case(misbehaviour.PROPER, "extract", "chat", always=False)


class BadServer(FakeModel):
    """Misbehaves to the row with a case's number as the case says, while `misbehaves`; keeps what was produced, as
    (prompt tokens, completion tokens), by row."""

    def __init__(self, elsewhere: str) -> None:
        super().__init__()
        self.cases: Sequence[Case] = ()
        self.misbehaves = True
        self.produced: list[Counter[str]] = []
        self._elsewhere = elsewhere
        self._met = Counter[int]()

    def take(self, cases: Sequence[Case]) -> None:
        """Misbehave in these ways from now on."""
        self.cases, self.misbehaves = cases, True
        self.produced, self._met = [Counter() for _ in cases], Counter()

    async def answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        inputs, layout = read_inputs(message_text(body["messages"][-1]))
        kind, number = kind_of(inputs), int(inputs["query"].split()[-1])
        case = self.cases[number]
        asked = Asked(
            request=request, body=body, outputs=self._outputs(kind, inputs), layout=layout, key=self.token,
            elsewhere=self._elsewhere,
        )  # fmt: skip
        if not self.misbehaves or kind != case.step or (self._met[number] and not case.always):
            self.produced[number].update(estimated_usage(body, asked.answer))
            return web.json_response(asked.completion(asked.answer))
        self._met[number] += 1
        text = case.bad.text(asked)
        if case.bad.billed:
            self.produced[number].update(estimated_usage(body, text))
        return await case.bad.reply(asked, asked.completion(text))


class Elsewhere(FakeModel):
    """Another server, which counts who asks it for anything."""

    asked = 0

    def add_routes(self, app: web.Application) -> None:
        async def count(request: web.Request) -> web.StreamResponse:
            self.asked += 1
            return web.Response()

        app.router.add_route("*", "/{any:.*}", count)


def cases() -> Iterator[Case]:
    """All of them."""
    with BadServer("") as server:
        outputs = {step: server._outputs(step, inputs) for step, inputs in _EXAMPLES.items()}
    # Each is met once by some steps and always by the others.
    for turn, (layout, step) in enumerate(product(_LAYOUTS, _STEPS)):
        for number, bad in enumerate(odd_texts.texts(outputs[step], layout), start=turn):
            yield Case(bad, step, layout, always=number % 2 == 1)
    for turn, step in enumerate(_STEPS):
        for number, bad in enumerate(misbehaviour.completions(), start=turn):
            yield Case(bad, step, "json", always=number % 2 == 1)
        # A limit that is never lifted is waited for.
        yield from (Case(bad, step, "chat", always=False) for bad in misbehaviour.retry_after())
        yield from (Case(bad, step, "chat", always=False) for bad in misbehaviour.wires())
    yield from (Case(bad, "extract", "chat", always=True) for bad in misbehaviour.wires())
    for bad in (*misbehaviour.statuses(), *misbehaviour.redirects()):
        yield Case(bad, "extract", "chat", always=False)


# Questions whose answers have every field.
_EXAMPLES: Mapping[Kind, dict[str, str]] = {
    "extract": {"query": "what is thing 0", "passage": "Thing 0 is the answer to question 0."},
    "violate": {"query": "what is thing 0", "violations": '[{"target": "1. x", "direction": "y"}]'},
    "verify": {"query": "what is thing 0", "requirements": '["1. x", "2. y"]', "passages": '["1. p", "2. q"]'},
}


def answers(folder: Path, *, only: str = "", every: int = 1) -> dict[str, Any]:
    """Try each `every`-th of the cases whose kind contains `only`.

    Raises BrokenPromiseError that lists the cases that did not hold.
    """
    chosen = [case for case in cases() if only in case.bad.kind][::every]
    tried, held, broken = Counter[str](), Counter[str](), list[str]()
    totals = Counter[str]()
    with Elsewhere() as other, BadServer(other.api_base.removesuffix("/v1")) as server:
        attempts = Attempts(folder, server, other, totals)
        for group in _groups(chosen):
            for case, fault in attempts.faults(group).items():
                tried[case.bad.kind] += 1
                held[case.bad.kind] += fault is None
                if fault is not None:
                    broken.append(f"{case}: {fault}")
    lines = "\n".join(broken)
    promise(not broken, f"{tried.total()} tried, {held.total()} held:\n{lines}")
    return {
        "tried": tried.total(), "held": held.total(),
        "by_kind": {kind: f"{held[kind]} of {tried[kind]}" for kind in tried},
        **totals,
    }  # fmt: skip


def _groups(chosen: Sequence[Case]) -> Iterator[Sequence[Case]]:
    """What is tried in one run: one layout; alone what may stop a run."""
    by: dict[tuple[Any, ...], list[Case]] = {}
    for case in chosen:
        size = _AT_ONCE
        if case.bad.kind == "redirects" or case.bad.name[:2] in ("40", "41", "42"):
            # Some of these stop a run, as they should.
            size = 1
        elif case.bad.kind in ("HTTP", "slowness", "statuses") and (case.always or not case.bad.passes):
            size = _AT_ONCE_LOST if case.always or case.bad.kind == "statuses" else _AT_ONCE
        by.setdefault((case.layout, size, case.bad.kind), []).append(case)
    for (_, size, _), same in by.items():
        yield from (same[start : start + size] for start in range(0, len(same), size))


class Attempts:
    """Runs against a server that misbehaves, each followed by one against the same server as it behaves."""

    def __init__(self, folder: Path, server: BadServer, other: Elsewhere, totals: Counter[str]):
        self._folder, self._server, self._other, self._totals = folder, server, other, totals
        self._number = 0

    def faults(self, group: Sequence[Case]) -> dict[Case, str | None]:
        """What did not hold of each case. One that breaks the whole run is found by trying them apart."""
        fault, found = self._run(group)
        if fault is None:
            return dict(zip(group, found, strict=True))
        if len(group) == 1:
            return {group[0]: fault}
        half = len(group) // 2
        return self.faults(group[:half]) | self.faults(group[half:])

    def _run(self, group: Sequence[Case]) -> tuple[str | None, list[str | None]]:
        self._number += 1
        # A run none of whose rows come through ends with an error, as it should.
        group = (*group, _PROPER)
        home = self._folder / str(self._number)
        home.mkdir()
        ids = list(write_made_rows(home / "rows.jsonl", len(group)))
        self._server.take(group)
        before = self._other.asked
        waits = any(case.bad.kind == "slowness" for case in group)
        config = SynthesizeConfig(
            rows=home / "rows.jsonl", out=home / "out", lm=_LM, api_base=self._server.api_base, adapter=group[0].layout,
            negatives_per_row=2, repairs=0, verify_mined=1, canary_share=0.0, retries=2, malformed_retries=1,
            timeout_s=_TIMEOUT_S if waits else 30.0, concurrency=32, seed=self._number,
            # Far more than is needed, and far less than false counts claim.
            budget_tokens=200_000 * len(group) + 10**6, budget_usd=0.5 * len(group) + 5,
        )  # fmt: skip
        with _errors_of_the_log() as logged:
            stopped, fault = self._synthesize(config)
            if fault is not None:
                return f"the run {fault}", []
            covered = self._covered(home, ids)
            self._server.misbehaves = False
            line, fault = self._synthesize(config)
        if fault is not None or line is not None:
            return f"the restart {fault or f'stops: {line}'}", []
        if logged:
            return f"the log has {logged[0]}", []
        if self._other.asked != before:
            return "another server was asked", []
        if leaks := [path.name for path in _files(home) if self._server.token.encode() in path.read_bytes()]:
            return f"the key is in {leaks[0]}", []
        if self._server.token in (stopped or ""):
            return f"the key is in {stopped!r}", []
        try:
            number = sum(1 for _ in read_rows(home / "out" / "rows.jsonl"))
        except InputError as error:
            return f"what was written cannot be read: {error}", []
        finished = _finished(home)
        # Rows whose positive the answer refused are left out.
        refused = sum(failure == POSITIVE_REFUSED for failure, _ in finished.values())
        if number != len(group) - refused:
            return f"{number} rows were written", []
        *faults, proper = [
            fault or _fate_fault(case, finished.get(row_id), stopped)
            for case, row_id, fault in zip(group, ids, covered, strict=True)
        ]
        return (None if proper is None else f"a row that met nothing bad: {proper}"), faults

    def _synthesize(self, config: SynthesizeConfig) -> tuple[str | None, str | None]:
        """The line that the run stopped with, None when it was done; and what is wrong with how it ended."""
        try:
            with (
                patch.dict(os.environ, {"OPENAI_API_KEY": self._server.token}),
                patch.object(pacing, "_FIRST_DELAY_S", 0.01),
                patch.object(pacing, "_LONGEST_RETRY_AFTER_S", 0.5),
                patience(_PATIENCE_S),
            ):
                synthesize(config)
        except Late:
            return None, f"is still working after {_PATIENCE_S} s"
        except InputError as error:
            return str(error), None if "\n" not in str(error) else f"stops with {error!r}"
        except BaseException as error:  # noqa: BLE001 - whatever gets out is a traceback for the user
            where = traceback.extract_tb(error.__traceback__)[-1]
            return None, f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}: {str(error)[:200]}"
        return None, None

    def _covered(self, home: Path, ids: Sequence[str]) -> list[str | None]:
        """Of each row what its books lack of what the server produced for it."""
        price = known_price(ModelSpec(name=_LM, model=_LM))
        assert price is not None
        with closing(sqlite3.connect(home / "out" / "store.sqlite")) as db:
            books = {
                row_id: (tokens, usd, least)
                for row_id, tokens, usd, least in db.execute(
                    "SELECT row_id, SUM(prompt_tokens + completion_tokens + reserved_tokens), "
                    "SUM(COALESCE(cost_usd, 0) + COALESCE(reserved_usd, 0)), "
                    "MIN(MIN(prompt_tokens, completion_tokens, cached_tokens, reserved_tokens, COALESCE(cost_usd, 0))) "
                    "FROM calls WHERE outcome != 'replayed' GROUP BY row_id"
                )
            }
        faults: list[str | None] = []
        for row_id, produced in zip(ids, self._server.produced, strict=True):
            tokens, usd, least = books.get(row_id, (0, 0.0, 0))
            prompt, completion = produced["prompt_tokens"], produced["completion_tokens"]
            worth = prompt * price.prompt + completion * price.completion
            self._totals["tokens_by_the_server"] += prompt + completion
            self._totals["tokens_booked"] += tokens
            fault = None
            if tokens < prompt + completion or usd < worth * (1 - 1e-9):
                fault = f"booked {tokens} tokens, {usd:.6f} USD of {prompt + completion}, {worth:.6f}"
            elif least < 0:
                fault = f"negative books: {least}"
            faults.append(fault)
        return faults


def _fate_fault(case: Case, finished: tuple[str | None, int] | None, stopped: str | None) -> str | None:
    """Why a row's end, after the restart, is not as it should be."""
    if finished is None:
        return "the row was not finished"
    failure, accepted = finished
    if case.bad.kind == "redirects":
        return None if stopped and "redirect" in stopped else f"the run ended with {stopped!r}"
    if failure is not None and failure.endswith(PASSING_LOSSES):
        return f"{failure} was not asked again"
    if case.bad.passes and (failure is not None or not accepted):
        return f"asking again did not help: {failure}, {accepted} accepted"
    return None


def _finished(home: Path) -> dict[str, tuple[str | None, int]]:
    """Each finished row's failure and number of accepted drafts."""
    path = home / "out" / "store.sqlite"
    with closing(sqlite3.connect(path)) as db:
        ((program,),) = db.execute("SELECT DISTINCT program FROM finished")
        ids = [row_id for (row_id,) in db.execute("SELECT row_id FROM finished")]
    with RunStore(path, program=program) as store:
        found = {row_id: store.load(row_id) for row_id in ids}
    return {
        row_id: (one.failure, sum(candidate.fate == "accepted" for candidate in one.candidates))
        for row_id, one in found.items()
        if one is not None
    }


def _files(home: Path) -> Iterator[Path]:
    return (path for path in home.rglob("*") if path.is_file())


class _Errors(logging.Handler):
    """Keeps what is logged as an error, none of which is for a user. The server's own log is left out."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.kept: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        is_error = record.exc_info or "Traceback" in text or record.levelno >= logging.ERROR
        if is_error and not record.name.startswith("aiohttp."):
            self.kept.append(text[:300])


@contextmanager
def _errors_of_the_log() -> Iterator[list[str]]:
    handler = _Errors()
    logging.getLogger().addHandler(handler)
    try:
        yield handler.kept
    finally:
        logging.getLogger().removeHandler(handler)
