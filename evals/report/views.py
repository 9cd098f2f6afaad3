"""From the parts of a run to what the report's template shows: plain values and finished charts."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from data.base.stats import Interval
from evals.charts import axis_of, histogram_chart, interval_track, line_chart, track_axis
from evals.diagnostics.table import get_path, interval
from evals.report.run_folder import RunFolder
from evals.retrieval.measures import LABELS
from programs.synthesis.funnel import LOSS_WORDS

# The first that occur are shown as plots; the others follow in a table.
_PLOTTED = ("ndcg@10", "accuracy@1", "siblings", "mrr@10")
_MOST_PLOTS = 3
_ARM_CLASSES = ("a0", "a1", "a2", "a3", "a4", "a5", "a6")


def tiles(run: RunFolder) -> list[dict[str, str]]:
    """The few figures at the top of the page."""
    found = []
    if run.results:
        arms = run.results["arms"]
        first, last = next(iter(arms)), list(arms)[-1]
        measure = next((m for m in _PLOTTED if m in arms[last]), None)
        if measure and first != last:
            value, before = arms[last][measure], arms[first][measure]
            found.append(
                {
                    "value": f"{value['mean']:.3f}",
                    "name": f"{LABELS[measure]}, {last}",
                    "note": f"{before['mean']:.3f} {first}; 95% interval {value['low']:.3f} to {value['high']:.3f}",
                }
            )
    if run.funnel:
        counts = {step["name"]: step["count"] for step in run.funnel["steps"]}
        planned, accepted = counts["violations planned"], counts["accepted"]
        share = f"{accepted / planned:.0%} of {planned:,} planned" if planned else "nothing was planned"
        found.append({"value": f"{accepted:,}", "name": "negatives accepted", "note": share})
        verifier = run.funnel["calibration"]
        if verifier["canaries"]:
            low, high = verifier["miss_rate_interval_95"]
            found.append(
                {
                    "value": f"{verifier['miss_rate']:.1%}",
                    "name": "of known positives missed by the verifier",
                    "note": f"{verifier['missed']} of {verifier['canaries']}; 95% interval {low:.1%} to {high:.1%}",
                }
            )
    cost = cost_view(run)
    if cost:
        found.append({"value": cost["per_accepted"], "name": "for each accepted negative", "note": cost["in_words"]})
    leak = get_path(run.diagnostics or {}, "text_leak", "words_auc")
    if leak:
        found.append(
            {
                "value": f"{leak['mean']:.2f}",
                "name": "AUC of telling the source by its words",
                "note": f"0.50 is none; 95% interval {leak['low']:.2f} to {leak['high']:.2f}",
            }
        )
    return found


def config_tables(configs: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, list[tuple[str, str]]]]:
    """(name, [(setting, value)]) of every configuration that was found."""
    return [
        (name, [(str(key), "–" if value is None else str(value)) for key, value in config.items()])
        for name, config in configs.items()
    ]


def results_view(run: RunFolder) -> dict[str, Any] | None:
    """Metrics with intervals: plots of the main ones, a table of all, and the paired comparisons in words."""
    if not run.results:
        return None
    arms = run.results["arms"]
    measures = [measure for measure in LABELS if all(measure in found for found in arms.values())]
    measures += sorted({m for found in arms.values() for m in found} - set(LABELS))
    plots = []
    for measure in [m for m in _PLOTTED if m in measures][:_MOST_PLOTS]:
        axis = axis_of([arms[arm][measure][end] for arm in arms for end in ("low", "high")])
        lines = [
            {
                "name": arm,
                "track": interval_track(**found[measure], axis=axis, css=arm_class(n), mark=None),
                "text": interval(found[measure]),
            }
            for n, (arm, found) in enumerate(arms.items())
        ]
        plots.append({"name": LABELS.get(measure, measure), "lines": lines, "axis": track_axis(axis)})
    table = [(arm, [interval(found.get(measure)) for measure in measures]) for arm, found in arms.items()]
    comparisons = [
        {
            "name": name,
            "measure": LABELS.get(measure, measure),
            "difference": f"{Interval.of(pair['difference']):+}",
            "p": f"{pair['p_value']:.3f}",
            "words": _verdict_words(pair),
        }
        for name, by_measure in run.results["comparisons"].items()
        for measure, pair in by_measure.items()
    ]
    return {
        "plots": plots,
        "spread": run.results["spread"],
        "notes": run.results["notes"],
        "measures": [LABELS.get(measure, measure) for measure in measures],
        "table": table,
        "comparisons": comparisons,
    }


def _verdict_words(pair: Mapping[str, Any]) -> str:
    # The interval of an ablation knows of training seeds, which its p-value does not.
    if pair["p_value"] >= 0.05 or not Interval.of(pair["difference"]).leaves_out_zero:
        return "no significant difference"
    return "better" if pair["difference"]["mean"] > 0 else "worse"


def arm_class(number: int) -> str:
    """The CSS class of an arm's colour."""
    return _ARM_CLASSES[number % len(_ARM_CLASSES)]


