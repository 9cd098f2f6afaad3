"""sentence-transformers: n-tuples, n-tuples that say which negatives are generated and how relevant, labelled lists."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from data.base.fields import Line, Positives, Text
from data.formats.format import Format, mined, passages
from data.records import Negative, Row


@dataclass(frozen=True, slots=True)
class _Pair:
    anchor: Text
    positive: Text


class Tuples(Format):
    """One line a positive: anchor, positive, negative_1 to negative_n."""

    name = "st-tuples"
    fixed = ("mined", "generated")

    def choose(self, row: Row, number: int) -> tuple[Negative, ...] | None:
        # Generated ones first, so that a cut does not take what was paid for.
        negatives = row.of_source("generated") + row.of_source("mined")
        return None if len(negatives) < number else negatives[:number]

    def encode(self, row: Row, negatives: Sequence[Negative]) -> list[dict[str, Any]]:
        columns = {f"negative_{i}": n.text for i, n in enumerate(negatives, start=1)}
        return [{"anchor": row.query, "positive": passage.text} | columns for passage in row.positives]

    def decode(self, lines: Sequence[Line]) -> Row:
        pairs, first = [line.read(_Pair) for line in lines], lines[0]
        names = sorted(
            (name for name in first.value if name == "negative" or name.startswith("negative_")),
            key=lambda name: (len(name), name),
        )
        texts = [first.part(Text, name) for name in names]
        return Row(
            query=pairs[0].anchor,
            positives=passages(dict.fromkeys(pair.positive for pair in pairs)),
            negatives=mined(texts),
        )

    def same_row(self, first: Mapping[str, Any], following: Mapping[str, Any]) -> bool:
        return {**first, "positive": None} == {**following, "positive": None}


class Origins(Tuples):
    """The same with `label`: for each negative 1 if a language model wrote it, else 0. Other losses ignore it."""

    name = "st-origins"
    carries = "texts and which negatives are generated"
    expected: ClassVar[str] = "expected 0 or 1 for each of the {} negatives"

    def label(self, negative: Negative) -> Any:
        """What is said of a negative."""
        return int(negative.source == "generated")

    def labelled(self, negative: Negative, label: Any) -> Negative | None:
        """The negative as a label says; None for what is no label."""
        return replace(negative, source="generated" if label else "mined") if label in (0, 1) else None

    def encode(self, row: Row, negatives: Sequence[Negative]) -> list[dict[str, Any]]:
        labels = [self.label(negative) for negative in negatives]
        return [line | {"label": labels} for line in super().encode(row, negatives)]

    def decode(self, lines: Sequence[Line]) -> Row:
        row, labels = super().decode(lines), lines[0].value.get("label")
        if isinstance(labels, list) and len(labels) == len(row.negatives):
            found = [self.labelled(negative, label) for negative, label in zip(row.negatives, labels, strict=True)]
            negatives = tuple(negative for negative in found if negative is not None)
            if len(negatives) == len(labels):
                return replace(row, negatives=negatives)
        raise lines[0].fault(self.expected.format(len(row.negatives)), "label")


class Graded(Origins):
    """The same with `label`: for each negative 1 if a language model wrote it, else 0, and its grade (-1: none)."""

    name = "st-graded"
    carries = "texts, which negatives are generated, and grades"
    expected = "expected for each of the {} negatives 0 or 1, and a grade from 0 to 1 or -1"

    def label(self, negative: Negative) -> Any:
        return [float(negative.source == "generated"), -1.0 if negative.relevance is None else negative.relevance]

    def labelled(self, negative: Negative, label: Any) -> Negative | None:
        if not isinstance(label, list) or [type(part) in (int, float) for part in label] != [True, True]:
            return None
        flag, grade = label
        if grade != -1 and not 0 <= grade <= 1:
            return None
        found = super().labelled(negative, flag)
        return found and replace(found, grade=None if grade < 0 else float(grade))


@dataclass(frozen=True, slots=True)
class _Documents:
    query: Text
    docs: Positives[Text]


class Labelled(Format):
    """{"query", "docs": [text], "labels"}: 1 for a positive, 0 for a negative."""

    name = "st-labelled"

    def encode(self, row: Row, negatives: Sequence[Negative]) -> list[dict[str, Any]]:
        docs = [p.text for p in row.positives] + [n.text for n in negatives]
        return [{"query": row.query, "docs": docs, "labels": [1] * len(row.positives) + [0] * len(negatives)}]

    def decode(self, lines: Sequence[Line]) -> Row:
        line, labels = lines[0].read(_Documents), lines[0].value.get("labels")
        if not isinstance(labels, list) or len(labels) != len(line.docs):
            raise lines[0].fault(f"expected one label for each of the {len(line.docs)} docs", "labels")
        if not all(isinstance(label, (int, float)) for label in labels):
            raise lines[0].fault("expected labels that are numbers, above 0 for a positive", "labels")
        labelled = list(zip(line.docs, labels, strict=True))
        if not any(label > 0 for label in labels):
            raise lines[0].fault("expected at least one positive", "docs")
        return Row(
            query=line.query,
            positives=passages(text for text, label in labelled if label > 0),
            negatives=mined(text for text, label in labelled if label <= 0),
        )
