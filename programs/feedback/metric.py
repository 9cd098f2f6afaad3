"""One score, three adapters: for BootstrapFewShot (bool with a trace), MIPROv2 (float) and GEPA (score and words)."""

from collections.abc import Callable
from typing import Any

import dspy

from data.records import Row
from programs.feedback.labels import judged_right
from programs.feedback.retriever import Retriever
from programs.feedback.row import RowFeedback, row_feedback
from programs.feedback.score import Bands, CorpusStyle

# Score and words of one example; the words depend on the predictor, the score does not.
Judge = Callable[[dspy.Example, dspy.Prediction], tuple[float, "Words"]]
Words = Callable[[str | None, Any], str]


def synthesis_judge(retriever: Retriever, bands: Bands, style: CorpusStyle | None) -> Judge:
    """Judge a synthesis by the retriever's feedback; the example holds the `row`."""

    def judge(example: dspy.Example, prediction: dspy.Prediction) -> tuple[float, Words]:
        row: Row = example.row
        feedback: RowFeedback = row_feedback(row, prediction.synthesis, retriever, bands, style)
        return feedback.score, feedback.words

    return judge


def verifier_judge(example: dspy.Example, prediction: dspy.Prediction) -> tuple[float, Words]:
    """Judge verdicts by the labels of their passages: the mean over the passages."""
    found = [judged_right(*pair) for pair in zip(prediction.verdicts, example.known, strict=True)]

    def words(predictor: str | None, output: Any) -> str:
        if len(found) == 1:
            return found[0][1]
        return "\n".join(f"Passage {number}. {said}" for number, (_, said) in enumerate(found, start=1))

    return sum(score for score, _ in found) / len(found), words


def float_metric(judge: Judge) -> Callable[..., float]:
    """For MIPROv2 and plain evaluation."""

    def metric(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> float:
        return judge(example, prediction)[0]

    return metric


def bool_metric(judge: Judge, threshold: float) -> Callable[..., bool | float]:
    """For BootstrapFewShot: with a trace, whether the example is good enough to be a demonstration; else the score."""

    def metric(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> bool | float:
        score = judge(example, prediction)[0]
        return score if trace is None else score >= threshold

    return metric


def gepa_metric(judge: Judge) -> Callable[..., dspy.Prediction]:
    """For GEPA: the score, the same with and without `pred_name`, and the words for that predictor."""

    def metric(
        gold: dspy.Example,
        pred: dspy.Prediction,
        trace: Any = None,
        pred_name: str | None = None,
        pred_trace: Any = None,
    ) -> dspy.Prediction:
        score, words = judge(gold, pred)
        output = pred_trace[0][2] if pred_trace else None
        return dspy.Prediction(score=score, feedback=words(pred_name, output))

    return metric