def curves_view(run: RunFolder) -> dict[str, Any] | None:
    """One chart of dev nDCG@10 and one of the loss, a line a training."""
    if not run.curves:
        return None
    # A training has the colour and the name of its arm above; one without an arm comes after them.
    arms = {_letters(arm): (n, arm) for n, arm in enumerate((run.results or {"arms": {}})["arms"])}
    named = [
        (*arms.get(_letters(name), (len(arms) + n, name)), points)
        for n, (name, points) in enumerate(run.curves.items())
    ]
    named.sort(key=lambda curve: curve[0])

    def series(name: str) -> list[tuple[str, list[tuple[float, float]]]]:
        return [
            (arm_class(n), [(float(p["step"]), float(p[name])) for p in points if _is_number(p.get(name))])
            for n, _, points in named
        ]

    charts = [
        ("nDCG@10 on the dev split", line_chart(series("dev_ndcg_at_10"), x_label="step", dots=True,
                                                summary="dev nDCG@10 by training step")),
        ("training loss", line_chart(series("loss"), x_label="step", summary="training loss by step")),
    ]  # fmt: skip
    return {
        "charts": [(name, chart) for name, chart in charts if chart],
        "legend": [(arm_class(n), name) for n, name, _ in named],
    }


def _letters(name: str) -> str:
    """An arm's name as its folder and the report share it."""
    return re.sub(r"[^a-z0-9.]+", " ", name.casefold()).strip()


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def funnel_view(run: RunFolder) -> dict[str, Any] | None:
    """The funnel as bars on one scale, each followed by what was lost before the next."""
    if not run.funnel:
        return None
    largest = max(step["count"] for step in run.funnel["steps"]) or 1
    return {
        "steps": [
            {
                **step,
                "width": round(100 * step["count"] / largest, 2),
                "lost": [(LOSS_WORDS.get(name, name.replace("_", " ")), count) for name, count in step["lost"].items()],
            }
            for step in run.funnel["steps"]
        ],
        "faults": [(name.replace("_", " "), count) for name, count in run.funnel["faults"].items()],
        "calibration": run.funnel["calibration"],
        "track": _calibration_track(run.funnel["calibration"]),
    }


def _calibration_track(verifier: Mapping[str, Any]) -> Markup | None:
    if verifier["miss_rate"] is None:
        return None
    low, high = verifier["miss_rate_interval_95"]
    return interval_track(verifier["miss_rate"], low, high, (0.0, max(0.25, high)), "a1", None)


