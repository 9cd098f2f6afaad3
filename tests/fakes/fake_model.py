"""An OpenAI-compatible fake model: invents plausible answers to the prompts and misbehaves as told.

It is reached through real litellm over HTTP. It keeps its own log, so that a test can compare what a run says it did
with what really arrived.
"""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from aiohttp import web

from data.base.text import content_id
from programs.lm.models import ModelSpec
from programs.lm.role_lm import RoleLM
from programs.lm.servers.loopback import LoopbackServer, completion_response, error_response
from programs.lm.servers.recorded import read_inputs, render_answer
from programs.lm.usage import estimated_usage, message_text

Fault = Literal[
    "429",
    "429_retry_after",
    "500",
    "503",
    "drop",
    "malformed",
    "truncated",
    "empty",
    "wrong_schema",
    "not_json",
    "huge",
    "401",
    "404",
    "quota",
    "stall",
    "cut_body",
]
Kind = Literal["extract", "violate", "verify", "write"]
# What the fake writes of the target requirement into a negative, and looks for when it verifies.
_BROKEN = "breaks requirement"


# What may happen to a call to a public provider on a bad day; the run must survive any mixture of these.
MIXED_FAULTS: tuple[Fault, ...] = (
    "429", "429_retry_after", "500", "503", "stall", "drop", "malformed", "truncated", "cut_body", "not_json", "empty",
    "wrong_schema", "huge",
)  # fmt: skip


_STATUS = {"429": 429, "429_retry_after": 429, "quota": 429, "503": 503, "401": 401, "404": 404}
_CODE = {"401": "invalid_api_key", "404": "model_not_found", "quota": "insufficient_quota"}


@dataclass(frozen=True, slots=True)
class Served:
    """One request as the server saw it; `request` is a hash of the prompt."""

    kind: Kind
    request: str
    query: str
    fault: Fault | None
    prompt_tokens: int
    completion_tokens: int


