"""The rule by which a candidate negative is accepted, its fates and their words, and the reading of a verdict."""

from collections.abc import Sequence
from typing import Literal, get_args

import dspy

from data.base.text import clean_text
from data.records import Requirement, Verdict
from programs.lm.faults import CallError
from programs.modules.predictors import Step
from programs.modules.signatures import MAX_REMARK_CHARS

# The fate of one candidate negative, in the order of the funnel.
Fate = Literal["accepted", "not_written", "copies_a_passage", "not_verified", "answers_query", "target_kept"]
FATES: tuple[Fate, ...] = get_args(Fate)
# Fates that another draft may mend: the verifier said what is wrong.
REPAIRABLE: tuple[Fate, ...] = ("answers_query", "target_kept")
LOSS_WORDS = {
    "not_written": "no usable draft was written",
    "copies_a_passage": "repeats the positive, a mined passage or a sibling",
    "not_verified": "no usable verdict",
    "answers_query": "the verifier says that it answers the query",
    "target_kept": "the requirement to be broken still holds",
    "positive_refused": "the row's own positive was said not to answer",
    "not_used": "left out of training (duplicates, or more than a row may have)",
}
# The version of the rule in `fate_of`, a part of every run's key: rows that were finished under another rule are judged
# again. Raise it with every change of the rule.
ACCEPTANCE_RULE = 1


def fate_of(verdict: Verdict | None, target: int) -> Fate:
    """The acceptance rule: the passage does not answer the query, and the requirement with the id `target` does not
    hold."""
    if verdict is None:
        return "not_verified"
    if verdict.answers_query:
        return "answers_query"
    return "target_kept" if verdict.satisfied[target - 1] else "accepted"


def numbered(requirements: Sequence[Requirement]) -> tuple[str, ...]:
    """The statements as prompts show them."""
    return tuple(f"{requirement.id}. {requirement.statement}" for requirement in requirements)


def verify_step(*, relevance: str, query: str, requirements: Sequence[str], passage: str) -> Step:
    """The blind question about one passage, whose verdict has a value for each requirement."""
    asked = {"relevance": relevance, "query": query, "requirements": list(requirements), "passage": passage}
    return Step("verify", asked, expected_length=("satisfied", len(requirements)))


def read_verdict(answer: "dspy.Prediction | CallError") -> Verdict | None:
    """The verdict of an answer; None when there was none."""
    if isinstance(answer, CallError):
        return None
    return Verdict(
        satisfied=tuple(answer.satisfied),
        answers_query=answer.answers_query,
        reason=clean_text(answer.reason)[:MAX_REMARK_CHARS],
    )
