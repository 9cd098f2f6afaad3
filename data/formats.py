"""Training rows in the formats of other trainers: one reader and one writer each.

A writer turns a row into the lines of its format; a reader turns the lines of one row back. What a format cannot carry
goes into a sidecar (data/provenance.py).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from data.base.text import content_id, passage_text
from data.records import FieldReader, Negative, Passage, Row, Source, row_from_dict, row_to_dict

Line = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One format.

    `choose(row, number)` gives the negatives that the format can hold, in its order (None: it cannot hold this row);
    `to_lines(row, negatives)` gives the row's lines; `from_lines` gives a row back, with content hashes for ids it does
    not carry and every negative as mined. `same_row(first, next)` says whether two lines of a file without sidecar
    belong to one row. `fixed_negatives`: every line has the same number.
    """

    name: str
    carries: str
    to_lines: Callable[[Row, Sequence[Negative]], list[dict[str, Any]]]
    from_lines: Callable[[Sequence[FieldReader]], Row]
    choose: Callable[[Row, int], tuple[Negative, ...] | None] = lambda row, number: row.negatives
    fixed_negatives: bool = False
    same_row: Callable[[Line, Line], bool] = lambda first, following: False
    lossless: bool = False


def _at_least_one(row: Row, number: int) -> tuple[Negative, ...] | None:
    return row.negatives or None


def _mined_first(row: Row, number: int) -> tuple[Negative, ...] | None:
    """Exactly `number` mined ones, then all generated ones: what trainers that go by position expect."""
    mined = row.of_source("mined")
    return None if len(mined) < number else mined[:number] + row.of_source("generated")


def _generated_first(row: Row, number: int) -> tuple[Negative, ...] | None:
    """Exactly `number`, and generated ones before mined ones, so that a cut does not take what was paid for."""
    negatives = row.of_source("generated") + row.of_source("mined")
    return None if len(negatives) < number else negatives[:number]


def _row(query: str, positives: Sequence[Passage], negatives: Iterator[Negative], query_id: str | None = None) -> Row:
    return Row(
        query_id=query_id or content_id(query), query=query, positives=tuple(positives), negatives=tuple(negatives)
    )


def _texts(reader: FieldReader, name: str, default: Any = ()) -> list[str]:
    found = reader.value.get(name, default)
    if not isinstance(found, (list, tuple)):
        reader.fail(name, f"expected a list of texts, got {type(found).__name__}")
    return [
        FieldReader({f"{name}[{i}]": text}, file=reader.file, line=reader.line).text(f"{name}[{i}]")
        for i, text in enumerate(found)
    ]


def _passages(texts: Sequence[str], reader: FieldReader, name: str) -> list[Passage]:
    if not texts:
        reader.fail(name, "expected at least one positive")
    return [Passage(id=content_id(text), text=text) for text in texts]


def _mined(texts: Sequence[str]) -> Iterator[Negative]:
    return (Negative(text=text, source="mined") for text in texts)


# Canonical rows.
def _rows_to_lines(row: Row, negatives: Sequence[Negative]) -> list[dict[str, Any]]:
    return [row_to_dict(row)]


def _rows_from_lines(lines: Sequence[FieldReader]) -> Row:
    return row_from_dict(lines[0].value, file=lines[0].file, line=lines[0].line)


# FlagEmbedding: {"query", "pos": [text], "neg": [text]}. Its data set draws at least one negative from every line.
def _flag_to_lines(row: Row, negatives: Sequence[Negative]) -> list[dict[str, Any]]:
    return [{"query": row.query, "pos": [p.text for p in row.positives], "neg": [n.text for n in negatives]}]


def _flag_from_lines(lines: Sequence[FieldReader]) -> Row:
    (reader,) = lines
    return _row(
        reader.text("query"), _passages(_texts(reader, "pos", None), reader, "pos"), _mined(_texts(reader, "neg"))
    )


# MS-Swift: one message list for the query, a list of message lists for positives and for negatives. Its trainers go by
# position and by one number of mined negatives for the whole file, so every line has exactly that many.
def _swift_to_lines(row: Row, negatives: Sequence[Negative]) -> list[dict[str, Any]]:
    return [
        {
            "messages": _message(row.query),
            "positive_messages": [_message(passage.text)],
            "negative_messages": [_message(n.text) for n in negatives],
        }
        for passage in row.positives
    ]


