"""The verifier as a program of its own, so that it can be compiled against passages whose answer is known."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import dspy

from data.base.text import clean_text
from data.records import Requirement, Verdict
from programs.lm.faults import CallError
from programs.modules.candidates import Candidate, Fate
from programs.modules.predictors import AskingModule, RowInputs, Step
from programs.modules.signatures import MAX_REMARK_CHARS, VerifyIrrelevance

# The version of the rule in `judged`, a part of every run's key: rows that were finished under another rule are judged
# again. Raise it with every change of the rule.
ACCEPTANCE_RULE = 1


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


def numbered(requirements: Sequence[Requirement]) -> tuple[str, ...]:
    """The statements as prompts show them."""
    return tuple(f"{requirement.id}. {requirement.statement}" for requirement in requirements)


def read_verdict(answer: "dspy.Prediction | CallError") -> Verdict | None:
    """The verdict of an answer; None when there was none."""
    if isinstance(answer, CallError):
        return None
    return Verdict(
        satisfied=tuple(answer.satisfied),
        answers_query=answer.answers_query,
        reason=clean_text(answer.reason)[:MAX_REMARK_CHARS],
    )


def judged(candidate: Candidate, verdict: Verdict | None) -> Candidate:
    """The acceptance rule: the passage does not answer the query, and the target requirement does not hold."""
    if verdict is None:
        return candidate
    assert candidate.requirement is not None  # every violation is planned for one
    fate: Fate = "accepted"
    if verdict.answers_query:
        fate = "answers_query"
    elif verdict.satisfied[candidate.requirement.id - 1]:
        fate = "target_kept"
    return replace(
        candidate,
        verdict=verdict,
        fate=fate,
        verdicts=candidate.verdicts + 1,
        verdicts_relevant=candidate.verdicts_relevant + verdict.answers_query,
    )


def _verify_step(row: RowInputs, statements: Sequence[str], passage: str) -> Step:
    return Step(
        "verify",
        {"relevance": row.relevance, "query": row.query, "requirements": list(statements), "passage": passage},
        counted=("satisfied", len(statements)),
    )
