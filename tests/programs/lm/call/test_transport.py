"""What travels for one call: how long, how much, where to, and what is booked when it is lost on the way."""

import gzip
import json
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from data.base.errors import InputError
from programs.lm.budget import Budget
from programs.lm.call import transport
from programs.lm.faults import CallError
from programs.lm.meter import Journal
from programs.lm.models import ModelSpec
from programs.lm.role_lm import RoleLM
from programs.synthesis.store import RunStore
from tests.fakes.raw_server import RawServer, send

Respond = Callable[[BaseHTTPRequestHandler, int], None]
GOOD = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "service_tier": "default",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6},
}
ANTHROPIC = {
    "id": "1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [{"type": "text", "text": "yes"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 5, "output_tokens": 1},
}

OLLAMA = {
    "model": "m",
    "message": {"role": "assistant", "content": "yes"},
    "done": True,
    "prompt_eval_count": 5,
    "eval_count": 1,
}


class Server(RawServer):
    """Answers the n-th POST as `respond` writes it; keeps the time and the body of each."""

    def __init__(self, respond: Respond):
        self.times: list[float] = []
        self.bodies: list[dict[str, Any]] = []

        def keep(handler: BaseHTTPRequestHandler, body: bytes) -> None:
            self.times.append(time.time())
            self.bodies.append(json.loads(body))
            respond(handler, len(self.times) - 1)

        super().__init__(keep)


def good(handler: BaseHTTPRequestHandler, completion: dict[str, Any] = GOOD) -> None:
    send(handler, json.dumps(completion).encode())


def answering(completion: dict[str, Any]) -> Respond:
    return lambda handler, number: good(handler, completion)


def lm_at(
    server: Server,
    budget: Budget | None = None,
    *,
    model: str = "openai/m",
    retries: int = 0,
    journal: Journal | None = None,
    **settings: Any,
) -> RoleLM:
    base = server.address if model.startswith(("anthropic", "ollama")) else f"{server.address}/v1"
    fixed = {"name": model, "model": model, "api_base": base, "api_key": "sk-not-a-key"}
    spec = ModelSpec(**fixed | {"max_tokens": 50, "timeout_s": 10.0} | settings)
    return RoleLM("generator", spec, retries=retries, budget=budget, journal=journal)


def asked(server: Server, budget: Budget | None = None, **settings: Any) -> str:
    return str(lm_at(server, budget, **settings)("hello")[0])


def drip(handler: BaseHTTPRequestHandler, number: int) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b" ")
        time.sleep(0.1)


def test_the_time_of_a_call_is_that_of_its_body_too() -> None:
    budget = Budget()
    with Server(drip) as server:
        began = time.monotonic()
        with pytest.raises(CallError, match="timeout"):
            asked(server, budget, timeout_s=0.8)
        assert time.monotonic() - began < 3
    # Six tokens of prompt at most, and fifty of answer.
    assert budget.spent_tokens == 6 + 50


def zipped(handler: BaseHTTPRequestHandler, number: int) -> None:
    send(handler, gzip.compress(b" " * 2**26), Content_Encoding="gzip")


def endless(handler: BaseHTTPRequestHandler, number: int) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.end_headers()
    while True:
        handler.wfile.write(b" " * 2**16)


def foreign(handler: BaseHTTPRequestHandler, number: int) -> None:
    send(handler, b"anything", Content_Encoding="br")


def cut(handler: BaseHTTPRequestHandler, number: int) -> None:
    send(handler, json.dumps(GOOD).encode()[:40], Content_Length="5000")
    handler.close_connection = True


def half(handler: BaseHTTPRequestHandler, number: int) -> None:
    send(handler, json.dumps(GOOD).encode()[:40])


def page(handler: BaseHTTPRequestHandler, number: int) -> None:
    send(handler, b"<html>hello</html>", Content_Type="text/html")


def odd_usage(handler: BaseHTTPRequestHandler, number: int) -> None:
    good(handler, GOOD | {"usage": "plenty"})


def nothing(handler: BaseHTTPRequestHandler, number: int) -> None:
    send(handler, b"{}")


