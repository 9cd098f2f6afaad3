"""`just demo`: the whole job on the demo data, mine to evaluate, as a user would run it command by command."""

import logging
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from data.__main__ import DemoConfig as DemoDataConfig
from data.__main__ import write_demo
from data.base.cli import config_dict, text_table
from data.base.files import folder_lock, read_json_object, write_json
from data.base.options import shared_options
from data.base.outputs import at_work_in, claim_folder, refuse_foreign_folder
from data.base.stats import PairedComparison, compare_paired
from data.readers.demo import demo_family_set
from data.row_files import read_rows
from evals.ablation.ablate import train_arm
from evals.ablation.arms import Arm, arm_rows
from evals.ablation.config import AblateConfig
from evals.demo.config import DemoConfig
from evals.diagnostics.config import DiagnoseConfig
from evals.diagnostics.diagnose import DIAGNOSTICS_FILE, SCORES_FILE, diagnose
from evals.report.config import ReportConfig
from evals.report.page import report
from evals.retrieval.by_query import Evaluated, wins_and_losses
from evals.retrieval.measures import LABELS, SIBLINGS
from programs.options import LMOptions
from programs.synthesis.config import SynthesizeConfig
from programs.synthesis.run import synthesize
from programs.synthesis.summary import synthesis_table
from trainer.config import Recipe
from trainer.encoder import Encoder
from trainer.mining.config import MineConfig
from trainer.mining.mine import mine

log = logging.getLogger(__name__)

ZERO_SHOT, MINED, FULL = "zero-shot", "mined only", "mined + generated + entropy"
# The recorded answers hold three or four negatives a query.
MAX_GENERATED = 4
# Rows of the diagnosis, enough for its probes; `just diagnose run=runs/demo` takes all of them.
DIAGNOSED = 40
# Labels of an audit stay: they are a person's work, and they are matched by text.
WRITTEN = (
    "data", "mined.jsonl", "synthesis", "rows", "train", "summary.json", "report.html",
    f"diagnostics/{DIAGNOSTICS_FILE}", f"diagnostics/{SCORES_FILE}",
)  # fmt: skip
SHOWN = {measure: LABELS[measure] for measure in ("ndcg@10", "accuracy@1", SIBLINGS)}


def run_demo(config: DemoConfig) -> dict[str, Any]:
    """Run every step and return what summary.json holds. Raises InputError in a folder that no demo has claimed."""
    refuse_foreign_folder(config.out, "demo")
    with folder_lock(config.out), at_work_in(config.out):
        synthesis = _synthesis(config)
        # What was asked and answered with these options need not be paid again.
        kept = read_json_object(synthesis.out / "config.json", missing_ok=True) == config_dict(synthesis)
        claim_folder("demo", config.out, [name for name in WRITTEN if name != "synthesis" or not kept], restart=True)
        return _run(config, synthesis)


def _synthesis(config: DemoConfig) -> SynthesizeConfig:
    return SynthesizeConfig(
        rows=config.out / "mined.jsonl",
        out=config.out / "synthesis",
        **shared_options(config, LMOptions),
        profile="help_centre",
        negatives_per_row=MAX_GENERATED,
        canary_share=1.0,
        # The recorded answers hold no second drafts.
        repairs=0 if config.lm == "recorded:demo" else 1,
        # The demo's own folder: what other prompts or other rows left there is replaced unasked.
        again=True,
    )


