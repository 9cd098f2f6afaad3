"""A provider on a very bad day: every query ends with a named fate, and the books agree with the provider's."""

import os
from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import patch

from programs.synthesis.config import SynthesizeConfig
from programs.synthesis.run import synthesize
from tests.chaos.promises import promise, store_totals, write_made_rows
from tests.fakes.fake_model import MIXED_FAULTS
from tests.fakes.fake_process import Behaviour, fake_process

# How a fault of the server is called in the run's ledger; faults of the text are answers like any other to it.
_IN_LEDGER = {
    "rate_limited": ("429", "429_retry_after"),
    "timeout": ("stall",),
    "truncated": ("truncated",),
    "oversized": ("huge",),
}


def provider_faults(folder: Path, *, queries: int = 500, share: float = 0.2, timeout_s: float = 6.0) -> dict[str, Any]:
    """Synthesise `queries` rows while a `share` of all calls misbehaves in every way the fake knows."""
    write_made_rows(folder / "rows.jsonl", queries)
    behaviour = Behaviour(fault_share=share, stall_s=timeout_s * 2, delay_s=0.02, seed=7)
    with fake_process(folder / "server.jsonl", behaviour) as server:
        with patch.dict(os.environ, {"OPENAI_API_KEY": server.token}):
            summary = synthesize(
                SynthesizeConfig(
                    rows=folder / "rows.jsonl",
                    out=folder / "out",
                    lm="openai/fake",
                    api_base=server.api_base,
                    adapter="chat",
                    canary_share=0.5,
                    retries=8,
                    malformed_retries=4,
                    timeout_s=timeout_s,
                )
            )
        log = server.log()
    funnel, ledger = summary["funnel"], store_totals(folder / "out")
    faults = Counter(served.fault for served in log if served.fault)
    failed = sum(funnel["rows_failed"].values())
    promise(funnel["rows"] == queries, f"{funnel['rows']} of {queries} queries have an outcome")
    promise(
        funnel["accepted"] + sum(funnel["lost"].values()) == funnel["violations_planned"],
        f"accepted and lost do not add up to the planned: {funnel}",
    )
    promise(funnel["violations_planned"] == 4 * (queries - failed), f"violations are missing: {funnel}")
    promise(all(funnel["rows_failed"]), "a failed query has no reason")
    promise(set(faults) == set(MIXED_FAULTS), f"faults that did not happen: {set(MIXED_FAULTS) - set(faults)}")
    for name, here in (
        ("requests", len(log)),
        ("prompt_tokens", sum(served.prompt_tokens for served in log)),
        ("completion_tokens", sum(served.completion_tokens for served in log)),
    ):
        promise(ledger[name] == here, f"{name}: the store has {ledger[name]}, the server {here}")
    for outcome, kinds in _IN_LEDGER.items():
        here = sum(faults[kind] for kind in kinds)
        promise(ledger["outcomes"].get(outcome, 0) == here, f"{outcome}: {ledger['outcomes']} against {dict(faults)}")
    return {
        "queries": queries,
        "calls": len(log),
        "faults": sum(faults.values()),
        "faults_by_kind": dict(sorted(faults.items())),
        "accepted": funnel["accepted"],
        "lost_by_reason": {name: count for name, count in funnel["lost"].items() if count},
        "failed_by_reason": funnel["rows_failed"],
        "tokens_in_store_and_log": ledger["prompt_tokens"] + ledger["completion_tokens"],
        "lowest_concurrency": summary["lowest_concurrency"],
        "seconds": round(summary["seconds_this_run"], 1),
    }
