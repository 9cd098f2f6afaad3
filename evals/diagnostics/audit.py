"""`diagnose --audit N`: a person labels a seeded sample of passages without seeing where they come from.

Four in ten of the sample are refused candidates, mined negatives and known positives: were all of it accepted
negatives, the answer would nearly always be "no", carelessness would look like agreement, and agreement could not be
told from chance. Labels go to a file line by line; a stopped audit goes on where it ended.
"""

import json
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TextIO

import numpy as np

from data.base.errors import InputError
from data.base.stats import wilson_interval
from data.base.text import content_id
from data.records import Row, Verdict
from data.row_files import read_objects
from programs.modules.candidates import Synthesis

LABELS_FILE = "audit.jsonl"
Kind = Literal["generated", "refused", "mined", "positive"]
Answer = Literal["yes", "no", "skip"]
_KEYS: dict[str, Answer] = {"y": "yes", "yes": "yes", "n": "no", "no": "no", "s": "skip", "skip": "skip", "": "skip"}
_SHARES: dict[Kind, float] = {"generated": 0.6, "refused": 0.15, "mined": 0.1, "positive": 0.15}


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditItem:
    """One passage of a row to judge. `verifier` is its verdict on "answers the query", None where it gave none."""

    row: Row
    passage: str
    kind: Kind
    verifier: bool | None

    @property
    def id(self) -> str:
        return content_id(self.row.query, self.passage)


def audit_sample(
    rows: Sequence[Row], num: int, seed: int = 0, syntheses: Mapping[str, Synthesis] | None = None
) -> list[AuditItem]:
    """A seeded sample in random order of accepted negatives, refused candidates, mined negatives and known positives.

    `syntheses` (by query id) adds the refused candidates and the verdicts on known positives. The same rows and seed
    give the same order for any `num`: a larger audit goes on from a smaller one. Raises InputError where no row has a
    generated negative.
    """
    by_kind: dict[Kind, list[AuditItem]] = {kind: [] for kind in _SHARES}

    def add(row: Row, passage: str, kind: Kind, verdict: Verdict | None) -> None:
        answers = None if verdict is None else verdict.answers_query
        by_kind[kind].append(AuditItem(row=row, passage=passage, kind=kind, verifier=answers))

    for row in rows:
        synthesis = (syntheses or {}).get(row.query_id)
        # Only the first positive is ever put before the verifier.
        add(row, row.positives[0].text, "positive", synthesis.canary if synthesis else None)
        for negative in row.negatives:
            add(row, negative.text, negative.source, negative.verdict)
        for candidate in synthesis.candidates if synthesis else ():
            if candidate.fate != "accepted" and candidate.text and candidate.verdict is not None:
                add(row, candidate.text, "refused", candidate.verdict)
    if not by_kind["generated"]:
        raise InputError("no row has a generated negative: there is nothing to audit")
    rng = np.random.default_rng(seed)
    queues = {kind: [items[i] for i in rng.permutation(len(items))] for kind, items in by_kind.items()}
    chosen: list[AuditItem] = []
    while len(chosen) < num and any(queues.values()):
        kinds = [kind for kind in queues if queues[kind]]
        shares = np.array([_SHARES[kind] for kind in kinds])
        chosen.append(queues[kinds[int(rng.choice(len(kinds), p=shares / shares.sum()))]].pop())
    return chosen


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """A person's answer to "does it answer the query?" beside the verifier's."""

    id: str
    kind: Kind
    verifier: bool | None
    answer: Answer


def run_audit(
    rows: Sequence[Row],
    file: Path,
    *,
    num: int,
    seed: int = 0,
    syntheses: Mapping[str, Synthesis] | None = None,
    ask: Callable[[str], str] = input,
    out: TextIO | None = None,
) -> list[Label]:
    """Ask for what is not labelled yet, one passage at a time; returns all labels of the sample.

    Answers: y, n, s or nothing to skip, p to see a passage known to answer, q to stop (or end of input). `ask` and
    `out` take the place of the terminal.
    """
    out = out or sys.stdout
    sample = audit_sample(rows, num, seed, syntheses)
    done = {label.id for label in read_labels(file, rows)} if file.exists() else set()
    todo = [item for item in sample if item.id not in done]
    out.write(
        f"{len(sample)} passages to judge, {len(sample) - len(todo)} already done. For each: does it answer the query?"
        "\n"
        "y = yes, n = no, s or Enter = skip, p = show a passage known to answer it, q = stop (answers are kept)\n"
    )
    if len(sample) < num:
        out.write(f"(there are only {len(sample)} passages, fewer than the {num} asked for)\n")
    for number, item in enumerate(todo, start=len(sample) - len(todo) + 1):
        out.write(_shown(item, f"{number} of {len(sample)}"))
        answer = _ask(item, ask, out)
        if answer is None:
            out.write("\n")
            break
        file.parent.mkdir(parents=True, exist_ok=True)
        label = Label(id=item.id, kind=item.kind, verifier=item.verifier, answer=answer)
        with file.open("a", encoding="utf-8") as labels:
            labels.write(json.dumps(asdict(label)) + "\n")
    return read_labels(file, rows) if file.exists() else []


