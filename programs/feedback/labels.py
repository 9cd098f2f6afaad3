"""Passages whose relevance is known, as examples that the verifier is compiled and measured with."""

from collections.abc import Sequence
from dataclasses import dataclass

import dspy

from data.records import Row
from programs.modules.verifier import numbered


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledPassage:
    """A passage whose relevance to a query is known; `satisfied` where even the requirements were judged by hand."""

    query: str
    requirements: tuple[str, ...]
    passage: str
    relevant: bool
    satisfied: tuple[bool, ...] | None = None


def labelled_passages(rows: Sequence[Row]) -> list[LabelledPassage]:
    """What is known about the passages of rows that carry requirements; rows without are left out.

    Positives are relevant and meet every requirement. Negatives with a verdict are as it says. Where a row has none,
    its mined near misses count as irrelevant (a few may not be: nobody judged them).
    """
    known: list[LabelledPassage] = []
    for row in rows:
        if not row.requirements:
            continue
        statements = numbered(row.requirements)
        all_met = (True,) * len(statements)
        known.extend(_labelled(row, statements, passage.text, True, all_met) for passage in row.positives)
        judged = [negative for negative in row.negatives if negative.verdict is not None]
        for negative in judged or row.of_source("mined"):
            verdict = negative.verdict
            if verdict is None:
                known.append(_labelled(row, statements, negative.text, False, None))
            elif len(verdict.satisfied) == len(statements):
                known.append(_labelled(row, statements, negative.text, verdict.answers_query, verdict.satisfied))
    return known


def verifier_example(label: LabelledPassage, relevance: str) -> dspy.Example:
    """The label as a DSPy example: the signature's inputs, and `label` for the metric."""
    return dspy.Example(
        relevance=relevance,
        query=label.query,
        requirements=list(label.requirements),
        passage=label.passage,
        label=label,
    ).with_inputs("relevance", "query", "requirements", "passage")


def _labelled(
    row: Row, statements: tuple[str, ...], passage: str, relevant: bool, satisfied: tuple[bool, ...] | None
) -> LabelledPassage:
    return LabelledPassage(
        query=row.query, requirements=statements, passage=passage, relevant=relevant, satisfied=satisfied
    )
