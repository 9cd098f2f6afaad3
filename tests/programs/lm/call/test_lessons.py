"""What a server refuses is learnt from, and answers that stand elsewhere are found or named."""

import json
import re
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import dspy
import pytest

from data.base.errors import InputError
from programs.lm.adapters import make_adapter
from programs.lm.budget import Budget
from programs.lm.call.lessons import without_bounds
from programs.lm.faults import CallError
from programs.lm.role_lm import RoleLM
from programs.lm.servers.cassette import read_cassette
from programs.modules.signatures import ExtractRequirements
from tests.fakes.raw_server import send
from tests.programs.lm.call.test_transport import GOOD, OLLAMA, Server, answering, asked, good, lm_at

ANSWER = json.dumps(
    {"meets_query": True, "refusal": "", "information_need": "x", "answer_boundary": "y", "requirements": []}
)


def refuse(handler: BaseHTTPRequestHandler, words: str) -> None:
    send(handler, json.dumps({"error": {"message": words, "type": "invalid_request_error"}}).encode(), 400)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("max_tokens", "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."),
        ("max_tokens", "max_tokens is not permitted"),
        ("temperature", "Unsupported value: 'temperature' does not support 0.3 with this model. Only 1 is supported."),
    ],
)
def test_a_parameter_that_is_refused_is_not_sent_again(name: str, words: str) -> None:
    def respond(handler: BaseHTTPRequestHandler, number: int) -> None:
        refuse(handler, words) if name in server.bodies[number] else good(handler)

    with Server(respond) as server:
        lm = lm_at(server, temperature=0.3)
        assert lm("one") == lm("two") == ["yes"]
        # Refused once, then never sent.
        assert [name in body for body in server.bodies] == [True, False, False]
        if "max_completion_tokens" in words:
            assert server.bodies[-1]["max_completion_tokens"] == 50


@pytest.mark.parametrize("keyword", ["maxItems", "maxLength", "$ref"])
def test_a_schema_that_is_refused_is_sent_without_bounds_and_references(keyword: str) -> None:
    def respond(handler: BaseHTTPRequestHandler, number: int) -> None:
        sent = json.dumps(server.bodies[number])
        if f'"{keyword}"' in sent:
            refuse(handler, f"Invalid schema for response_format: '{keyword}' is not permitted")
        else:
            good(handler, with_message({"role": "assistant", "content": ANSWER}))

    with Server(respond) as server:
        lm = lm_at(server, model="hosted_vllm/m", schema_constrained=True)
        for passage in "ab":
            extracted(lm, passage)
    schemas = [body["response_format"]["json_schema"]["schema"] for body in server.bodies]
    assert len(schemas) == 3
    assert schemas[1] == schemas[2] == without_bounds(schemas[0])


def test_refusals_of_one_kind_stop_the_run_with_the_servers_words() -> None:
    def respond(handler: BaseHTTPRequestHandler, number: int) -> None:
        refuse(handler, "no oats here") if "again" in str(server.bodies[number]) else good(handler)

    with Server(respond) as server:
        lm = lm_at(server)
        assert lm("good") == ["yes"]
        for _ in range(9):
            with pytest.raises(CallError, match="request_refused"):
                lm("again")
        with pytest.raises(InputError, match=r"refused 10 requests of one kind.*no oats here"):
            lm("again")


def with_message(message: dict[str, Any], finish_reason: str = "stop") -> dict[str, Any]:
    return GOOD | {"choices": [{"index": 0, "message": message, "finish_reason": finish_reason}]}


def extracted(lm: RoleLM, passage: str = "p") -> Any:
    predictor = dspy.Predict(ExtractRequirements)
    predictor.lm = lm
    with dspy.context(adapter=make_adapter("json", lm.spec)):
        return predictor(query="q", passage=passage, relevance="r")


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": None, "reasoning_content": ANSWER},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": ANSWER}}],
        },
    ],
)
def test_an_answer_that_stands_elsewhere_is_used(message: dict[str, Any]) -> None:
    with Server(answering(with_message(message))) as server:
        assert extracted(lm_at(server)).information_need == "x"


def test_an_answer_that_stands_elsewhere_is_recorded_also_when_the_server_counts_no_tokens(tmp_path: Path) -> None:
    completion = with_message({"role": "assistant", "content": None, "reasoning_content": ANSWER})
    del completion["usage"]
    tape, budget = tmp_path / "tape.jsonl", Budget()
    with Server(answering(completion)) as server:
        assert extracted(lm_at(server, budget, record=tape)).information_need == "x"
    (line,) = read_cassette(tape)
    assert line["outputs"] == json.loads(ANSWER)
    assert line["completion_tokens"] == len(ANSWER) // 4
    assert budget.spent_tokens == line["prompt_tokens"] + line["completion_tokens"]


def test_thoughts_without_an_answer_are_named() -> None:
    message = {"role": "assistant", "content": None, "reasoning_content": "well, let me see"}
    with (
        Server(answering(with_message(message))) as server,
        pytest.raises(CallError, match=re.escape("the content is empty, and reasoning_content holds no answer")),
    ):
        extracted(lm_at(server))


def test_a_filtered_answer_is_called_that_and_asked_for_once() -> None:
    filtered = with_message({"role": "assistant", "content": ""}, "content_filter")
    with Server(answering(filtered)) as server:
        with pytest.raises(CallError, match="content_filter"):
            extracted(lm_at(server))
        assert len(server.bodies) == 1


def test_a_server_that_only_streams_is_asked_for_a_stream() -> None:
    def respond(handler: BaseHTTPRequestHandler, number: int) -> None:
        if not server.bodies[number].get("stream"):
            refuse(handler, "only streaming requests are supported: set stream to true")
            return
        piece = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        deltas = [{"role": "assistant", "content": ANSWER[:9]}, {"content": ANSWER[9:]}]
        choices = [[{"index": 0, "delta": delta, "finish_reason": None}] for delta in deltas]
        choices.append([{"index": 0, "delta": {}, "finish_reason": "stop"}])
        events = [json.dumps(piece | {"choices": each}) for each in choices]
        body = "".join(f"data: {event}\n\n" for event in [*events, "[DONE]"])
        send(handler, body.encode(), Content_Type="text/event-stream")

    with Server(respond) as server:
        assert extracted(lm_at(server)).information_need == "x"


def test_one_answer_in_a_stream_does_not_make_a_server_that_only_streams() -> None:
    def respond(handler: BaseHTTPRequestHandler, number: int) -> None:
        if number == 0:
            send(handler, b"data: [DONE]\n\n", Content_Type="text/event-stream")
        else:
            good(handler)

    with Server(respond) as server:
        lm = lm_at(server)
        assert [lm(text)[0] for text in ("a", "b", "c")] == ["yes"] * 3
        # What was asked for as a stream and came as none is asked for plainly, from then on.
        assert [bool(body.get("stream")) for body in server.bodies] == [False, True, False, False, False]


def test_ollama_is_told_how_long_the_prompt_is() -> None:
    with Server(answering(OLLAMA)) as server:
        assert asked(server, model="ollama_chat/m") == "yes"
        lm = lm_at(server, model="ollama_chat/m")
        lm("oats " * 10_000)
        lm("short")
    # It only grows: for another length the model would be loaded anew.
    assert [body["options"]["num_ctx"] for body in server.bodies] == [4096, 32768, 32768]
