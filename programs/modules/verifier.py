"""How passages are judged blind, in one line-up or one by one, and the rule by which a candidate is accepted."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import dspy

from data.base.text import clean_text, content_id
from data.records import Requirement, Verdict
from programs.lm.faults import CallError
from programs.lm.usage import TextSize, estimated_tokens
from programs.modules.predictors import AskingModule, Step
from programs.modules.signatures import MAX_REMARK_CHARS, VerifyIrrelevance, VerifyLineup
from programs.options import VerifyBy

VERIFY_SIGNATURES: dict[VerifyBy, type[dspy.Signature]] = {"line-up": VerifyLineup, "one-by-one": VerifyIrrelevance}
# Passages of one line-up, in estimated tokens: more are split. Judgement of long lists suffers before windows end.
LINEUP_TOKENS = 6000

# The fate of one candidate negative, in the order of the funnel.
Fate = Literal[
    "accepted", "not_written", "copies_a_passage", "not_verified", "answers_query", "target_kept", "others_broken"
]
FATES: tuple[Fate, ...] = get_args(Fate)
# Fates that another draft may mend: the verifier said what is wrong.
REPAIRABLE: tuple[Fate, ...] = ("answers_query", "target_kept", "others_broken")
LOSS_WORDS = {
    "not_written": "no usable draft was written",
    "copies_a_passage": "repeats the positive, a mined passage or a sibling",
    "not_verified": "no usable verdict",
    "answers_query": "the verifier says that it answers the query",
    "target_kept": "the requirement to be broken still holds",
    "others_broken": "too few of the other requirements hold",
    "positive_refused": "the row's own positive was said not to answer",
    "not_used": "left out of training (duplicates, or more than a row may have)",
}
# How a row is lost whose known positive does not meet its query, by the extraction or by the verifier.
POSITIVE_REFUSED = "positive_refused"
# The version of the rule in `fate_of`, a part of every run's key: rows that were finished under another rule are judged
# again. Raise it with every change of the rule.
ACCEPTANCE_RULE = 2


def fate_of(verdict: Verdict | None, target: int | None, keep_at_least: float = 0.0) -> Fate:
    """The acceptance rule: the passage does not answer the query, the requirement with the id `target` does not hold
    (None: it was to break none in particular), and the share `keep_at_least` of the others does."""
    if verdict is None:
        return "not_verified"
    if verdict.answers_query:
        return "answers_query"
    if target is None:
        return "accepted"
    if verdict.satisfied[target - 1]:
        return "target_kept"
    num_others = len(verdict.satisfied) - 1
    return "others_broken" if num_others and sum(verdict.satisfied) / num_others < keep_at_least else "accepted"


def numbered(requirements: Sequence[Requirement]) -> tuple[str, ...]:
    """The statements as prompts show them."""
    return tuple(f"{requirement.id}. {requirement.statement}" for requirement in requirements)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a row's passages are judged by; `requirements` as `numbered` shows them.

    `seed_id` seeds their order. `look`: how often they were judged before, so that this is a verdict of its own.
    """

    relevance: str
    query: str
    requirements: tuple[str, ...]
    seed_id: str = ""
    look: int = 0

    def as_inputs(self) -> dict[str, Any]:
        """The inputs that both signatures share."""
        return {"relevance": self.relevance, "query": self.query, "requirements": list(self.requirements)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """The verdicts on some passages in their order, and on the known positive; None where there was none of use.

    Places are those in the line-up, from 1; 0 outside of one.
    """

    verdicts: tuple[Verdict | None, ...]
    places: tuple[int, ...]
    canary: Verdict | None = None
    canary_place: int = 0


async def judge(
    module: AskingModule,
    by: VerifyBy,
    question: Question,
    passages: Sequence[str],
    *,
    canary: str | None,
    faults: Counter[str],
) -> Judged:
    """Have `module.verify` judge the passages and, where one is given, the known positive `canary` among them."""
    if not passages and canary is None:
        return Judged(verdicts=(), places=())
    if by == "one-by-one":
        together = [*passages, *([] if canary is None else [canary])]
        answers = await module.call_all([verify_step(question, passage) for passage in together], faults)
        found = [read_verdict(answer) for answer in answers]
        return Judged(
            verdicts=tuple(found[: len(passages)]),
            places=(0,) * len(passages),
            canary=None if canary is None else found[-1],
        )
    seed_id = question.seed_id or question.query
    parts = line_up(passages, canary, f"{seed_id} {question.look}" if question.look else seed_id)
    texts = [[canary if place is None else passages[place] for place in part] for part in parts]
    answers = await module.call_all([lineup_step(question, [str(text) for text in part]) for part in texts], faults)
    verdicts: list[Verdict | None] = [None] * len(passages)
    places = [0] * len(passages)
    canaries: list[tuple[Verdict, int]] = []
    for part, answer in zip(parts, answers, strict=True):
        for position, (place, verdict) in enumerate(zip(part, read_lineup(answer, len(part)), strict=True), start=1):
            if place is not None:
                verdicts[place], places[place] = verdict, position
            elif verdict is not None:
                canaries.append((verdict, position))
    # Of several parts, one that refuses the known positive speaks for the row.
    first = min(canaries, key=lambda one: one[0].answers_query, default=(None, 0))
    return Judged(verdicts=tuple(verdicts), places=tuple(places), canary=first[0], canary_place=first[1])


def line_up(passages: Sequence[str], canary: str | None, seed_id: str) -> list[list[int | None]]:
    """The order in which the passages are shown, as positions in `passages`, None for the canary.

    It is shuffled by `seed_id` and split where the passages are longer than LINEUP_TOKENS, with the canary at a random
    place of each part.
    """
    rng = random.Random(content_id("line-up", seed_id))
    order = list(range(len(passages)))
    rng.shuffle(order)
    room = LINEUP_TOKENS - (0 if canary is None else estimated_tokens(TextSize.of(canary)))
    parts: list[list[int | None]] = [[]]
    taken = 0
    for place in order:
        tokens = estimated_tokens(TextSize.of(passages[place]))
        if parts[-1] and taken + tokens > room:
            parts.append([])
            taken = 0
        parts[-1].append(place)
        taken += tokens
    if canary is not None:
        for part in parts:
            part.insert(rng.randint(0, len(part)), None)
    return parts


def verify_step(question: Question, passage: str) -> Step:
    """The blind question about one passage, whose verdict has a value for each requirement."""
    asked = question.as_inputs() | {"passage": passage}
    return Step("verify", asked, expected_length=("satisfied", len(question.requirements)), look=question.look)


def lineup_step(question: Question, passages: Sequence[str]) -> Step:
    """The blind question about the passages of one line-up, in their order."""
    wanted = len(question.requirements)

    def fault_of(answer: dspy.Prediction) -> str | None:
        numbers = [verdict.number for verdict in answer.verdicts]
        if numbers != list(range(1, len(passages) + 1)):
            return f"verdicts on the passages {numbers}, those on 1 to {len(passages)} were wanted in this order"
        odd = [verdict.number for verdict in answer.verdicts if len(verdict.satisfied) != wanted]
        return f"passage {odd[0]} has another number of requirements than {wanted}" if odd else None

    asked = question.as_inputs() | {"passages": [f"{number}. {text}" for number, text in enumerate(passages, start=1)]}
    return Step("verify", asked, expected_length=("verdicts", len(passages)), fault_of=fault_of, look=question.look)


def read_lineup(answer: "dspy.Prediction | CallError", count: int) -> list[Verdict | None]:
    """The verdicts of a line-up of `count` passages in its order; None for each when there was no usable answer."""
    return [None] * count if isinstance(answer, CallError) else [read_verdict(one) for one in answer.verdicts]


def read_verdict(answer: Any) -> Verdict | None:
    """The verdict of an answer, or of a part of one; None when there was none."""
    if isinstance(answer, CallError):
        return None
    return Verdict(
        satisfied=tuple(answer.satisfied),
        answers_query=answer.answers_query,
        reason=clean_text(answer.reason)[:MAX_REMARK_CHARS],
    )