@pytest.mark.parametrize("respond", [zipped, endless, foreign, cut, half, page, odd_usage, nothing])
def test_an_answer_that_is_lost_is_booked_as_it_may_be_billed(
    respond: Respond, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(transport, "LONGEST_BODY_BYTES", 2**20)
    budget = Budget()
    with Server(respond) as server, RunStore(tmp_path / "store.sqlite") as store:
        with pytest.raises(CallError):
            asked(server, budget, journal=store)
        (usage,) = store.usage().values()
    # Six tokens of prompt at most, and fifty of answer.
    assert budget.spent_tokens == usage.reserved_tokens == 56


@pytest.mark.parametrize("name", ["cached_tokens", "audio_tokens", "image_tokens", "text_tokens"])
@pytest.mark.parametrize("count", [10**9, 10**30])
def test_odd_details_of_the_usage_do_not_spend_the_budget(name: str, count: int) -> None:
    budget, usage = Budget(usd=1.0), GOOD["usage"] | {"prompt_tokens_details": {name: count}}
    with Server(answering(GOOD | {"usage": usage})) as server:
        for _ in range(2):
            assert asked(server, budget, model="openai/gpt-4.1-mini") == "yes"
    assert 0 < budget.spent_usd < 0.001


def test_a_zipped_answer_is_read() -> None:
    def respond(handler: BaseHTTPRequestHandler, number: int) -> None:
        send(handler, gzip.compress(json.dumps(GOOD).encode()), Content_Encoding="gzip")

    with Server(respond) as server:
        assert asked(server) == "yes"


@pytest.mark.parametrize("model", ["openai/m", "hosted_vllm/m", "anthropic/claude-3-haiku-20240307", "groq/m"])
def test_no_redirect_is_followed(model: str) -> None:
    with Server(answering(GOOD)) as other:

        def respond(handler: BaseHTTPRequestHandler, number: int) -> None:
            send(handler, b"", 307, Location=f"{other.address.replace('127.0.0.1', 'localhost')}/v1/chat/completions")

        with (
            Server(respond) as server,
            pytest.raises(InputError, match=r"answers with a redirect \(307\) to localhost"),
        ):
            asked(server, model=model)
        assert len(server.times) == 1
        assert not other.times


@pytest.mark.parametrize(
    "model",
    ["openai/m", "hosted_vllm/m", "anthropic/claude-3-haiku-20240307", "groq/m", "ollama_chat/m", "deepseek/m"],
)
@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_server_is_waited_for_as_long_as_it_says(model: str, form: str) -> None:
    def respond(handler: BaseHTTPRequestHandler, number: int) -> None:
        if number == 0:
            after = "1" if form == "seconds" else formatdate(time.time() + 2, usegmt=True)
            send(handler, b'{"error": {"message": "slow down"}}', 429, Retry_After=after)
        elif model.startswith("anthropic"):
            good(handler, ANTHROPIC)
        elif model.startswith("ollama"):
            good(handler, OLLAMA)
        else:
            good(handler)

    with Server(respond) as server:
        assert asked(server, model=model, retries=1) == "yes"
        assert server.times[1] - server.times[0] >= 0.95


def test_a_rate_limit_that_lasts_longer_than_the_retries_is_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def respond(handler: BaseHTTPRequestHandler, number: int) -> None:
        if number < 12:
            send(handler, b'{"error": {"message": "slow down"}}', 429, Retry_After="0.01")
        else:
            good(handler)

    with Server(respond) as server:
        assert asked(server, retries=1) == "yes"
    monkeypatch.setattr("programs.lm.role_lm._LONGEST_PAUSE_S", 0.3)
    with (
        Server(lambda handler, number: send(handler, b"{}", 429, Retry_After="0.05")) as server,
        pytest.raises(InputError, match=r"nothing but rate limits.*run the same command again"),
    ):
        asked(server, retries=1)


def test_a_connection_that_breaks_is_not_posted_to_twice() -> None:
    def respond(handler: BaseHTTPRequestHandler, number: int) -> None:
        handler.connection.close()
        raise OSError

    budget = Budget()
    with Server(respond) as server:
        with pytest.raises(CallError, match="disconnected"):
            asked(server, budget, model="hosted_vllm/m")
        assert len(server.times) == 1
    assert budget.spent_tokens == 56


@pytest.fixture
def behind_a_proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server(lambda handler, number: send(handler, b"{}", 502)) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.address)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        yield proxy


def test_a_server_on_this_machine_is_not_asked_through_a_proxy(behind_a_proxy: Server) -> None:
    with Server(answering(GOOD)) as server:
        assert asked(server) == "yes"
    assert not behind_a_proxy.times