def _shown(item: AuditItem, place: str) -> str:
    return f"\n{'─' * 78}\n{place}\n\nquery:\n{_wrapped(item.row.query)}\n\npassage:\n{_wrapped(item.passage)}\n\n"


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.fill(line, 78, initial_indent="  ", subsequent_indent="  ") for line in text.splitlines())


def _ask(item: AuditItem, ask: Callable[[str], str], out: TextIO) -> Answer | None:
    while True:
        try:
            word = ask("does it answer the query? [y/n/s/p/q] ").strip().lower()
        except EOFError:
            return None
        if word in ("q", "quit"):
            return None
        if word in _KEYS:
            return _KEYS[word]
        if word == "p":
            # Not shown unasked: beside itself a known positive would give itself away.
            out.write(f"\na passage known to answer the query:\n{_wrapped(item.row.positives[0].text)}\n\n")
        else:
            out.write("please answer y, n, s, p or q\n")


def read_labels(file: Path, rows: Sequence[Row]) -> list[Label]:
    """The labels in the file, the last one for each passage; those of passages that the rows do not hold are left out.

    Refused candidates are in no row and always count. Raises InputError when the file is missing, holds something else,
    or none of its labels belongs to these rows.
    """
    if not file.exists():
        raise InputError("no audit has been made (diagnose --audit N makes one)")
    known = {content_id(row.query, text) for row in rows for text in _texts(row)}
    found: dict[str, Label] = {}
    others = 0
    for line in read_objects(file):
        try:
            label = line.read(Label)
        except InputError as error:
            raise line.fault(f"not a label of an audit ({error.field} {error.what})") from error
        if label.id in known or label.kind == "refused":
            found[label.id] = label
        else:
            others += 1
    if others and not any(label.kind != "refused" for label in found.values()):
        raise InputError("its labels belong to other rows: choose another --out for these", file=file)
    return list(found.values())


def _texts(row: Row) -> list[str]:
    return [passage.text for passage in row.positives] + [negative.text for negative in row.negatives]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What the labels say about the verifier and the negatives.

    compared: labels on passages with a verdict; agreed: of them, with a 95% Wilson interval. kappa: Cohen's, None where
    both always gave one and the same answer. false_negatives: accepted negatives that answer the query after all, of
    the `generated` ones labelled, with interval. known_positives_recognised: positives labelled "yes", of `positives`:
    how careful the person was.
    """

    labelled: int
    skipped: int
    compared: int
    agreed: int
    agreement_interval: tuple[float, float]
    kappa: float | None
    generated: int
    false_negatives: int
    false_negative_interval: tuple[float, float]
    positives: int
    known_positives_recognised: int
    mined: int
    mined_answering: int

    def sentence(self) -> str:
        """The finding in words."""
        if not self.generated:
            return f"{self.labelled} passages labelled, none of them a generated negative yet"
        low, high = self.false_negative_interval
        text = (
            f"{self.false_negatives} of {self.generated} generated negatives answer the query after all by hand "
            f"(95% interval {low:.1%} to {high:.1%}); {self.known_positives_recognised} of {self.positives} known "
            f"positives were recognised"
        )
        if self.compared:
            low, high = self.agreement_interval
            kappa = "undefined (only one answer was ever given)" if self.kappa is None else f"{self.kappa:.2f}"
            text += (
                f"; agreement with the verifier {self.agreed} of {self.compared} "
                f"({low:.1%} to {high:.1%}), kappa {kappa}"
            )
        return text


def agreement(labels: Sequence[Label]) -> Agreement:
    """Compare the labels with the verifier. Raises InputError when nothing was labelled."""
    answered = [label for label in labels if label.answer != "skip"]
    if not answered:
        raise InputError("the audit has no answer yet")
    compared = [(label.answer == "yes", label.verifier) for label in answered if label.verifier is not None]
    agreed = sum(hand == verifier for hand, verifier in compared)
    num = Counter(label.kind for label in answered)
    num_yes = Counter(label.kind for label in answered if label.answer == "yes")
    return Agreement(
        labelled=len(answered),
        skipped=len(labels) - len(answered),
        compared=len(compared),
        agreed=agreed,
        agreement_interval=wilson_interval(agreed, len(compared)),
        kappa=cohens_kappa(compared),
        generated=num["generated"],
        false_negatives=num_yes["generated"],
        false_negative_interval=wilson_interval(num_yes["generated"], num["generated"]),
        positives=num["positive"],
        known_positives_recognised=num_yes["positive"],
        mined=num["mined"],
        mined_answering=num_yes["mined"],
    )


def cohens_kappa(pairs: Sequence[tuple[bool, bool | None]]) -> float | None:
    """Agreement beyond chance, -1 to 1; None without pairs or where chance alone agrees always."""
    if not pairs:
        return None
    observed = sum(first == second for first, second in pairs) / len(pairs)
    first_yes, second_yes = (sum(pair[side] is True for pair in pairs) / len(pairs) for side in (0, 1))
    expected = first_yes * second_yes + (1 - first_yes) * (1 - second_yes)
    return None if expected == 1 else (observed - expected) / (1 - expected)
