"""What every program over one row is: a generator that yields batches of predictor calls and returns a synthesis.

The row's logic is written once; `forward` answers the calls one by one (for DSPy's optimisers), `aforward` all those
of a batch at once (for the run).
"""

from abc import abstractmethod
from collections import Counter
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import dspy

from data.base.text import clean_text, same_text_key
from programs.asking import AskingModule, Predictor, Step
from programs.lm.adapters import ChatLayout
from programs.lm.faults import CallError
from programs.outcome import Candidate, Synthesis
from programs.signatures import MAX_PASSAGE_CHARS, MAX_REMARK_CHARS

Role = Literal["generator", "verifier"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowInputs:
    """What the program sees of a row: corpus profile, query, known positive, and the texts it must not repeat."""

    query: str
    passage: str
    relevance: str
    style: tuple[str, ...] = ()
    known_texts: tuple[str, ...] = ()
    canary: bool = False


Steps = Generator[list[Step], list["dspy.Prediction | CallError"], Synthesis]


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