def _message(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _swift_from_lines(lines: Sequence[FieldReader]) -> Row:
    first = lines[0]
    positives = [text for reader in lines for text in _contents(reader, "positive_messages")]
    return _row(
        _content(first, "messages", first.value.get("messages")),
        _passages(list(dict.fromkeys(positives)), first, "positive_messages"),
        _mined(_contents(first, "negative_messages")),
    )


def _contents(reader: FieldReader, name: str) -> list[str]:
    found = reader.value.get(name) or []
    if not isinstance(found, list):
        reader.fail(name, f"expected a list of message lists, got {type(found).__name__}")
    return [_content(reader, f"{name}[{i}]", messages) for i, messages in enumerate(found)]


def _content(reader: FieldReader, name: str, messages: Any) -> str:
    if not isinstance(messages, list) or not messages:
        reader.fail(name, "expected a list of messages")
    # A system message in front is an instruction; the text is what the last message says.
    last = FieldReader(messages[-1], file=reader.file, line=reader.line, path=f"{name}.")
    return str(last.text("content"))


# Tevatron: passages as {"docid", "title", "text"}.
def _tevatron_to_lines(row: Row, negatives: Sequence[Negative]) -> list[dict[str, Any]]:
    return [
        {
            "query_id": row.query_id,
            "query": row.query,
            "positive_passages": [{"docid": p.id, "title": "", "text": p.text} for p in row.positives],
            "negative_passages": [
                {"docid": n.id or content_id(n.text), "title": "", "text": n.text} for n in negatives
            ],
        }
    ]


def _tevatron_from_lines(lines: Sequence[FieldReader]) -> Row:
    (reader,) = lines
    positives = [Passage(id=p.text("docid"), text=_titled(p)) for p in reader.objects("positive_passages")]
    if not positives:
        reader.fail("positive_passages", "expected at least one positive")
    negatives = (
        Negative(text=_titled(n), source="mined", id=n.text("docid"))
        for n in reader.objects("negative_passages", default=())
    )
    return _row(reader.text("query"), positives, negatives, reader.text("query_id"))


def _titled(reader: FieldReader) -> str:
    return passage_text(reader.text("title", default=None), reader.text("text"))


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


def _same(*names: str) -> Callable[[Line, Line], bool]:
    """Lines of one row agree in everything but the positive."""
    return lambda first, following: all(first.get(name) == following.get(name) for name in names)


def _same_but(name: str) -> Callable[[Line, Line], bool]:
    return lambda first, following: (
        {k: v for k, v in first.items() if k != name} == {k: v for k, v in following.items() if k != name}
    )


FORMATS: dict[str, Format] = {
    found.name: found
    for found in (
        Format(
            name="rows",
            carries="everything",
            to_lines=_rows_to_lines,
            from_lines=_rows_from_lines,
            lossless=True,
        ),
        Format(
            name="flag-embedding",
            carries="texts",
            to_lines=_flag_to_lines,
            from_lines=_flag_from_lines,
            choose=_at_least_one,
        ),
        Format(
            name="swift",
            carries="texts",
            to_lines=_swift_to_lines,
            from_lines=_swift_from_lines,
            choose=_mined_first,
            fixed_negatives=True,
            same_row=_same("messages", "negative_messages"),
        ),
        Format(name="tevatron", carries="texts and ids", to_lines=_tevatron_to_lines, from_lines=_tevatron_from_lines),
        Format(
            name="st-tuples",
            carries="texts",
            to_lines=_tuples_to_lines,
            from_lines=_tuples_from_lines,
            choose=_generated_first,
            fixed_negatives=True,
            same_row=_same_but("positive"),
        ),
        Format(
            name="st-origins",
            carries="texts and which negatives are generated",
            to_lines=_origins_to_lines,
            from_lines=_origins_from_lines,
            choose=_generated_first,
            fixed_negatives=True,
            same_row=_same_but("positive"),
        ),
        Format(name="st-labelled", carries="texts", to_lines=_labelled_to_lines, from_lines=_labelled_from_lines),
    )
}
