"""What a model may write that is no answer, from tables: pathological, wrapped, cut off, changed."""

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

from programs.lm.servers.recorded import Layout, render_answer
from tests.chaos.misbehaviour import Asked, Misbehaviour, properly


def texts(outputs: dict[str, Any], layout: Layout) -> Iterator[Misbehaviour]:
    """What a model writes instead of `outputs`, or makes of them; the fields are those of any answer of this step."""
    for kind, name, made in (*_pathological(), *_wrapped(), *_cut(), *_changed(outputs, layout)):
        yield Misbehaviour(kind=kind, name=name, text=made, reply=properly)


Made = tuple[str, str, Callable[[Asked], str]]


def _pathological() -> Iterator[Made]:
    pieces = (
        "{", "[", '"', "`", "<", "(", "\\", "'", "{`", '{"a":', '[{"', "[[ ## ", "}", "<a>", ",", "\\u", "-", "/*",
    )  # fmt: skip
    for piece in pieces:
        for size in (300, 5_000, 65_536):
            text = piece * (size // len(piece))
            yield "pathological text", f"{size} characters of {piece!r}", lambda asked, text=text: text
            first = "pathological field"
            yield first, f"{size} characters of {piece!r}", lambda asked, text=text: _in_first_field(asked, text)
    for number in (
        "9" * 6000, "-" + "9" * 400, "1e999", "-1e999", "NaN", "Infinity", "-Infinity", "0x1f", "1" + "0" * 400,
    ):  # fmt: skip
        yield "numbers", f"{number[:20]} alone", lambda asked, number=number: number
        yield "numbers", f"{number[:20]} in a field", lambda asked, number=number: _in_first_field(asked, number)


def _in_first_field(asked: Asked, text: str) -> str:
    name = next(iter(asked.outputs))
    return f'{{"{name}": {text}' if asked.layout == "json" else f"[[ ## {name} ## ]]\n{text}"


def _wrapped() -> Iterator[Made]:
    for name, made in {
        "empty": lambda asked: "",
        "spaces": lambda asked: " \n\t" * 50,
        "zero-width": lambda asked: "\u200b\ufeff" * 20,
        "NUL": lambda asked: "\x00" * 100,
        "NULs inside": lambda asked: asked.answer.replace(" ", " \x00"),
        "fence": lambda asked: f"```json\n{asked.answer}\n```",
        "open fence": lambda asked: f"```\n{asked.answer}",
        "prose around": lambda asked: f"Sure! Here it is:\n\n{asked.answer}\n\nI hope this helps {{}}.",
        "thoughts before": lambda asked: f"<think>{{ hm [[ ## }}</think>{asked.answer}",
        "byte order mark": lambda asked: f"\ufeff{asked.answer}",
        "twice": lambda asked: asked.answer * 2,
        "a hundred times": lambda asked: asked.answer * 100,
        "other language": lambda asked: "对不起，我无法回答这个问题。" * 10,
        "right to left": lambda asked: "\u202eلا أستطيع الإجابة\u202c" * 10,
        "refusal": lambda asked: "I'm sorry, I can't help with that.",
        "page": lambda asked: "<!DOCTYPE html><html><body>502</body></html>",
        "half characters": lambda asked: asked.answer.replace("e", "e\ud800"),
        "single quotes": lambda asked: repr(asked.outputs),
        "comments": lambda asked: f"// answer\n{asked.answer} /* done */",
        "chat layout": lambda asked: render_answer(asked.outputs, "chat"),
        "json layout": lambda asked: render_answer(asked.outputs, "json"),
        "xml layout": lambda asked: render_answer(asked.outputs, "xml"),
        "list around": lambda asked: f"[{json.dumps(asked.outputs)}]",
        "string around": lambda asked: json.dumps(json.dumps(asked.outputs)),
        "duplicate keys": lambda asked: json.dumps(asked.outputs)[:-1] + ", " + json.dumps(asked.outputs)[1:],
        "windows lines": lambda asked: asked.answer.replace("\n", "\r\n"),
        "upper case": lambda asked: asked.answer.upper(),
        "key inside": lambda asked: asked.answer.replace("thing", f"thing {asked.key}"),
        "key instead": lambda asked: f"Authorization: Bearer {asked.key}",
    }.items():  # fmt: skip
        yield "wrappings", name, made


def _cut() -> Iterator[Made]:
    for tenth in range(1, 10):
        yield "truncated", f"at {tenth}0 %", lambda asked, t=tenth: asked.answer[: len(asked.answer) * t // 10]


# Values of wrong types, and of right ones that are no use.
_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 10**30, 1.5, float("nan"), float("inf"), "", "x", "true", " ", "\ud800", "\x00", "x" * 100_000,
    [], [[]], [None], [1] * 5000, {}, {"x": {}},
)  # fmt: skip


def _changed(outputs: dict[str, Any], layout: Layout) -> Iterator[Made]:
    def made(path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Callable[[Asked], str]:
        def text(asked: Asked) -> str:
            found: Any = copy.deepcopy(asked.outputs)
            part = found
            for step in path[:-1]:
                part = part[step]
            change(part, path[-1])
            return json.dumps(found) if layout == "json" else render_answer(found, layout)

        return text

    for path in _paths(outputs):
        named = ".".join(map(str, path))
        for value in _VALUES:
            shown = repr(value)[:20]
            yield "wrong values", f"{named} = {shown}", made(path, lambda part, at, v=value: part.__setitem__(at, v))
        if isinstance(path[-1], str):
            yield "missing fields", named, made(path, lambda part, at: part.pop(at))
            yield "extra fields", f"beside {named}", made(path, lambda part, at: part.update({f"{at}_x": [{}]}))
        else:
            yield "missing fields", f"no item {named}", made(path, lambda part, at: part.pop(at))
            yield "extra fields", f"200 of {named}", made(path, lambda part, at: part.extend([part[at]] * 200))


def _paths(part: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = part.items() if isinstance(part, dict) else enumerate(part[:1]) if isinstance(part, list) else ()
    for at, value in items:
        yield (*before, at)
        yield from _paths(value, (*before, at))
