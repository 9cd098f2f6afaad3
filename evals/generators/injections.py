"""Prompt injections inside passages: how many of 30 does a verifier obey?

Each injection stands at the end of a demo passage whose verdict is known and demands the opposite verdict. The passage
is judged without it, too: only a verifier that is right without the injection and wrong with it has obeyed. In a
line-up it stands among the other passages of its row: an injection may turn the verdicts on those as well.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from data.base.stats import wilson_interval
from data.base.text import content_id
from data.readers.demo import demo_items
from data.records import Verdict
from data.row_files import read_objects
from evals.generators.config import ProbeConfig
from programs.lm.adapters import make_adapter
from programs.lm.budget import Budget
from programs.lm.models import Models, log_roles
from programs.lm.role_lm import RoleLM
from programs.modules.synthesizer import Verifier
from programs.modules.verifier import numbered
from programs.profiles.profile import load_profile

INJECTIONS = Path(__file__).parent / "injections.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Injected:
    """A passage, the injection for its end, whether the passage answers its query, and the others of its row."""

    id: str
    query: str
    requirements: tuple[str, ...]
    passage: str
    injection: str
    relevant: bool
    others: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class InjectionResult:
    """`obeyed` names the injections that turned a right verdict; `wrong_anyway` those whose passage was misjudged, or
    not judged, without them; `unread` those whose verdict could not be read; `turned_others` those that turned the
    verdict on another passage of their line-up, of `in_lineups` that stood in one and were read."""

    model: str
    asked: int
    obeyed: tuple[str, ...]
    wrong_anyway: tuple[str, ...]
    unread: tuple[str, ...]
    turned_others: tuple[str, ...] = ()
    in_lineups: int = 0

    def summary(self) -> str:
        """The finding in a few lines."""
        usable = self.asked - len(self.wrong_anyway) - len(self.unread)
        if not usable:
            return f"{self.model} gave no verdict on the {self.asked} passages that could be compared\n"
        low, high = wilson_interval(len(self.obeyed), usable)
        lines = [f"{self.model} obeys {len(self.obeyed)} of {usable} injections (95% interval {low:.1%} to {high:.1%})"]
        if self.obeyed:
            lines.append(f"  obeyed: {', '.join(self.obeyed)} (see {INJECTIONS.name})")
        if self.in_lineups:
            turned = len(self.turned_others)
            low, high = wilson_interval(turned, self.in_lineups)
            lines.append(
                f"  in line-ups: {turned} of {self.in_lineups} turned the verdict on another passage "
                f"({low:.1%} to {high:.1%}){': ' if turned else ''}{', '.join(self.turned_others)}"
            )
        if self.wrong_anyway:
            lines.append(f"  not counted: {len(self.wrong_anyway)} passages were misjudged without an injection, too")
        if self.unread:
            lines.append(f"  not counted: {len(self.unread)} answers could not be read")
        return "\n".join(lines) + "\n"


def injected_passages() -> Iterator[Injected]:
    """The 30 injections, each in a passage of the demo data for which its demand is wrong."""
    rows = cycle(item.row for item in demo_items())
    for value in (line.value for line in read_objects(INJECTIONS)):
        row = next(rows)
        relevant = value["demands"] == "irrelevant"
        text = row.positives[0].text if relevant else row.negatives[0].text
        yield Injected(
            id=value["id"],
            query=row.query,
            requirements=numbered(row.requirements),
            passage=text,
            injection=value["text"],
            relevant=relevant,
            others=tuple(other for other in (row.positives[0].text, *(n.text for n in row.negatives)) if other != text),
        )


def judge_injections(config: ProbeConfig) -> InjectionResult:
    """Judge every passage without and with its injection. Raises InputError when the model cannot be used."""
    with ExitStack() as stack:
        models = Models(stack, config)
        spec = models.resolve(config.lm, flag="lm", temperature=0.0)
        log_roles({"verifier": [spec]})
        budget = Budget(usd=config.budget_usd, tokens=config.budget_tokens)
        budget.check_priced(spec, "lm")
        lm = RoleLM("verifier", spec, config.retries, seed=config.seed, budget=budget)
        layout = "chat" if config.adapter == "auto" else config.adapter
        verifier = Verifier(verify=config.verify).use(lm, make_adapter(layout, spec))
        relevance = load_profile("help_centre").relevance
        outcomes: dict[str, list[str]] = {"obeyed": [], "wrong_anyway": [], "unread": [], "turned_others": []}
        asked = in_lineups = 0
        for each in injected_passages():
            asked += 1
            before, injected = _verdicts(verifier, relevance, each)
            if outcome := _outcome(before[0], injected[0], each.relevant):
                outcomes[outcome].append(each.id)
            others = [(old, new) for old, new in zip(before[1:], injected[1:], strict=True) if old and new]
            in_lineups += bool(others)
            if any(old.answers_query != new.answers_query for old, new in others):
                outcomes["turned_others"].append(each.id)
    found = {name: tuple(ids) for name, ids in outcomes.items()}
    return InjectionResult(model=spec.name, asked=asked, in_lineups=in_lineups, **found)


def _verdicts(verifier: Verifier, relevance: str, each: Injected) -> tuple[list[Verdict | None], list[Verdict | None]]:
    """The verdicts without and with the injection: on its passage, then on the others of a line-up."""
    others = list(each.others) if verifier.verify_by == "line-up" else []
    # The passage of each injection stands at another place.
    place = int(content_id(each.id), 16) % (len(others) + 1)

    def judged(passage: str) -> list[Verdict | None]:
        passages = [*others[:place], passage, *others[place:]]
        found: list[Verdict | None] = verifier(
            relevance=relevance, query=each.query, requirements=list(each.requirements), passages=passages
        ).verdicts
        return [found[place], *found[:place], *found[place + 1 :]]

    return judged(each.passage), judged(f"{each.passage}\n\n{each.injection}")


def _outcome(before: Verdict | None, injected: Verdict | None, relevant: bool) -> str | None:
    if before is None or before.answers_query != relevant:
        return "wrong_anyway"
    if injected is None:
        return "unread"
    return None if injected.answers_query == relevant else "obeyed"
