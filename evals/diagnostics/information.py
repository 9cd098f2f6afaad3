"""A training-free score of a set of negatives: how much contrastive information they hold for a given encoder.

In the spirit of effective contrastive information (arXiv 2603.20990), with formulae of our own. For a row with query q,
positive p and negatives n_j, similarities s, temperature t:

    consistency_j = sigmoid((s_p - s_j) / t)               0 to 1: the encoder agrees that n_j is the worse answer
    locality_j    = exp(-|s_p - s_j| / (4 t))               0 to 1: n_j scores near the positive: a large gradient
    residual_j    = 1 - shared(q, n_j)                      0 to 1: share of the query's words, weighted by rarity, that
                                                            n_j does not repeat, so that word matching cannot explain it
    w_j           = consistency_j * locality_j * residual_j
    u_j           = (n_j - p) / |n_j - p|                   the direction that n_j teaches
    information   = log det(I + K) / log 2,  K_ij = sqrt(w_i w_j) u_i.u_j
    diversity     = log det(I + K) / sum_j log(1 + w_j)     0 to 1: 1 when the directions are at right angles (Hadamard)

With these widths a lone negative weighs most at s_p - s_j = t log 3, where the encoder prefers the positive 3 to 1.
`information` counts effective negatives: 0 to the number of negatives, which k orthogonal negatives of weight 1 reach.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import numpy as np

from data.base.errors import InputError
from data.base.files import read_json_object
from data.base.stats import Floats, Interval, bootstrap_interval
from data.row_files import read_rows
from evals.ablation.ablate import read_ablation
from evals.diagnostics.embedded_rows import POSITIVE, EmbeddedRows, TextEncoder, embed_rows

_WORD = re.compile(r"\w+")
_EXACT_ARMS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ContrastiveInformation:
    """Means over rows: `information` in effective negatives a row (with interval), its parts each from 0 to 1."""

    information: Interval
    consistency: float
    locality: float
    residual: float
    diversity: float
    num_rows: int


def contrastive_information(embedded: EmbeddedRows, *, temperature: float) -> ContrastiveInformation:
    """The score of all negatives of the rows. Raises InputError when no row has a negative."""
    scores_P, rarity = embedded.scores_P, _rarity(embedded.texts_P)
    by_row = []
    for row, positive in enumerate(embedded.positive_R):
        negatives = np.flatnonzero((embedded.row_P == row) & (embedded.kind_P != POSITIVE))
        if not len(negatives):
            continue
        gap = scores_P[positive] - scores_P[negatives]
        query_words = set(_words(embedded.rows[row].query))
        residual = np.array([1 - _shared(query_words, embedded.texts_P[n], rarity) for n in negatives])
        difference = embedded.passages_PD[negatives] - embedded.passages_PD[positive]
        by_row.append(row_information(gap, residual, difference, temperature))
    if not by_row:
        raise InputError("the information score needs at least one row with a negative")
    parts = np.array(by_row)
    return ContrastiveInformation(
        information=bootstrap_interval(parts[:, 0]),
        consistency=float(parts[:, 1].mean()),
        locality=float(parts[:, 2].mean()),
        residual=float(parts[:, 3].mean()),
        diversity=float(parts[:, 4].mean()),
        num_rows=len(by_row),
    )


def row_information(
    gap_N: Floats, residual_N: Floats, difference_ND: Floats, temperature: float
) -> tuple[float, float, float, float, float]:
    """(information, consistency, locality, residual, diversity) of one row; the middle three are means over negatives.

    gap_N: positive's score minus the negative's. difference_ND: negative minus positive. A negative equal to the
    positive has no direction and counts nothing. Diversity is 1 where nothing has weight.
    """
    # The clip keeps exp in range; sigmoid(50) is 1 in double precision.
    consistency_N = 1 / (1 + np.exp(-np.clip(gap_N / temperature, -50, 50)))
    locality_N = np.exp(-np.abs(gap_N) / (4 * temperature))
    norm_N = np.linalg.norm(difference_ND, axis=1)
    direction_ND = difference_ND / np.where(norm_N > 0, norm_N, 1.0)[:, None]
    weight_N = np.where(norm_N > 0, consistency_N * locality_N * residual_N, 0.0)
    scaled_ND = np.sqrt(weight_N)[:, None] * direction_ND
    log_det = float(np.linalg.slogdet(np.eye(len(gap_N)) + scaled_ND @ scaled_ND.T)[1])
    most = float(np.log1p(weight_N).sum())
    return (
        log_det / float(np.log(2)),
        float(consistency_N.mean()),
        float(locality_N.mean()),
        float(residual_N.mean()),
        min(1.0, log_det / most) if most > 0 else 1.0,
    )


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _rarity(texts: Sequence[str]) -> dict[str, float]:
    """log(1 + passages / passages with the word), over the distinct passages at hand."""
    distinct = set(texts)
    counts = Counter(word for text in distinct for word in set(_words(text)))
    return {word: float(np.log1p(len(distinct) / count)) for word, count in counts.items()}


def _shared(query_words: set[str], text: str, rarity: Mapping[str, float]) -> float:
    """Share of the query's words that occur in the text, weighted by rarity. Words of no passage count as rarest."""
    rarest = max(rarity.values(), default=1.0)
    weights = {word: rarity.get(word, rarest) for word in query_words}
    total = sum(weights.values())
    found = set(_words(text))
    return sum(weight for word, weight in weights.items() if word in found) / total if total else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderPrediction:
    """Kendall's tau-b between a score and a result over arms, -1 to 1, and its one-sided permutation p-value.

    smallest_p: the p-value of a perfect prediction with so many arms; above 0.05 the test can confirm nothing.
    """

    tau: float
    p_value: float
    num_arms: int
    smallest_p: float

    def __str__(self) -> str:
        text = f"tau = {self.tau:+.2f} over {self.num_arms} arms, p = {self.p_value:.3f}"
        if self.smallest_p > 0.05:
            text += f" (with {self.num_arms} arms p cannot be below {self.smallest_p:.3f}: too few to confirm anything)"
        return text


