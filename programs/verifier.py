"""The verifier as a program of its own, so that it can be compiled against passages whose answer is known."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dspy

from data.readers.demo import demo_items
from data.records import Requirement, Row
from programs.asking import AskingModule, Step
from programs.signatures import VerifyIrrelevance
from programs.synthesizer import read_verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledPassage:
    """A passage whose relevance to a query is known; `satisfied` where even the requirements were judged by hand."""

    query: str
    requirements: tuple[str, ...]
    passage: str
    relevant: bool
    satisfied: tuple[bool, ...] | None = None


class Verifier(AskingModule):
    """Sub-predictor `verify` alone; the prediction holds a `verdict`, None when there was no usable one."""

    def __init__(self, malformed_retries: int = 2):
        super().__init__(malformed_retries)
        self.verify = dspy.Predict(VerifyIrrelevance)

    def use(self, lm: dspy.LM, adapter: dspy.Adapter) -> "Verifier":
        """Set the model and its adapter; returns self."""
        self.verify.lm, self.adapters = lm, {"verify": adapter}
        return self

    def forward(self, **inputs: Any) -> dspy.Prediction:
        """Judge one passage; `inputs` are the signature's."""
        faults: Counter[str] = Counter()
        answer = self.ask(Step("verify", inputs, counted=("satisfied", len(inputs["requirements"]))), faults)
        return dspy.Prediction(verdict=read_verdict(answer))


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


def demo_gold_rows() -> list[Row]:
    """The demo rows with their requirements and judged negatives."""
    return [item.row for item in demo_items()]


def numbered(requirements: Sequence[Requirement]) -> tuple[str, ...]:
    """The statements as prompts show them."""
    return tuple(f"{requirement.id}. {requirement.statement}" for requirement in requirements)


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
