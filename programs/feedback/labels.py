"""Passages whose relevance is known, as examples that the verifier is compiled and measured with."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import dspy

from data.base.text import content_id
from data.records import Row, Verdict
from programs.modules.verifier import numbered


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledPassage:
    """A passage whose relevance to a query is known; `satisfied` where even the requirements were judged by hand."""

    query: str
    requirements: tuple[str, ...]
    passage: str
    relevant: bool
    satisfied: tuple[bool, ...] | None = None


def labelled_passages(row: Row) -> list[LabelledPassage]:
    """What is known about the passages of a row that carries requirements; nothing of one without.

    Positives are relevant and meet every requirement. Negatives with a verdict are as it says. Where the row has none,
    its mined near misses count as irrelevant (a few may not be: nobody judged them).
    """
    if not row.requirements:
        return []
    label = partial(LabelledPassage, query=row.query, requirements=numbered(row.requirements))
    all_met = (True,) * len(row.requirements)
    known = [label(passage=passage.text, relevant=True, satisfied=all_met) for passage in row.positives]
    judged = [negative for negative in row.negatives if negative.verdict is not None]
    for negative in judged or row.of_source("mined"):
        verdict = negative.verdict
        if verdict is None:
            known.append(label(passage=negative.text, relevant=False))
        elif len(verdict.satisfied) == len(row.requirements):
            known.append(label(passage=negative.text, relevant=verdict.answers_query, satisfied=verdict.satisfied))
    return known


def verifier_example(labels: Sequence[LabelledPassage], relevance: str) -> dspy.Example:
    """Labelled passages of one row as a DSPy example: the verifier's inputs, and the labels as `known` for the metric.

    They are shuffled by the query: a verifier must not learn that the first passage is the one that answers.
    """
    shuffled = random.Random(content_id(labels[0].query)).sample(labels, len(labels))
    return dspy.Example(
        relevance=relevance,
        query=shuffled[0].query,
        requirements=list(shuffled[0].requirements),
        passages=[label.passage for label in shuffled],
        known=shuffled,
    ).with_inputs("relevance", "query", "requirements", "passages")


def judged_right(verdict: Verdict | None, label: LabelledPassage) -> tuple[float, str]:
    """How right a verdict is, 0 to 1 (half for the relevance, half for the share of requirements judged right, where
    both are known), and what it says in words."""
    if verdict is None:
        return 0.0, "There was no usable verdict: one true or false for every requirement."
    right = verdict.answers_query == label.relevant
    known = "answers" if label.relevant else "does not answer"
    said = [f"{'Right' if right else 'Wrong'}: the passage {known} the query."]
    if label.satisfied is None:
        return float(right), said[0]
    pairs = zip(label.requirements, verdict.satisfied, label.satisfied, strict=True)
    wrong = [(statement, truth) for statement, judged, truth in pairs if judged != truth]
    said += [f"Wrong on requirement {statement!r}: it is {'' if truth else 'not '}met." for statement, truth in wrong]
    return 0.5 * right + 0.5 * (1 - len(wrong) / len(label.satisfied)), " ".join(said)
