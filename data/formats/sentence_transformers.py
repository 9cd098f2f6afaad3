"""Sentence transformers."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from data.formats.format import Line, _mined, _passages, _row, _texts
from data.records import FieldReader, Negative, Row, Source


def _generated_first(row: Row, number: int) -> tuple[Negative, ...] | None:
    """Exactly `number`, and generated ones before mined ones, so that a cut does not take what was paid for."""
    negatives = row.of_source("generated") + row.of_source("mined")
    return None if len(negatives) < number else negatives[:number]


# sentence-transformers: one line a positive, columns anchor, positive, negative_1 to negative_n.
def _tuples_to_lines(row: Row, negatives: Sequence[Negative]) -> list[dict[str, Any]]:
    columns = {f"negative_{i}": n.text for i, n in enumerate(negatives, start=1)}
    return [{"anchor": row.query, "positive": passage.text} | columns for passage in row.positives]


def _tuples_from_lines(lines: Sequence[FieldReader]) -> Row:
    first = lines[0]
    positives = list(dict.fromkeys(reader.text("positive") for reader in lines))
    columns = sorted(
        (name for name in first.value if name == "negative" or name.startswith("negative_")),
        key=lambda name: (len(name), name),
    )
    return _row(
        first.text("anchor"), _passages(positives, first, "positive"), _mined([first.text(name) for name in columns])
    )


# The same with `label`: for each negative 1 if a language model wrote it, else 0. Losses that take no labels ignore it.
def _origins_to_lines(row: Row, negatives: Sequence[Negative]) -> list[dict[str, Any]]:
    label = [int(negative.source == "generated") for negative in negatives]
    return [line | {"label": label} for line in _tuples_to_lines(row, negatives)]


def _origins_from_lines(lines: Sequence[FieldReader]) -> Row:
    row, label = _tuples_from_lines(lines), lines[0].value.get("label")
    if not isinstance(label, list) or len(label) != len(row.negatives) or not all(flag in (0, 1) for flag in label):
        lines[0].fail("label", f"expected 0 or 1 for each of the {len(row.negatives)} negatives")
    sources: list[Source] = ["generated" if flag else "mined" for flag in label]
    negatives = zip(row.negatives, sources, strict=True)
    return replace(row, negatives=tuple(replace(negative, source=source) for negative, source in negatives))


# sentence-transformers, labelled lists: documents with 1 for a positive and 0 for a negative.
def _labelled_to_lines(row: Row, negatives: Sequence[Negative]) -> list[dict[str, Any]]:
    return [
        {
            "query": row.query,
            "docs": [p.text for p in row.positives] + [n.text for n in negatives],
            "labels": [1] * len(row.positives) + [0] * len(negatives),
        }
    ]


def _labelled_from_lines(lines: Sequence[FieldReader]) -> Row:
    (reader,) = lines
    docs, labels = _texts(reader, "docs", None), reader.value.get("labels")
    if not isinstance(labels, list) or len(labels) != len(docs):
        reader.fail("labels", f"expected one label for each of the {len(docs)} docs")
    positives = [text for text, label in zip(docs, labels, strict=True) if label]
    negatives = [text for text, label in zip(docs, labels, strict=True) if not label]
    return _row(reader.text("query"), _passages(positives, reader, "docs"), _mined(negatives))


def _same_but(name: str) -> Callable[[Line, Line], bool]:
    return lambda first, following: (
        {k: v for k, v in first.items() if k != name} == {k: v for k, v in following.items() if k != name}
    )