def predicts_order(
    predicted: Mapping[str, float], measured: Mapping[str, float], *, num_permutations: int = 10_000, seed: int = 0
) -> OrderPrediction:
    """Does a training-free score put the arms of an ablation into the order of their measured results?

    All orders are tried up to 8 arms, a seeded sample beyond. Raises InputError for different arms on the two sides,
    fewer than 3 arms, or a side whose values are all equal.
    """
    if predicted.keys() != measured.keys():
        raise InputError("the score and the results must name the same arms")
    arms = list(predicted)
    if len(arms) < 3:
        raise InputError(f"an order needs at least 3 arms to be predicted, got {len(arms)}")
    first, second = np.array([predicted[arm] for arm in arms]), np.array([measured[arm] for arm in arms])
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        raise InputError("all arms have the same value: there is no order to predict")
    tau = _tau(first, second)
    if len(arms) <= _EXACT_ARMS:
        taus = np.array([_tau(first, second[list(order)]) for order in permutations(range(len(arms)))])
        at_least, num_orders = int((taus >= tau - 1e-12).sum()), len(taus)
        smallest = float((taus >= taus.max() - 1e-12).mean())
    else:
        rng = np.random.default_rng(seed)
        drawn = [_tau(first, rng.permutation(second)) for _ in range(num_permutations)]
        # The observed order is one of the possible ones, so that the value is never 0.
        at_least, num_orders = sum(value >= tau - 1e-12 for value in drawn) + 1, num_permutations + 1
        smallest = 1 / num_orders
    return OrderPrediction(tau=tau, p_value=at_least / num_orders, num_arms=len(arms), smallest_p=smallest)


def _tau(first_A: Floats, second_A: Floats) -> float:
    """Tau-b: concordant minus discordant pairs, over the geometric mean of the pairs that are not tied on each side."""
    first_AA, second_AA = np.sign(first_A[:, None] - first_A), np.sign(second_A[:, None] - second_A)
    return float((first_AA * second_AA).sum() / np.sqrt((first_AA**2).sum() * (second_AA**2).sum()))


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
