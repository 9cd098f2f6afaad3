"""Asking predictors so that an answer that cannot be read costs a bounded number of retries and is counted."""

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import dspy
import pydantic

from programs.lm.adapters import expected_length
from programs.lm.bridge import wait_for
from programs.lm.faults import UNREADABLE, CallError
from programs.lm.role_lm import RoleLM, answered_by
from programs.modules.signatures import FIELD_NAMES

log = logging.getLogger(__name__)
Predictor = Literal["extract", "violate", "verify", "write"]
# A retry of an answer that could not be read must be able to differ from it.
_RETRY_TEMPERATURE = 0.3
# What delimits fields in the chat layout, and in the XML layout.
_MARK = re.compile(r"\[\[\s*##\s*")
_TAG = re.compile(rf"<(/?(?:{'|'.join(sorted(FIELD_NAMES, key=len, reverse=True))}))>")


@dataclass(frozen=True, slots=True)
class Step:
    """One call of a predictor.

    `expected_length` names an output list and how long it must be to be of use; `fault_of` says what else makes an
    answer useless, None for a good one. `look`: how often the same was asked before, whose answers are not to be had
    again.
    """

    predictor: Predictor
    inputs: Mapping[str, Any]
    expected_length: tuple[str, int] | None = None
    fault_of: Callable[[dspy.Prediction], str | None] | None = None
    look: int = 0

    def as_data(self) -> dict[str, Any]:
        """The inputs as they may stand in a prompt."""
        return {name: as_data(value) for name, value in self.inputs.items()}


def as_data(value: Any) -> Any:
    """Text as it may stand in a prompt: marks that begin or end a field of the prompt lose their form.

    A passage cannot close its own field, or open one of the answer's, whatever the layout.
    """
    if isinstance(value, list):
        return [as_data(item) for item in value]
    if isinstance(value, pydantic.BaseModel):
        return value.model_copy(update={name: as_data(item) for name, item in value})
    if not isinstance(value, str):
        return value
    return _TAG.sub(r"‹\1›", _MARK.sub("[ [ ## ", value))


class Frozen:
    """A predictor that a program uses but no optimiser sees: DSPy finds predictors, not what holds them."""

    def __init__(self, predictor: dspy.Predict):
        self.predictor = predictor

    @property
    def lm(self) -> Any:
        """The predictor's model."""
        return self.predictor.lm

    async def acall(self, **inputs: Any) -> Any:
        """Ask the predictor."""
        return await self.predictor.acall(**inputs)


class AskingModule(dspy.Module):  # type: ignore[misc]
    """A module whose predictors are asked by name, each with its own adapter; subclasses write `aforward`."""

    def __init__(self, malformed_retries: int):
        super().__init__()
        self.malformed_retries = malformed_retries
        self.adapters: dict[str, dspy.Adapter] = {}
        self._refused: set[str] = set()

    def forward(self, **inputs: Any) -> dspy.Prediction:
        """`aforward` for callers that block, such as DSPy's optimisers."""
        return wait_for(self.aforward(**inputs))

    async def call(self, step: Step, faults: Counter[str]) -> "dspy.Prediction | CallError":
        """The prediction, or the fault that it ended in; InputError (nothing can succeed any more) is raised."""
        (answer,) = await self.call_all([step], faults)
        return answer

    async def call_all(self, steps: Sequence[Step], faults: Counter[str]) -> list["dspy.Prediction | CallError"]:
        """`call` of every step at the same time, in DSPy's trace in the order of the steps.

        When one of them raises, the others are still waited for: their answers are paid for and go into the store.
        """
        trace = dspy.settings.trace
        traces: list[Any] = [None if trace is None else [] for _ in steps]
        asked = (self._ask(step, faults, each) for step, each in zip(steps, traces, strict=True))
        answers = await asyncio.gather(*asked, return_exceptions=True)
        if trace is not None:
            trace += [entry for each in traces for entry in each]
            del trace[: -dspy.settings.max_trace_size]
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, CallError):
                raise answer
        return [answer for answer in answers if isinstance(answer, (dspy.Prediction, CallError))]

    async def _ask(self, step: Step, faults: Counter[str], trace: list[Any] | None) -> "dspy.Prediction | CallError":
        expected_length.set(step.expected_length)
        predictor, inputs = getattr(self, step.predictor), step.as_data()
        with dspy.context(adapter=self.adapters.get(step.predictor), trace=trace):
            tries = self.malformed_retries + 1
            for attempt in range(step.look * tries, (step.look + 1) * tries):
                try:
                    return _checked(step, await predictor.acall(**inputs, config=_config(predictor.lm, attempt)))
                except UNREADABLE as error:
                    if not isinstance(error, CallError):
                        error = CallError("malformed", str(getattr(error, "message", error)))
                    faults[f"{step.predictor}_{error.loss}"] += 1
                    if error.loss == "request_refused" and step.predictor not in self._refused:
                        # Once for each step: the counts at the end say how often, but not why.
                        self._refused.add(step.predictor)
                        log.warning("warning: %s: a request was refused: %s", step.predictor, error.detail)
                    if error.loss != "malformed" or attempt == (step.look + 1) * tries - 1:
                        return error
        raise AssertionError("the last attempt returns")


def _config(lm: Any, attempt: int) -> dict[str, Any]:
    if attempt == 0:
        return {}
    temperature = lm.spec.temperature if isinstance(lm, RoleLM) else getattr(lm, "kwargs", {}).get("temperature")
    return {"rollout_id": attempt} | ({"temperature": _RETRY_TEMPERATURE} if temperature == 0 else {})


def _checked(step: Step, prediction: dspy.Prediction) -> dspy.Prediction:
    """The prediction with its author; raises CallError when it is of no use although it could be parsed."""
    if step.expected_length is not None:
        name, wanted = step.expected_length
        found = len(getattr(prediction, name))
        if found != wanted:
            raise CallError("malformed", f"{found} values of {name}, {wanted} were wanted")
    if step.fault_of is not None and (fault := step.fault_of(prediction)) is not None:
        raise CallError("malformed", fault)
    prediction._answered_by = answered_by.get()
    return prediction


def author(prediction: dspy.Prediction) -> str:
    """The name of the model that gave this answer; empty when it was not one of ours."""
    return str(getattr(prediction, "_answered_by", ""))
