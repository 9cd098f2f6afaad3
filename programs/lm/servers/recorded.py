"""`recorded:demo`, `recorded:xquad-sentences`: the answers that ship with the data, over HTTP like any other model.

Answers are found by the input fields of the signature, read back from the prompt's last user message, so they survive
changed instructions, few-shot demonstrations and any of dspy's adapters. What was never recorded is an HTTP error.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

from aiohttp import web

from data.base.text import same_text_key
from data.readers.demo import DemoItem
from data.readers.recorded import DEMO, XQUAD_SENTENCES, bundled_rows, recorded_items
from data.records import Requirement, Row, Verdict
from programs.lm.servers.loopback import LoopbackServer, completion_response, error_response
from programs.lm.usage import message_text

NAME = "recorded:demo"
# The bundled corpora that have recorded answers, by the name of the model that replays them.
CORPORA = {NAME: DEMO, "recorded:xquad-sentences": XQUAD_SENTENCES}

# Whoever recorded the answers was asked for no boundary: what holds for every query of these corpora.
_ANSWER_BOUNDARY = "Any passage that says what was asked for, in full or in part, rightly, wrongly or by denying it."

_Key = TypeVar("_Key")
_Answer = TypeVar("_Answer")
Layout = Literal["chat", "json", "xml"]
_CHAT_FIELD = re.compile(r"^\[\[ ## (\w+) ## \]\]\n", re.MULTILINE)
_XML_FIELD = re.compile(r"<(\w+)>\n(.*?)\n</\1>", re.DOTALL)
# How each adapter's closing reminder begins, after the last input field.
_REMINDERS: tuple[tuple[str, Layout], ...] = (
    ("\n\nRespond with a JSON object", "json"),
    ("\n\nRespond with the corresponding output fields wrapped in XML", "xml"),
    ("\n\nRespond with the corresponding output fields", "chat"),
)


class NotRecordedError(LookupError):
    """The corpus holds no answer to this request; the text says what was asked for."""


def last_user_text(messages: Sequence[Any]) -> str:
    """What a request's last user message says; nothing without one."""
    users = [message for message in messages if isinstance(message, dict) and message.get("role") == "user"]
    return message_text(users[-1]) if users else ""


def read_inputs(text: str) -> tuple[dict[str, str], Layout]:
    """The signature's input fields in one user message, and the layout that its answer must have."""
    cut, layout = len(text), "chat"
    for reminder, name in _REMINDERS:
        position = text.rfind(reminder)
        if position >= 0:
            cut, layout = position, name
            break
    body = text[:cut]
    if layout == "xml":
        return {match[1]: match[2] for match in _XML_FIELD.finditer(body)}, "xml"
    marks = list(_CHAT_FIELD.finditer(body))
    ends = [mark.start() for mark in marks[1:]] + [len(body)]
    fields = {mark[1]: body[mark.end() : end].strip() for mark, end in zip(marks, ends, strict=False)}
    return fields, "json" if layout == "json" else "chat"


def render_answer(outputs: Mapping[str, Any], layout: Layout) -> str:
    """`outputs` as a model would write them for the adapter with this layout."""
    if layout == "json":
        return json.dumps(outputs, ensure_ascii=False)
    texts = {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in outputs.items()
    }
    if layout == "xml":
        escaped = {name: text.replace("&", "&amp;").replace("<", "&lt;") for name, text in texts.items()}
        return "\n".join(f"<{name}>\n{text}\n</{name}>" for name, text in escaped.items())
    fields = "\n\n".join(f"[[ ## {name} ## ]]\n{text}" for name, text in texts.items())
    return f"{fields}\n\n[[ ## completed ## ]]"