class FakeModel(LoopbackServer):
    """`fault(n)` names the misbehaviour of the n-th request (0-based), None answers properly.

    `speaks` is the one layout (chat, json, xml) that it answers sensibly in; None for any. A "stall" is an answer that
    comes after `stall_s`, when nobody waits for it any more. With `echo_key` its errors repeat the caller's key, as
    some providers' do. Its extraction says that positives which hold the
    text `refuses` do not meet their query. `alter` may change the n-th completion, as JSON, before it is sent.
    """

    def __init__(
        self,
        *,
        fault: Callable[[int], Fault | None] = lambda number: None,
        delay_s: float = 0.0,
        says_relevant: Callable[[str], bool] = lambda passage: (
            _BROKEN not in passage and not passage.startswith("A mined passage")
        ),
        max_at_once: int | None = None,
        speaks: str | None = None,
        refuses: str = "NOT RELEVANT",
        short_batches: bool = False,
        stall_s: float = 30.0,
        echo_key: bool = False,
        alter: Callable[[int, dict[str, Any]], None] | None = None,
    ):
        super().__init__()
        self._refuses = refuses
        self._stall_s, self._echo_key, self._alter = stall_s, echo_key, alter
        self._fault, self._delay_s, self._says_relevant = fault, delay_s, says_relevant
        self.max_at_once, self._speaks, self._short_batches = max_at_once, speaks, short_batches
        self._lock = threading.Lock()
        self._received = 0
        self.at_once = self.most_at_once = 0
        self.log: list[Served] = []

    def roles(self, **settings: Any) -> dict[str, RoleLM]:
        """A generator and a verifier that are this model, free of charge, for a program's `use`."""
        spec = ModelSpec(
            is_local=True, name="fake", model="openai/fake-free", api_base=self.api_base, api_key=self.token, **settings
        )
        return {role: RoleLM(role, spec) for role in ("generator", "verifier")}

    def outcomes(self) -> Counter[str]:
        """Requests by what was done to them ("ok" or the fault)."""
        with self._lock:
            return Counter(served.fault or "ok" for served in self.log)

    def answered(self) -> list[Served]:
        """The requests that got a proper answer."""
        with self._lock:
            return [served for served in self.log if served.fault is None]

    def keep(self, served: Served) -> None:
        """Add one request to the log."""
        with self._lock:
            self.log.append(served)

    async def answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            number = self._received
            fault = self._fault(number)
            self._received += 1
            if self.max_at_once is not None and self.at_once > self.max_at_once:
                fault = "429"
            if self._delay_s:
                await asyncio.sleep(self._delay_s)
            response = self._reply(request, body, fault)
            if fault == "stall":
                await asyncio.sleep(self._stall_s)
            if self._alter and fault is None:
                assert isinstance(response, web.Response) and isinstance(response.body, bytes)
                completion = json.loads(response.body)
                self._alter(number, completion)
                return web.json_response(completion)
            return response
        finally:
            self.at_once -= 1

    def _reply(self, request: web.Request, body: dict[str, Any], fault: Fault | None) -> web.StreamResponse:
        text = message_text(body["messages"][-1])
        inputs, layout = read_inputs(text)
        kind = kind_of(inputs)
        answer = render_answer(self._outputs(kind, inputs), layout)
        if self._speaks not in (None, layout):
            fault = "wrong_schema"
        if fault == "malformed":
            answer = answer[: len(answer) // 3] + "}}]] ## oops"
        elif fault == "truncated":
            answer = answer[: len(answer) // 2]
        elif fault == "empty":
            answer = ""
        elif fault == "wrong_schema":
            answer = render_answer({"thoughts": "I would rather talk about the weather."}, layout)
        elif fault == "huge":
            answer = "x" * 10_000_000
        billed = fault in (None, "malformed", "truncated", "empty", "wrong_schema", "huge")
        usage = estimated_usage(body, answer) if billed else {"prompt_tokens": 0, "completion_tokens": 0}
        query = inputs.get("query", "")
        self.keep(Served(kind, content_id(text), query, fault, usage["prompt_tokens"], usage["completion_tokens"]))
        if fault == "drop":
            assert request.transport is not None
            request.transport.abort()
        if fault == "not_json":
            return web.Response(text="<html>upstream hiccup</html>", content_type="text/html")
        if fault == "cut_body":
            return web.Response(text='{"id": "chatcmpl-1", "choices": [{"ind', content_type="application/json")
        if not billed:
            return self._error(fault)
        return completion_response(body, answer, finish_reason="length" if fault == "truncated" else "stop")

    def _outputs(self, kind: Kind, inputs: dict[str, str]) -> dict[str, Any]:
        query, passage = inputs.get("query", ""), inputs.get("passage", "")
        if kind == "write" and "query" not in inputs:
            about = passage.split()[-1]
            return {"queries": [f"question {number} about {about}" for number in range(int(inputs["count"]))]}
        if kind == "write":
            # The last one is the positive again, as careless models do.
            drafts = [f"Naive passage {number} near {query}" for number in range(1, int(inputs["count"]))]
            return {"negatives": [*drafts, passage]}
        if kind == "extract":
            return {
                "meets_query": self._refuses not in passage,
                "refusal": f"It says {self._refuses}." if self._refuses in passage else "",
                "information_need": query,
                "answer_boundary": f"any answer to {query}",
                "requirements": list(_requirements(query, passage)),
            }
        if "violations" in inputs:
            planned = json.loads(inputs["violations"])[int(self._short_batches) :]
            return {"negatives": [self._outputs(kind, {"query": query, **one})["negative"] for one in planned]}
        if kind == "violate":
            draft = "second draft" if inputs.get("refused") else "draft"
            negative = f"About {query}: {inputs['direction']}\nThis {draft} {_BROKEN} {inputs['target']}"
            return {"negative": negative}
        if "passages" in inputs:
            shown = [text.partition(". ")[2] for text in json.loads(inputs["passages"])]
            return {"verdicts": [{"number": n} | self._verdict(text, inputs) for n, text in enumerate(shown, start=1)]}
        return self._verdict(passage, inputs)

    def _verdict(self, passage: str, inputs: dict[str, str]) -> dict[str, Any]:
        return {
            "reason": "It says so.",
            "satisfied": [f"{_BROKEN} {number}." not in passage for number in range(1, self._num_asked(inputs) + 1)],
            "answers_query": self._says_relevant(passage),
        }

    @staticmethod
    def _num_asked(inputs: dict[str, str]) -> int:
        asked = inputs["requirements"]
        return len(json.loads(asked)) if asked.startswith("[") else asked.count("\n") + 1

    def _error(self, fault: Fault | None) -> web.StreamResponse:
        headers = {"Retry-After": "0.2"} if fault == "429_retry_after" else None
        code = _CODE.get(str(fault), "fault")
        echo = f" of key {self.token} (Authorization: Bearer {self.token})" if self._echo_key else ""
        return error_response(_STATUS.get(str(fault), 500), f"fake fault {fault}{echo}", code, headers)


def kind_of(inputs: dict[str, str]) -> Kind:
    """Which step of a synthesis asks with these inputs."""
    if "count" in inputs:
        return "write"
    writes = "target" in inputs or "violations" in inputs
    return "violate" if writes else "verify" if "requirements" in inputs else "extract"


def _requirements(query: str, passage: str) -> Iterable[dict[str, Any]]:
    for number, kind in ((1, "entity"), (2, "attribute")):
        yield {
            "kind": kind,
            "statement": f"condition {number} of {query}",
            "evidence": passage[:20],
            "critical": True,
            "ways": [
                {"disruption": "entity_shift", "direction": f"another thing {number}"},
                {"disruption": "attribute_shift", "direction": f"another value {number}"},
            ],
        }
