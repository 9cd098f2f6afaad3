"""`just try`: one query and its passage through the whole program, shown on the terminal; nothing is kept."""

import shutil
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import zip_longest
from pathlib import Path
from typing import Any

from data.base.errors import InputError
from data.base.options import shared_options
from data.base.text import Range, changed_ranges, clean_text, same_text_key
from data.readers.demo import demo_items
from data.records import Verdict
from programs.lm.budget import Budget, BudgetSpentError
from programs.lm.servers import recorded
from programs.modules.candidates import Candidate, Synthesis
from programs.modules.row_program import RowInputs
from programs.modules.verifier import LOSS_WORDS
from programs.options import RoleOptions
from programs.profiles.profile import load_profile
from programs.synthesis.config import SynthesizeConfig, TryConfig
from programs.synthesis.roles import build_program, open_roles, resolve_roles
from programs.synthesis.store import RunStore
from programs.synthesis.summary import usage_summary
from programs.synthesis.workers import run_inline

_WIDEST = 160


def try_row(config: TryConfig) -> None:
    """Print the row's requirements, its violations with their verdicts, and what they took. Raises InputError."""
    query, passage = _pair(config)
    inputs = RowInputs(query=query, passage=passage, relevance=load_profile(config.profile).relevance, canary=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        shared = shared_options(config, RoleOptions)
        # The recorded answers hold no second drafts.
        repairs = 0 if config.lm == recorded.NAME else 1
        run = SynthesizeConfig(rows=folder / "row.jsonl", out=folder, repairs=repairs, **shared)
        budget = Budget(usd=config.budget_usd, tokens=config.budget_tokens)
        specs = resolve_roles(stack, run, budget)
        program, _ = build_program(run)
        store = stack.enter_context(RunStore(folder / "store.sqlite"))
        open_roles(program, specs, run, store=store, budget=budget)
        try:
            synthesis = run_inline(program.acall(inputs=inputs), specs).synthesis
        except BudgetSpentError as spent:
            raise InputError(str(spent)) from None
        usage = usage_summary(store.usage(whole_folder=True), len(synthesis.accepted))
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    sys.stdout.write("\n".join(row_lines(query, passage, synthesis, usage, width)) + "\n")
    if synthesis.failure is not None:
        detail = synthesis.failure_detail and f" ({synthesis.failure_detail})"
        words = LOSS_WORDS.get(synthesis.failure, synthesis.failure.replace("_", " "))
        raise InputError(f"no negative was written: {words}{detail}")


def _pair(config: TryConfig) -> tuple[str, str]:
    query, passage = (clean_text(text or "") for text in (config.query, config.passage))
    if query and passage:
        return query, passage
    for item in demo_items():
        row = item.row
        texts = {same_text_key(row.query), same_text_key(row.positives[0].text)}
        if {same_text_key(text) for text in (query, passage) if text} <= texts:
            return row.query, row.positives[0].text
    raise InputError(
        f"{recorded.NAME} has answers for the demo's rows alone, which this is not: name a language model, like "
        "lm=openai/gpt-4.1-mini, and give query and passage",
        field="lm",
    )


def row_lines(query: str, passage: str, synthesis: Synthesis, usage: dict[str, Any], width: int) -> Iterator[str]:
    """The row as lines of at most `width` characters, where words allow."""
    yield from _wrapped(f"query: {query}", width)
    if synthesis.requirements:
        yield "\nwhat a passage must state to answer it"
    for requirement in synthesis.requirements:
        note = "" if requirement.critical else " (not critical)"
        yield from _wrapped(f"{requirement.id}. {requirement.statement} [{requirement.kind}]{note}", width)
    if synthesis.canary is not None:
        yield "\nthe verifier on your passage, blind"
        yield from _wrapped(_verdict(synthesis.canary), width)
    for number, candidate in enumerate(synthesis.candidates, start=1):
        yield from _candidate_lines(number, passage, candidate, width)
    accepted, planned = len(synthesis.accepted), len(synthesis.candidates)
    yield f"\naccepted: {accepted} of {planned}; {usage['requests']} requests, {usage['tokens']} tokens, " + (
        f"cost: {usage['cost_in_words']}"
    )


def _candidate_lines(number: int, passage: str, candidate: Candidate, width: int) -> Iterator[str]:
    broken = "" if candidate.requirement is None else f" of requirement {candidate.requirement.id}"
    disruption = candidate.disruption.replace("_", " ")
    fate = "accepted" if candidate.fate == "accepted" else f"refused: {LOSS_WORDS[candidate.fate]}"
    yield ""
    yield from _wrapped(f"violation {number}{broken} ({disruption}): {fate}", width)
    if candidate.text:
        ours, theirs, _ = changed_ranges(passage, candidate.text)
        left = ["your passage", "", *_wrapped(_marked(passage, ours, "[-", "-]"), (width - 3) // 2)]
        right = [
            "written" if theirs else "written (a rewrite)",
            "",
            *_wrapped(_marked(candidate.text, theirs, "{+", "+}"), (width - 3) // 2),
        ]
        for one, other in zip_longest(left, right, fillvalue=""):
            yield f"{one:<{(width - 3) // 2}} | {other}".rstrip()
    if candidate.verdict is not None:
        yield from _wrapped(f"verifier: {_verdict(candidate.verdict)}", width)


def _verdict(verdict: Verdict) -> str:
    held = ", ".join(f"{n} {'holds' if kept else 'broken'}" for n, kept in enumerate(verdict.satisfied, start=1))
    answers = "answers the query" if verdict.answers_query else "does not answer the query"
    return "; ".join(part for part in (answers, held, verdict.reason) if part)


def _marked(text: str, ranges: Sequence[Range], before: str, after: str) -> str:
    """`text` with the ranges between two marks, as `git diff --word-diff` shows changed words."""
    for start, end in reversed(ranges):
        text = f"{text[:start]}{before}{text[start:end]}{after}{text[end:]}"
    return text


def _wrapped(text: str, width: int) -> list[str]:
    lines = (textwrap.wrap(line, max(width, 1)) for line in text.splitlines())
    return [line for found in lines for line in found or [""]]