def _run(config: DemoConfig, writing: SynthesizeConfig) -> dict[str, Any]:
    out = config.out
    seconds: dict[str, float] = {}

    with _step(seconds, "mine", "1/6 mine: hard negatives for 120 queries of six organisations"):
        folders = write_demo(DemoDataConfig(out=out / "data"))
        mining = mine(
            MineConfig(
                data=str(folders["train"]),
                split="train",
                model=config.model,
                out=str(out / "mined.jsonl"),
                num_negatives=config.num_mined + MAX_GENERATED,
            )
        )
        log.info("%s", mining.summary())
    with _step(seconds, "synthesize", "2/6 synthesize: requirements, one violation each, blind verification"):
        synthesis = synthesize(writing)
        log.info("%s", synthesis_table(synthesis))
    rows = list(read_rows(out / "synthesis" / "rows.jsonl"))
    # A small ablation: one seed, and the defaults of `train` against mined negatives alone.
    settings = AblateConfig(
        model=config.model,
        rows=out / "synthesis" / "rows.jsonl",
        test=str(folders["test"]),
        out=out,
        dev=str(folders["dev"]),
        num_mined=config.num_mined,
        **shared_options(config, Recipe),
    )
    models = {ZERO_SHOT: config.model}
    for number, arm in enumerate((Arm(MINED, "mined", {}), Arm(FULL, "generated", {})), start=3):
        name = arm.name.replace(" + ", "_").replace(" ", "_")
        with _step(seconds, f"train {arm.name}", f"{number}/6 train: {arm.name}"):
            shown = arm_rows(arm.negatives or "", rows, None, config.num_mined)
            files = out / "rows" / f"{name}.jsonl", out / "train" / name
            models[arm.name] = train_arm(arm, shown, config.seed, settings, files).model
    with _step(seconds, "evaluate", "5/6 evaluate: 100 test queries of four organisations unseen in training"):
        test = demo_family_set("test")
        evaluated = {arm: Evaluated.of(arm, Encoder.load(model), test) for arm, model in models.items()}
        scores = {arm: one.scores for arm, one in evaluated.items()}
    means = {arm: {measure: found.interval(measure) for measure in found.per_query} for arm, found in scores.items()}
    comparisons = {
        f"{FULL} against {first}": {
            m: compare_paired(scores[first].per_query[m], scores[FULL].per_query[m]) for m in SHOWN
        }
        for first in (ZERO_SHOT, MINED)
    }
    summary = {
        "config": config_dict(config),
        "test": {arm: {m: asdict(interval) for m, interval in by_measure.items()} for arm, by_measure in means.items()},
        "comparisons": {
            name: {m: asdict(pair) for m, pair in by_measure.items()} for name, by_measure in comparisons.items()
        },
        "per_query": {arm: found.per_query for arm, found in scores.items()},
        "by_query": wins_and_losses(test, evaluated[MINED], evaluated[FULL], "ndcg@10"),
        "models": models,
        "synthesis": synthesis,
        "seconds": seconds,
    }
    with _step(seconds, "diagnose", f"6/6 diagnose: {DIAGNOSED} rows before and after training"):
        diagnose(
            DiagnoseConfig(
                run=out, model=models[FULL], baseline=models[ZERO_SHOT], max_rows=DIAGNOSED, parameter_rows=2
            ),
            show=False,
        )
    write_json(out / "summary.json", summary)
    page = report(ReportConfig(run=out, title="CausalNeg demo"))
    table = text_table(
        ["test split, mean [95% interval]", *SHOWN.values()],
        [[arm, *(str(by_measure[measure]) for measure in SHOWN)] for arm, by_measure in means.items()],
        # Piped, as a file or a document takes it, the rows stay whole.
        width=shutil.get_terminal_size((200, 24)).columns,
    )
    found = [
        f"{label}: {what_it_means(comparisons[f'{FULL} against {MINED}'][measure])}" for measure, label in SHOWN.items()
    ]
    sys.stdout.write(
        "\n".join(["", table, "", *found, f"Everything is in {out}/; open {page} in a browser to look at it.", ""])
    )
    return summary


@contextmanager
def _step(seconds: dict[str, float], name: str, title: str) -> Iterator[None]:
    log.info("\n== %s", title)
    start = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - start, 1)


def what_it_means(pair: PairedComparison) -> str:
    """One honest sentence about the generated negatives and the entropy term against mined negatives alone."""
    figures = f"{pair.difference:+}, p = {pair.p_value:.3f}"
    if not pair.significant:
        return f"no significant difference from mined only ({figures}, {pair.num_queries} queries, one seed)"
    effect = "better" if pair.difference.mean > 0 else "worse"
    return f"generated negatives made it {effect} than mined only ({figures}, {pair.num_queries} queries, one seed)"