def cost_view(run: RunFolder) -> dict[str, Any] | None:
    """Tokens and price by role, and for each accepted negative; an unknown price stays unknown."""
    usage = (run.synthesis or {}).get("usage")
    if not isinstance(usage, Mapping) or not isinstance(usage.get("roles"), Mapping):
        return None
    cost, tokens = usage.get("cost_usd"), usage.get("tokens_per_accepted")
    accepted = {step["name"]: step["count"] for step in run.funnel["steps"]}["accepted"] if run.funnel else 0
    price = "price unknown" if cost is None else "–"
    if cost is not None and accepted:
        price = f"{cost / accepted:.4f} USD" if cost else "0 USD"
    return {
        "per_accepted": price,
        "in_words": f"{usage.get('cost_in_words', '')} in all"
        + (f"; {tokens:,.0f} tokens each" if isinstance(tokens, (int, float)) else ""),
        "roles": [
            {
                "name": role,
                "models": ", ".join(str(model) for model in found.get("models", [])),
                "requests": found.get("requests", 0),
                "prompt_tokens": found.get("prompt_tokens", 0),
                "completion_tokens": found.get("completion_tokens", 0),
                "cost": "unknown" if found.get("cost_usd") is None else f"{found['cost_usd']:.4f} USD",
                "faults": ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in found.get("faults", {}).items()),
            }
            for role, found in usage["roles"].items()
        ],
    }


def diagnostics_view(run: RunFolder) -> dict[str, Any] | None:
    """Hardness, source leak and drift of each encoder that was looked with."""
    if not run.diagnostics:
        return None
    encoders = run.diagnostics["encoders"]
    words = get_path(run.diagnostics, "text_leak", "words_auc")
    leaks = [("words, whatever the encoder", words, "a0")] if words else []
    leaks += [
        ("embeddings" if when == "now" else f"embeddings, {when} training", found, "a1")
        for when, seen in encoders.items()
        if (found := get_path(seen, "leak", "embedding_auc"))
    ]
    lowest = min([found["low"] for _, found, _ in leaks], default=0.5)
    axis = (min(0.4, lowest), 1.0)
    return {
        "encoders": [_encoder_view(when, seen, run.path) for when, seen in encoders.items()],
        "leaks": [
            {"name": name, "track": interval_track(**found, axis=axis, css=css, mark=0.5), "text": interval(found)}
            for name, found, css in leaks
        ],
        "leak_axis": track_axis(axis),
        "leak_absent": get_path(run.diagnostics, "text_leak", "absent"),
        "artefacts_absent": get_path(run.diagnostics, "text_leak", "artefacts_absent"),
        "compared_with": get_path(run.diagnostics, "text_leak", "compared_with") or "corpus",
        "warnings": run.diagnostics.get("warnings", []),
        "num_rows": run.diagnostics["num_rows"],
        "num_rows_used": run.diagnostics["num_rows_used"],
    }


def short_name(model: str, folder: Path) -> str:
    """An encoder's name as a reader knows it: a path inside the run by that part, another long one by its end."""
    path = Path(model)
    if path.is_absolute() and path.is_relative_to(folder.resolve()):
        return str(path.relative_to(folder.resolve()))
    if path.is_relative_to(folder):
        return str(path.relative_to(folder))
    return str(Path("…", *path.parts[-3:])) if len(path.parts) > 3 else model


def _encoder_view(when: str, seen: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    margins = seen["margins"]
    chart = histogram_chart(
        {kind: (kind, found["low"], found["high"], found["shares"]) for kind, found in margins.items()},
        x_label="score minus the positive's score",
        marker="the positive",
        summary=f"where mined and generated negatives score against the positive, {when}",
    )
    hardness = [
        (name, found) for group in ("by_source", "by_disruption") for name, found in seen["hardness"][group].items()
    ]
    return {
        "when": when,
        "model": short_name(str(seen["model"]), folder),
        "histogram": chart,
        "hardness": hardness,
        "effective": seen["hardness"]["effective_negatives"],
        "score": get_path(seen, "leak", "score"),
        "drift": seen["drift"],
        "parameter_drift": seen["parameter_drift"],
    }
