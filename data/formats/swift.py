"""Swift."""

from collections.abc import Callable, Sequence
from typing import Any

from data.formats.format import Line, _mined, _passages, _row
from data.records import FieldReader, Negative, Row


def _mined_first(row: Row, number: int) -> tuple[Negative, ...] | None:
    """Exactly `number` mined ones, then all generated ones: what trainers that go by position expect."""
    mined = row.of_source("mined")
    return None if len(mined) < number else mined[:number] + row.of_source("generated")


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


def _same(*names: str) -> Callable[[Line, Line], bool]:
    """Lines of one row agree in everything but the positive."""
    return lambda first, following: all(first.get(name) == following.get(name) for name in names)
