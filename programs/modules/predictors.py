"""Asking predictors so that an answer that cannot be read costs a bounded number of retries and is counted."""

import asyncio
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import dspy
import pydantic

from data.base.text import clean_text, same_text_key
from programs.lm.adapters import ChatLayout, known_length
from programs.lm.faults import UNREADABLE, CallError
from programs.lm.role_lm import answered_by
from programs.modules.candidates import Candidate, Synthesis
from programs.modules.signatures import MAX_PASSAGE_CHARS, MAX_REMARK_CHARS

Role = Literal["generator", "verifier"]

Predictor = Literal["extract", "violate", "verify", "write"]
# A retry of an answer that could not be read must be able to differ from it.
_RETRY_TEMPERATURE = 0.3
# What delimits fields in the chat layout, and in the XML layout.
_MARK = re.compile(r"\[\[\s*##\s*")
_TAG = re.compile(
    r"<(/?(?:relevance|query|passages?|pairs|typical|requirements|style|target|disruption|direction|refused|violations|negatives?"
    r"|explanation|information_need|reason|satisfied|answers_query))>"
)


@dataclass(frozen=True, slots=True)
class Step:
    """One predictor call; `counted` names an output list and how long it must be for the answer to be of use."""

    predictor: Predictor
    inputs: Mapping[str, Any]
    counted: tuple[str, int] | None = None

    def as_data(self) -> dict[str, Any]:
        """The inputs as they may stand in a prompt."""
        return {name: as_data(value) for name, value in self.inputs.items()}


Steps = Generator[list[Step], list["dspy.Prediction | CallError"], Synthesis]


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

    def __call__(self, **inputs: Any) -> Any:
        return self.predictor(**inputs)

    async def acall(self, **inputs: Any) -> Any:
        """Ask the predictor."""
        return await self.predictor.acall(**inputs)


class AskingModule(dspy.Module):  # type: ignore[misc]
    """A module whose predictors are asked by name, each with its own adapter."""

    def __init__(self, malformed_retries: int):
        super().__init__()
        self.malformed_retries = malformed_retries
        self.adapters: dict[str, dspy.Adapter] = {}

    def ask(self, step: Step, faults: Counter[str]) -> "dspy.Prediction | CallError":
        """The prediction, or the fault that it ended in; InputError (nothing can succeed any more) is raised."""
        known_length.set(step.counted)
        with dspy.context(adapter=self.adapters.get(step.predictor)):
            for attempt in range(self.malformed_retries + 1):
                try:
                    predictor = getattr(self, step.predictor)
                    return _checked(step, predictor(**step.as_data(), config=self._config(step.predictor, attempt)))
                except UNREADABLE as error:
                    if (fault := self._lost(step, error, attempt, faults)) is not None:
                        return fault
        raise AssertionError("the last attempt returns")

    async def ask_async(self, step: Step, faults: Counter[str]) -> "dspy.Prediction | CallError":
        """`ask`, awaited."""
        known_length.set(step.counted)
        with dspy.context(adapter=self.adapters.get(step.predictor)):
            for attempt in range(self.malformed_retries + 1):
                try:
                    predictor = getattr(self, step.predictor)
                    answer = await predictor.acall(**step.as_data(), config=self._config(step.predictor, attempt))
                    return _checked(step, answer)
                except UNREADABLE as error:
                    if (fault := self._lost(step, error, attempt, faults)) is not None:
                        return fault
        raise AssertionError("the last attempt returns")

    def _lost(self, step: Step, error: Exception, attempt: int, faults: Counter[str]) -> CallError | None:
        """Count a failed attempt; the fault to give up with, or None to ask again."""
        if not isinstance(error, CallError):
            error = CallError("malformed", str(error.message if hasattr(error, "message") else error))
        faults[f"{step.predictor}_{error.loss}"] += 1
        again = error.loss == "malformed" and attempt < self.malformed_retries
        return None if again else error

    def _config(self, predictor: Predictor, attempt: int) -> dict[str, Any]:
        if attempt == 0:
            return {}
        lm = getattr(self, predictor).lm
        temperature = None if lm is None else lm.kwargs.get("temperature")
        return {"rollout_id": attempt} | ({"temperature": _RETRY_TEMPERATURE} if temperature == 0 else {})

    async def ask_together(self, batch: Sequence[Step], faults: Counter[str]) -> list["dspy.Prediction | CallError"]:
        """`ask` every step of the batch at the same time.

        When one of them raises, the others are still waited for: their answers are paid for and go into the store.
        """
        answers = await asyncio.gather(*(self.ask_async(step, faults) for step in batch), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, CallError):
                raise answer
        return [answer for answer in answers if isinstance(answer, (dspy.Prediction, CallError))]