class RecordedAnswers:
    """The answers recorded for one bundled corpus, by what is asked."""

    def __init__(self, corpus: str = DEMO) -> None:
        self._extractions: dict[tuple[str, str], dict[str, Any]] = {}
        self._violations: dict[tuple[str, ...], str] = {}
        self._verdicts: dict[tuple[str, str], tuple[Verdict, tuple[Requirement, ...]]] = {}
        self._naive: dict[tuple[str, str], list[str]] = {}
        for item in recorded_items(corpus):
            self._add(item)
        for row in bundled_rows(corpus, "naive"):
            query = same_text_key(row.query)
            self._naive[query, same_text_key(row.positives[0].text)] = [n.text for n in row.of_source("generated")]
            self._add_verdicts(row)

    def _add(self, item: DemoItem) -> None:
        row = item.row
        query, positive = same_text_key(row.query), same_text_key(row.positives[0].text)
        self._extractions[query, positive] = _extraction(item)
        self._verdicts[query, positive] = (item.positive_verdict, row.requirements)
        for negative, why in zip(row.negatives, item.why, strict=True):
            assert negative.requirement is not None
            # Four rows break one requirement twice in the same way: only the direction tells the two apart.
            key = (query, positive, same_text_key(negative.requirement.statement), str(negative.disruption))
            self._violations[(*key, same_text_key(why))] = negative.text
        self._add_verdicts(row)

    def _add_verdicts(self, row: Row) -> None:
        for negative in row.negatives:
            assert negative.verdict is not None
            self._verdicts[same_text_key(row.query), same_text_key(negative.text)] = (
                negative.verdict,
                row.requirements,
            )

    def find(self, inputs: Mapping[str, str]) -> dict[str, Any]:
        """The outputs recorded for these inputs. Raises NotRecordedError."""
        keys = _keys(inputs)
        query, passage = keys.get("query", ""), keys.get("passage", "")
        if "count" in inputs:
            missing = f"no naive negatives are recorded for the query {query!r:.80} with this passage"
            return {"negatives": _found(self._naive, (query, passage), missing)[: int(inputs["count"])]}
        if "violations" in inputs:
            planned = _planned(inputs["violations"])
            return {"negatives": [self._violation(one, {**keys, **_keys(one)}) for one in planned]}
        if "target" in inputs:
            return {"negative": self._violation(inputs, keys)}
        if "passages" in inputs:
            texts = [same_text_key(_without_number(text)) for text in _texts(inputs["passages"])]
            found = [self._verdict(query, text, inputs["requirements"]) for text in texts]
            return {"verdicts": [{"number": number} | one for number, one in enumerate(found, start=1)]}
        if "requirements" in inputs:
            return self._verdict(query, passage, inputs["requirements"])
        missing = f"no requirements are recorded for the query {query!r:.80} with this passage"
        return _found(self._extractions, (query, passage), missing)

    def _violation(self, inputs: Mapping[str, str], keys: Mapping[str, str]) -> str:
        if keys.get("refused"):
            raise NotRecordedError("no second drafts are recorded")
        statement = same_text_key(_without_number(inputs["target"]))
        query, passage, disruption, direction = (
            keys.get(name, "") for name in ("query", "passage", "disruption", "direction")
        )
        missing = f"no {disruption} of {statement!r:.80} is recorded for the query {query!r:.80}"
        return _found(self._violations, (query, passage, statement, disruption, direction), missing)

    def _verdict(self, query: str, passage: str, listed: str) -> dict[str, Any]:
        missing = f"no verdict is recorded for this passage and the query {query!r:.80}"
        verdict, requirements = _found(self._verdicts, (query, passage), missing)
        satisfied = {same_text_key(r.statement): flag for r, flag in zip(requirements, verdict.satisfied, strict=True)}
        asked = [same_text_key(_without_number(statement)) for statement in _texts(listed)]
        unknown = [statement for statement in asked if statement not in satisfied]
        if unknown:
            raise NotRecordedError(f"no verdict is recorded on the requirement {unknown[0]!r:.80}")
        return {
            "reason": verdict.reason,
            "satisfied": [satisfied[statement] for statement in asked],
            "answers_query": verdict.answers_query,
        }


class RecordedServer(LoopbackServer):
    """Serves the recorded answers of a bundled corpus, under the name of its model."""

    def __init__(self, name: str = NAME) -> None:
        super().__init__()
        self._name, self._answers = name, RecordedAnswers(CORPORA[name])

    async def answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        inputs, layout = read_inputs(last_user_text(body["messages"]))
        if not inputs:
            return error_response(422, f"{self._name} found no input fields in the last user message", "not_recorded")
        try:
            outputs = self._answers.find(inputs)
        except NotRecordedError as missing:
            return error_response(422, f"{self._name} has no such answer: {missing}", "not_recorded")
        return completion_response(body, render_answer(outputs, layout))


def _found(recorded: Mapping[_Key, _Answer], key: _Key, missing: str) -> _Answer:
    if key not in recorded:
        raise NotRecordedError(missing)
    return recorded[key]


def _extraction(item: DemoItem) -> dict[str, Any]:
    ways: dict[int, list[dict[str, str]]] = {}
    for negative, why in zip(item.row.negatives, item.why, strict=True):
        assert negative.requirement is not None and negative.disruption is not None
        ways.setdefault(negative.requirement.id, []).append({"disruption": negative.disruption, "direction": why})
    return {
        "meets_query": item.positive_verdict.answers_query,
        "refusal": "",
        "information_need": item.row.query,
        "answer_boundary": _ANSWER_BOUNDARY,
        "requirements": [
            {
                "kind": requirement.kind,
                "statement": requirement.statement,
                "evidence": requirement.evidence,
                "critical": requirement.critical,
                "ways": ways.get(requirement.id, []),
            }
            for requirement in item.row.requirements
        ],
    }


def _keys(inputs: Mapping[str, str]) -> dict[str, str]:
    return {name: same_text_key(value) for name, value in inputs.items()}


def _planned(text: str) -> list[dict[str, str]]:
    value = _json(text)
    if not isinstance(value, list) or not all(isinstance(one, dict) and one.keys() >= {"target"} for one in value):
        raise NotRecordedError("the violations could not be read")
    return [{str(name): str(each) for name, each in one.items()} for one in value]


def _without_number(statement: str) -> str:
    return re.sub(r"^\s*\d+\.\s+", "", statement)


def _texts(text: str) -> list[str]:
    value = _json(text)
    return [entry for entry in value if isinstance(entry, str)] if isinstance(value, list) else []


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
