"""What every program over one row is: a generator that yields batches of predictor calls and returns a synthesis.

The row's logic is written once; `forward` answers the calls one by one (for DSPy's optimisers), `aforward` all those
of a batch at once (for the run).
"""

from abc import abstractmethod
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Self

import dspy

from programs.asking import AskingModule, Predictor, Step
from programs.faults import CallError
from programs.outcome import Synthesis


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
    """A program that turns one row into a synthesis; subclasses write `_steps` and say which role has which model."""

    signatures: dict[Predictor, type[dspy.Signature]]

    @abstractmethod
    def use(
        self,
        *,
        generator: dspy.LM,
        verifier: dspy.LM,
        generator_adapter: dspy.Adapter | None = None,
        verifier_adapter: dspy.Adapter | None = None,
    ) -> Self:
        """Set the models of the two roles and the adapters that they understand best; returns self."""

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


def plain_adapter() -> dspy.Adapter:
    """The chat layout, without DSPy's own second try in another layout: retries are counted here."""
    return dspy.ChatAdapter(use_json_adapter_fallback=False)
