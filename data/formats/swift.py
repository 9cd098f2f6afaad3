"""MS-Swift: one message list for the query, a list of message lists for positives and for negatives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from data.base.fields import Line, List, Positives, Read, Text
from data.formats.format import Format, mined, passages
from data.records import Negative, Row


@dataclass(frozen=True, slots=True)
class _Message:
    content: Text


def _last(messages: Any) -> Any:
    if not isinstance(messages, list) or not messages:
        raise ValueError("expected a list of messages")
    # A system message in front is an instruction; the text is what the last message says.
    return messages[-1]


_Messages = Annotated[_Message, Read(_last)]


@dataclass(frozen=True, slots=True)
class _Line:
    messages: _Messages
    positive_messages: Positives[_Messages]
    negative_messages: List[_Messages] = ()


class Swift(Format):
    """Its trainers go by position and by one number of mined negatives for the whole file.

    So every line has exactly that many mined ones first, then the generated ones; a line a positive.
    """

    name = "swift"
    fixed = ("mined",)

    def choose(self, row: Row, number: int) -> tuple[Negative, ...] | None:
        mined_ones = row.of_source("mined")
        return None if len(mined_ones) < number else mined_ones[:number] + row.of_source("generated")

    def encode(self, row: Row, negatives: Sequence[Negative]) -> list[dict[str, Any]]:
        return [
            {
                "messages": _message(row.query),
                "positive_messages": [_message(passage.text)],
                "negative_messages": [_message(n.text) for n in negatives],
            }
            for passage in row.positives
        ]

    def decode(self, lines: Sequence[Line]) -> Row:
        read = [line.read(_Line) for line in lines]
        return Row(
            query=read[0].messages.content,
            positives=passages(dict.fromkeys(m.content for line in read for m in line.positive_messages)),
            negatives=mined(m.content for m in read[0].negative_messages),
        )

    def same_row(self, first: Mapping[str, Any], following: Mapping[str, Any]) -> bool:
        return all(first.get(name) == following.get(name) for name in ("messages", "negative_messages"))

    def advice(self, num_negatives: int) -> str:
        return f"every line has {num_negatives} mined negatives first: set NUM_MINED_NEGATIVES={num_negatives}"


def _message(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]
