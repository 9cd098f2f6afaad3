"""A program over rows: what it sees of one, the models it is given, and the drafts that it makes of answers."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import dspy

from data.base.text import clean_text, same_text_key
from programs.lm.adapters import ChatLayout
from programs.modules.candidates import Candidate, Synthesis
from programs.modules.predictors import AskingModule, Predictor
from programs.modules.signatures import MAX_PASSAGE_CHARS, MAX_REMARK_CHARS

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


class RowProgram(AskingModule):
    """A program that turns one row into a synthesis; subclasses write `run` and name the role of each predictor."""

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
    async def run(self, row: RowInputs, faults: Counter[str]) -> Synthesis:
        """Synthesise one row; what goes wrong on the way is counted in `faults`."""

    async def aforward(self, inputs: RowInputs) -> dspy.Prediction:
        """Synthesise one row; the prediction holds a `synthesis`."""
        faults: Counter[str] = Counter()
        synthesis = await self.run(inputs, faults)
        return dspy.Prediction(synthesis=replace(synthesis, faults=faults))


def draft_candidate(
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
