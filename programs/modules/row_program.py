"""A program over rows: what it sees of one, the models it is given, and the drafts that it makes of answers."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol, Self

import dspy

from data.base.text import clean_text, same_text_key
from data.records import Requirement
from programs.lm.adapters import ChatLayout
from programs.lm.faults import CallError
from programs.modules.candidates import Candidate, Hardness, Synthesis
from programs.modules.predictors import AskingModule, Predictor, Step
from programs.modules.signatures import MAX_PASSAGE_CHARS, MAX_REMARK_CHARS, MAX_REQUIREMENTS, RequirementDraft
from programs.modules.verifier import POSITIVE_REFUSED, Question, judge, numbered
from programs.options import VerifyBy

Role = Literal["generator", "verifier"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowInputs:
    """What the program sees of a row: corpus profile, query, known positive, and its other texts.

    `negatives` are its mined negatives, `other_positives` its further positives. `mined` are the nearest mined
    passages, to be judged with the row's own; `seed_id` seeds the order of its line-up
    (empty: its query does). `requirements` are those that the row came with. `canary` has the positive judged too where
    passages are judged one by one; a line-up always has it.
    """

    query: str
    passage: str
    relevance: str
    style: tuple[str, ...] = ()
    other_positives: tuple[str, ...] = ()
    negatives: tuple[str, ...] = ()
    canary: bool = False
    mined: tuple[str, ...] = ()
    seed_id: str = ""
    requirements: tuple[Requirement, ...] = ()

    def known_keys(self) -> set[str]:
        """`same_text_key` of all its texts, none of which may be written again."""
        return {same_text_key(text) for text in (self.passage, *self.other_positives, *self.negatives)}


class Scorer(Protocol):
    """Scores drafts; `key` is all that decides its scores, as JSON takes it."""

    @property
    def key(self) -> Sequence[str | float]: ...

    async def score(
        self, query: str, positives: Sequence[str], mined: Sequence[str], drafts: Sequence[str]
    ) -> list[Hardness]:
        """The hardness of each draft of one row, beside its positives and mined negatives."""


class RowProgram(AskingModule):
    """A program that turns one row into a synthesis; subclasses write `run` and name the role of each predictor.

    Those that have a predictor `verify` judge with `judge_row`, in the way of `verify_by`. `keep_at_least` is the share
    of the other requirements that must hold in an accepted draft; `scorer` says how hard it is.
    """

    verify_by: VerifyBy | None
    keep_at_least: float = 0.0
    scorer: Scorer | None = None
    roles: ClassVar[Mapping[Predictor, Role]]

    def __init__(self, malformed_retries: int, signatures: Mapping[Predictor, type[dspy.Signature]]):
        super().__init__(malformed_retries)
        self.signatures = dict(signatures)
        for name, signature in signatures.items():
            setattr(self, name, dspy.Predict(signature))

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
        for name in self.signatures:
            getattr(self, name).lm = models[self.roles[name]]
        self.adapters = {name: adapters[self.roles[name]] for name in self.signatures}
        return self

    @abstractmethod
    async def run(self, row: RowInputs, faults: Counter[str]) -> Synthesis:
        """Synthesise one row; what goes wrong on the way is counted in `faults`."""

    async def aforward(self, inputs: RowInputs) -> dspy.Prediction:
        """Synthesise one row; the prediction holds a `synthesis`."""
        faults: Counter[str] = Counter()
        synthesis = await self.run(inputs, faults)
        return dspy.Prediction(synthesis=replace(synthesis, faults=faults))

    async def read_row(
        self, row: RowInputs, num_ways: int, faults: Counter[str]
    ) -> tuple[Synthesis, Sequence[RequirementDraft]]:
        """The row's requirements, asked for with so many ways to break them, and their drafts, which hold the ways.

        The row fails when there is no usable answer, or it refuses the positive: then there are none.
        """
        asked = {"relevance": row.relevance, "num_ways": num_ways, "query": row.query, "passage": row.passage}
        found = await self.call(Step("extract", asked), faults)
        if isinstance(found, CallError):
            return Synthesis(failure=f"extract_{found.loss}", failure_detail=found.detail), []
        if not found.meets_query:
            detail = clean_text(found.refusal)[:MAX_REMARK_CHARS] or "the extraction gave no reason"
            return Synthesis(failure=POSITIVE_REFUSED, failure_detail=detail), []
        return Synthesis(
            requirements=number_requirements(found.requirements, row.passage, faults),
            information_need=clean_text(found.information_need)[:MAX_REMARK_CHARS],
            answer_boundary=clean_text(found.answer_boundary)[:MAX_REMARK_CHARS],
        ), found.requirements

    async def judge_row(
        self,
        row: RowInputs,
        so_far: Synthesis,
        drafts: Sequence[Candidate],
        faults: Counter[str],
        *,
        first: bool,
        look: int = 0,
    ) -> tuple[list[Candidate], Synthesis]:
        """The drafts with their verdicts, and the synthesis with those on the known positive and, the `first` time, on
        the mined passages. It fails when the positive is refused. `look` counts earlier verdicts on the drafts."""
        assert self.verify_by is not None  # such programs do not ask
        # Recorded verdicts are on what is in the records.
        mined = row.mined if first and not is_recorded(self.verify.lm) else ()
        canary = row.canary and first if self.verify_by == "one-by-one" else True
        to_verify = [place for place, draft in enumerate(drafts) if draft.fate == "not_verified"]
        question = Question(
            relevance=row.relevance,
            query=row.query,
            requirements=numbered(so_far.requirements),
            seed_id=row.seed_id,
            look=look,
        )
        found = await judge(
            self,
            self.verify_by,
            question,
            [*(drafts[place].text for place in to_verify), *mined],
            canary=row.passage if canary and (first or to_verify) else None,
            faults=faults,
        )
        fresh = list(drafts)
        for place, verdict, position in zip(to_verify, found.verdicts, found.places, strict=False):
            fresh[place] = replace(fresh[place].judged(verdict, self.keep_at_least), place=position)
        if first:
            unjudged = len(row.mined) - len(mined)
            so_far = replace(
                so_far,
                canary_asked=canary,
                mined=found.verdicts[len(to_verify) :] + (None,) * unjudged,
                mined_places=found.places[len(to_verify) :] + (0,) * unjudged,
            )
        if found.canary is not None and (so_far.canary is None or not found.canary.answers_query):
            so_far = replace(so_far, canary=found.canary, canary_place=found.canary_place)
        if so_far.canary is not None and not so_far.canary.answers_query:
            so_far = replace(so_far, failure=POSITIVE_REFUSED, failure_detail=so_far.canary.reason)
        return fresh, so_far


def is_recorded(lm: Any) -> bool:
    """Whether a model has nothing but recorded answers: no verdicts on other passages, and no second drafts."""
    return bool(getattr(getattr(lm, "spec", None), "judges_only_known", False))


def number_requirements(
    drafts: Sequence[RequirementDraft], passage: str, faults: Counter[str]
) -> tuple[Requirement, ...]:
    """Give the extracted requirements their positions as ids; an evidence span not in the passage is a fault."""
    text = same_text_key(passage)
    requirements = []
    for position, draft in enumerate(drafts[:MAX_REQUIREMENTS], start=1):
        evidence = clean_text(draft.evidence)
        if not evidence or same_text_key(evidence) not in text:
            faults["evidence_not_in_passage"] += 1
        requirements.append(
            Requirement(
                id=position,
                kind=draft.kind,
                statement=" ".join(clean_text(draft.statement).split()),
                evidence=evidence,
                critical=draft.critical,
            )
        )
    return tuple(requirements)


def draft_candidate(
    planned: Candidate,
    text: str,
    *,
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
    candidate = replace(planned, text=text, generator=generator)
    key = same_text_key(text)
    if key in known:
        return replace(candidate, fate="copies_a_passage")
    known.add(key)
    return replace(candidate, fate="not_verified")
