"""Run folders for the report's tests: a demo-like run with every part, in which texts try to break out of the page."""

from dataclasses import replace
from pathlib import Path

from data.base.files import write_json
from data.records import Requirement, Row, Verdict, row_content_id
from data.row_files import write_objects, write_rows
from evals.diagnostics.diagnose import DIAGNOSTICS_FILE, FORMAT, SCORES_FILE, score_lines, to_json
from evals.diagnostics.embedded_rows import GENERATED, MINED, embed_rows
from evals.diagnostics.gradient_drift import ParameterDrift, embedding_drift
from evals.diagnostics.hardness import (
    hardness_by_disruption,
    hardness_by_source,
    infonce_weights,
    margin_histograms,
    mean_effective_negatives,
    similarity_by_grade,
)
from evals.diagnostics.source_leak import encoder_leak, leak_warnings, text_leak
from programs.modules.candidates import Candidate, Synthesis
from programs.synthesis.store import RunStore
from tests.evals.synthetic import TableEncoder, generated, mined, row

EVIL = (
    """</script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 1"> 'single' "double" &amp; 🙂"""
)
EVIL_QUERY = 'what about <b>bold</b> & "quotes"?'


def rows(num: int = 30) -> list[Row]:
    requirement = Requirement(id=1, kind="entity", statement="is about the <Team> plan")
    another = Requirement(id=2, kind="attribute", statement="says its price")
    made = []
    for r in range(num):
        face = "🙂 " if r == 5 else ""
        negatives = [
            mined(f"corpus passage {r} about storage"),
            replace(
                generated(f"{face}answer {r} but for Solo, {EVIL if r == 0 else 'plainly'}"), requirement=requirement
            ),
            replace(
                generated(f"note that {r} is otherwise", disruption="intent_drift"),
                requirement=requirement,
                verdict=Verdict(satisfied=(False, False), answers_query=False, reason=f"it says {r} only"),
            ),
        ]
        made.append(
            replace(
                row(r, negatives, positive=f"{face}answer {r} for Team, plainly"), requirements=(requirement, another)
            )
        )
    made[0] = replace(made[0], query=EVIL_QUERY)
    return made


def synthesis_summary(num_rows: int) -> dict:
    return {
        "funnel": {
            "rows": num_rows, "rows_failed": {}, "requirements": num_rows, "violations_planned": 2 * num_rows + 1,
            "lost": {"answers_query": 1}, "accepted": 2 * num_rows, "faults": {"malformed": 1},
        },
        "verifier": {
            "canaries": 10, "missed": 1, "miss_rate": 0.1, "miss_rate_interval_95": [0.018, 0.404], "usable": True,
            "false_negative_upper_bound": 0.02, "in_words": "this verifier misses 1 of 10 known positives",
        },
        "usage": {
            "roles": {
                "generator": {"models": ["openai/<some>"], "requests": 9, "prompt_tokens": 900, "completion_tokens": 90,
                              "cost_usd": None, "faults": {"rate_limit": 2}},
            },
            "tokens": 990, "tokens_per_accepted": 16.5, "cost_usd": None,
            "cost_in_words": "unknown: no price is listed",
        },
        "mined": {
            "asked": 40, "judged": 40, "answering": 2, "rate": 0.05, "interval_95": [0.014, 0.165], "promoted": 2,
            "dropped": 0, "kept": 0, "generated_dropped": 0,
            "by_rank": [{"rank": 1, "judged": 40, "answering": 2, "rate": 0.05, "interval_95": [0.014, 0.165]}],
        },
        "program": {"name": "uncompiled", "key": "k"},
    }  # fmt: skip


def interval(mean: float) -> dict:
    return {"mean": mean, "low": mean - 0.05, "high": mean + 0.05}


def demo_summary() -> dict:
    arms = {"zero-shot": 0.7, "mined only": 0.75, "mined + generated + entropy": 0.74}
    pair = {"difference": interval(-0.01), "p_value": 0.4, "num_queries": 100}
    return {
        "config": {"model": "bundled:<x>", "lr": 2e-5},
        "test": {arm: {"ndcg@10": interval(value), "accuracy@1": interval(value - 0.1)} for arm, value in arms.items()},
        "comparisons": {"mined + generated + entropy against mined only": {"ndcg@10": pair}},
    }


def write_diagnostics(folder: Path, used: list[Row]) -> None:
    looks = {"before": embed_rows(used, TableEncoder()), "after": embed_rows(used, TableEncoder(width=9))}
    margins = margin_histograms(looks)
    encoders = {}
    for when, seen in looks.items():
        weight_P = infonce_weights(seen, temperature=0.05)
        encoders[when] = {
            "model": f"model-{when}",
            "hardness": {
                "by_source": hardness_by_source(seen, weight_P),
                "by_disruption": hardness_by_disruption(seen, weight_P),
                "effective_negatives": mean_effective_negatives(seen, weight_P),
            },
            "margins": margins[when],
            "by_grade": similarity_by_grade(seen),
            "leak": encoder_leak(seen, num_permutations=19),
            "drift": embedding_drift(seen, temperature=0.05, normalized=True),
            "parameter_drift": ParameterDrift(angle=40.0, norm_ratio=2.0, chance_angle=60.0, num_rows=8),
        }
    text = text_leak(looks["after"])
    result = {
        "format": FORMAT, "config": {}, "num_rows": len(used), "num_rows_used": len(used),
        "num_negatives": {"mined": looks["after"].count(MINED), "generated": looks["after"].count(GENERATED)},
        "text_leak": text, "encoders": encoders, "warnings": leak_warnings(text, encoders["after"]["leak"]),
        "funnel": {"absent": "not here"}, "audit": {"absent": "no audit has been made"},
    }  # fmt: skip
    write_json(folder / DIAGNOSTICS_FILE, to_json(result))
    write_objects(folder / SCORES_FILE, score_lines(used, looks))


def write_run(folder: Path, num_rows: int = 30) -> Path:
    """A run folder like the demo's, with every part that the report knows."""
    used = rows(num_rows)
    write_rows(folder / "synthesis" / "rows.jsonl", used)
    write_json(folder / "synthesis" / "summary.json", synthesis_summary(num_rows))
    write_json(folder / "summary.json", demo_summary())
    refused = Candidate(
        requirement=used[1].requirements[0], disruption="adjacent_stage", direction="", fate="answers_query",
        text="the refused passage", verdict=Verdict(satisfied=(True,), answers_query=True, reason="it answers"),
    )  # fmt: skip
    with RunStore(folder / "synthesis" / "store.sqlite", program="k") as store:
        store.finish(row_content_id(used[1]), Synthesis(candidates=(refused,)))
    training = folder / "train" / "mined_only"
    lines = [{"step": 0, "dev_ndcg_at_10": 0.7}] + [
        {"step": s, "loss": 1 / s, **({"dev_ndcg_at_10": 0.7 + s / 100} if s % 4 == 0 else {})} for s in range(1, 9)
    ]
    write_objects(training / "metrics.jsonl", lines)
    write_json(training / "config.json", {"rows": str(folder / "synthesis" / "rows.jsonl"), "max_generated": 1})
    write_diagnostics(folder / "diagnostics", used)
    return folder