def _checked(step: Step, prediction: dspy.Prediction) -> dspy.Prediction:
    """The prediction with its author; raises CallError when it is of no use although it could be parsed."""
    if step.counted is not None:
        name, wanted = step.counted
        found = len(getattr(prediction, name))
        if found != wanted:
            raise CallError("malformed", f"{found} values of {name}, {wanted} were wanted")
    prediction._answered_by = answered_by.get()
    return prediction


def author(prediction: dspy.Prediction) -> str:
    """The name of the model that gave this answer; empty when it was not one of ours."""
    return str(getattr(prediction, "_answered_by", ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class RowInputs:
    """What the program sees of a row: corpus profile, query, known positive, and the texts it must not repeat."""

    query: str
    passage: str
    relevance: str
    style: tuple[str, ...] = ()
    known_texts: tuple[str, ...] = ()
    canary: bool = False


class RowProgram(AskingModule):
    """A program that turns one row into a synthesis; subclasses write `_steps` and name the role of each predictor."""

    signatures: dict[Predictor, type[dspy.Signature]]
    roles: ClassVar[Mapping[Predictor, Role]]

    def use(
        self,
        *,
        generator: dspy.LM,
        verifier: dspy.LM,
        generator_adapter: dspy.Adapter | None = None,
        verifier_adapter: dspy.Adapter | None = None,
    ) -> Self:
        """Set the models of the two roles and the adapters that they understand best; returns self."""
        models = {"generator": generator, "verifier": verifier}
        adapters = {"generator": generator_adapter or ChatLayout(), "verifier": verifier_adapter or ChatLayout()}
        for name, role in self.roles.items():
            getattr(self, name).lm = models[role]
        self.adapters = {name: adapters[role] for name, role in self.roles.items()}
        return self

    @abstractmethod
    def _steps(self, row: RowInputs, faults: Counter[str]) -> Steps:
        """The calls for one row, batch by batch; what a batch's calls gave is sent back in."""

    def forward(self, inputs: RowInputs) -> dspy.Prediction:
        """Synthesise one row, one call after another; the prediction holds a `synthesis`."""
        faults: Counter[str] = Counter()
        steps = self._steps(inputs, faults)
        try:
            batch = next(steps)
            while True:
                batch = steps.send([self.ask(step, faults) for step in batch])
        except StopIteration as stop:
            return dspy.Prediction(synthesis=replace(stop.value, faults=faults))

    async def aforward(self, inputs: RowInputs) -> dspy.Prediction:
        """Synthesise one row; calls that do not wait for each other run at the same time."""
        faults: Counter[str] = Counter()
        steps = self._steps(inputs, faults)
        try:
            batch = next(steps)
            while True:
                batch = steps.send(await self.ask_together(batch, faults))
        except StopIteration as stop:
            return dspy.Prediction(synthesis=replace(stop.value, faults=faults))


def written(
    planned: Candidate,
    text: str,
    *,
    explanation: str = "",
    generator: str,
    step: Predictor,
    known: set[str],
    faults: Counter[str],
) -> Candidate:
    """The candidate with this draft: as planned if it is empty or too long (a fault of `step`), a copy if its text is
    `known`, else still to be verified and known from now on."""
    text = clean_text(text)
    if not text or len(text) > MAX_PASSAGE_CHARS:
        faults[f"{step}_empty" if not text else f"{step}_too_long"] += 1
        return planned
    remark = clean_text(explanation)[:MAX_REMARK_CHARS]
    candidate = replace(planned, text=text, explanation=remark, generator=generator)
    key = same_text_key(text)
    if key in known:
        return replace(candidate, fate="copies_a_passage")
    known.add(key)
    return replace(candidate, fate="not_verified")
