"""Does the training-free information score put the arms of an ablation into the order of what they then measured?"""

from dataclasses import dataclass
from pathlib import Path

from data.base.errors import InputError
from data.base.files import read_json_object
from data.base.stats import Interval
from data.row_files import read_rows
from evals.ablation.ablate import read_ablation
from evals.embedded import TextEncoder, embed_rows
from evals.information import OrderPrediction, contrastive_information, predicts_order


@dataclass(frozen=True, slots=True, kw_only=True)
class InformationOrder:
    """By arm: effective negatives a row, and the measured mean of `measure`; how well the first orders the second."""

    measure: str
    information: dict[str, Interval]
    measured: dict[str, float]
    prediction: OrderPrediction


def information_order(
    folder: str | Path, encoder: TextEncoder, *, temperature: float, measure: str = "ndcg@10"
) -> InformationOrder:
    """Score the rows of every trained arm of an ablation with `encoder`, the one that the arms were trained from.

    Raises InputError when the folder holds no ablation, the measure is unknown, or fewer than 3 arms were trained.
    """
    arms = read_ablation(folder)["arms"]
    information: dict[str, Interval] = {}
    measured: dict[str, float] = {}
    for scores_file in sorted(Path(folder).glob("arms/*/seed-0/scores.json")):
        name, rows_file = str(read_json_object(scores_file).get("arm")), scores_file.parent / "rows.jsonl"
        if name not in arms or not rows_file.is_file():  # an arm of an earlier call, or one that was not trained
            continue
        if measure not in arms[name]["measures"]:
            raise InputError(f"the ablation did not measure {measure!r}", file=folder)
        embedded = embed_rows(list(read_rows(rows_file)), encoder, progress=True)
        information[name] = contrastive_information(embedded, temperature=temperature).information
        measured[name] = float(arms[name]["measures"][measure]["mean"])
    return InformationOrder(
        measure=measure,
        information=information,
        measured=measured,
        prediction=predicts_order({name: found.mean for name, found in information.items()}, measured),
    )
