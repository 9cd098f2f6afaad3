"""How a server may answer one call, from tables: odd completions and counts, broken HTTP."""

import asyncio
import gzip
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from email.utils import formatdate
from functools import partial
from itertools import product
from typing import Any

from aiohttp import web

from programs.lm.servers.recorded import Layout, render_answer
from programs.lm.usage import estimated_usage

# What a slow server keeps a caller waiting for, longer than any caller of these tests waits.
LONGER_THAN_ANY_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request and its proper answer; `elsewhere` is another server's address, which must never be asked."""

    request: web.Request
    body: dict[str, Any]
    outputs: dict[str, Any]
    layout: Layout
    key: str
    elsewhere: str

    @property
    def answer(self) -> str:
        """The proper answer as text."""
        return render_answer(self.outputs, self.layout)

    def completion(self, text: str) -> dict[str, Any]:
        """A completion with this text, and an honest count of tokens."""
        message = {"role": "assistant", "content": text}
        return {
            "id": "chatcmpl-1", "object": "chat.completion", "created": int(time.time()), "model": self.body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": estimated_usage(self.body, text),
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Misbehaviour:
    """`text` is what the model writes, which is what its provider bills; `reply` sends it. `billed`: whether anything
    was produced; `passes`: whether asking again must help."""

    kind: str
    name: str
    text: Callable[[Asked], str]
    reply: Callable[[Asked, dict[str, Any]], Awaitable[web.StreamResponse]]
    billed: bool = True
    passes: bool = False


async def properly(asked: Asked, completion: dict[str, Any]) -> web.StreamResponse:
    """The completion as a server sends it."""
    return web.Response(text=json.dumps(completion), content_type="application/json")


PROPER = Misbehaviour(kind="none", name="none", text=lambda asked: asked.answer, reply=properly, passes=True)


def _message(change: Callable[[dict[str, Any], Asked], Any]) -> Callable[[dict[str, Any], Asked], None]:
    return lambda completion, asked: change(completion["choices"][0]["message"], asked)


_CALL = {"id": "1", "type": "function", "function": {"name": "answer", "arguments": "{"}}
_COMPLETIONS: dict[str, Callable[[dict[str, Any], Asked], Any]] = {
    **{
        f"content {value!r}"[:40]: _message(lambda m, asked, v=value: m.update(content=v))
        for value in (None, 1, True, [], {}, [1], [None], [{"type": "text", "text": "x"}], {"text": "x"})
    },
    "content in parts": _message(lambda m, asked: m.update(content=[{"type": "text", "text": asked.answer}])),
    "no content": _message(lambda m, asked: m.pop("content")),
    "no role": _message(lambda m, asked: m.pop("role")),
    "odd role": _message(lambda m, asked: m.update(role=["user"])),
    "tool call": _message(lambda m, asked: m.update(content=None, tool_calls=[_CALL])),
    "odd tool calls": _message(lambda m, asked: m.update(content=None, tool_calls="x")),
    "function call": _message(lambda m, asked: m.update(content=None, function_call=_CALL["function"])),
    "refusal": _message(lambda m, asked: m.update(content=None, refusal="no")),
    "thoughts alone": _message(lambda m, asked: m.update(content="", reasoning_content="{" * 5000)),
    "answer as thoughts": _message(lambda m, asked: m.update(content="", reasoning_content=asked.answer)),
    "odd thoughts": _message(lambda m, asked: m.update(content="", reasoning_content=[{}])),
    **{
        f"finish reason {reason!r}": lambda c, asked, r=reason: c["choices"][0].update(finish_reason=r)
        for reason in ("length", "content_filter", "tool_calls", "whatever", None, 1, "", [])
    },
    "several choices": lambda c, asked: c.update(choices=c["choices"] * 5),
    **{
        f"choices {value!r}"[:40]: lambda c, asked, v=value: c.update(choices=v)
        for value in ([], None, "x", [None], ["x"], [{}], {}, [{"message": None}], [{"message": "x"}], [[]])
    },
    "no choices": lambda c, asked: c.pop("choices"),
    "an error with 200": lambda c, asked: (c.clear(), c.update(error={"message": f"no {asked.key}", "code": 500})),
    "an error beside": lambda c, asked: c.update(error={"message": "broken", "code": 500}),
    "an empty object": lambda c, asked: c.clear(),
    **{f"no {name}": lambda c, asked, n=name: c.pop(n) for name in ("id", "object", "created", "model")},
    **{
        f"odd {name} {value!r}": lambda c, asked, n=name, v=value: c.update({n: v})
        for name in ("id", "object", "created", "model")
        for value in (None, [], "x" * 9, -1)
    },
}  # fmt: skip


def _counts(**counts: Any) -> Callable[[dict[str, Any], Asked], None]:
    return lambda completion, asked: completion["usage"].update(counts)


_ODD = (None, -1, -(10**9), 10**9, 10**30, 0, "12", "x", 1.5, float("nan"), float("inf"), True, [], {})
_USAGE: dict[str, Callable[[dict[str, Any], Asked], Any]] = {
    "none": lambda c, asked: c.pop("usage"),
    **{f"usage {value!r}": lambda c, asked, v=value: c.update(usage=v) for value in (None, {}, [], "plenty", 7, True)},
    **{
        f"{name} {value!r}": _counts(**{name: value})
        for name in ("prompt_tokens", "completion_tokens", "total_tokens")
        for value in _ODD
    },
    **{f"no {name}": lambda c, asked, n=name: c["usage"].pop(n) for name in ("prompt_tokens", "completion_tokens")},
    **{
        f"{group} {name} {value!r}": _counts(**{group: {name: value}})
        for group, names in (
            ("prompt_tokens_details", ("cached_tokens", "audio_tokens", "image_tokens", "text_tokens")),
            ("completion_tokens_details", ("reasoning_tokens", "audio_tokens", "text_tokens")),
        )
        for name in names
        for value in _ODD
        # Few tokens in the cache are a claim that nobody can refute; these are read as 12 and as 1.
        if value not in (0, True, "12") or name != "cached_tokens"
    },
    **{
        f"{group} {value!r}": _counts(**{group: value})
        for group in ("prompt_tokens_details", "completion_tokens_details")
        for value in (None, "x", [], -1)
    },
    **{
        f"{name} {value!r}": _counts(**{name: value})
        for name in ("cache_read_input_tokens", "cache_creation_input_tokens", "prompt_cache_hit_tokens", "cost")
        for value in (-(10**9), 10**9, "x", None)
    },
    "total above the parts": lambda c, asked: c["usage"].update(total_tokens=c["usage"]["total_tokens"] + 500),
    "total below the parts": _counts(total_tokens=1),
    **{
        f"named {name}": lambda c, asked, n=name: c.update(model=n)
        for name in ("gpt-4.1-nano", "gpt-5-nano", "openai/gpt-4o-mini", "o1-pro", "unknown", "../../x")
    },
    "service tier flex": lambda c, asked: c.update(service_tier="flex"),
    "odd service tier": lambda c, asked: c.update(service_tier=["x"]),
}  # fmt: skip


def completions() -> Iterator[Misbehaviour]:
    """Proper answers in odd completions, and with odd counts."""
    for kind, table in (("completions", _COMPLETIONS), ("usage", _USAGE)):
        for name, alter in table.items():

            async def reply(
                asked: Asked, completion: dict[str, Any], alter: Callable[[dict[str, Any], Asked], Any] = alter
            ) -> web.StreamResponse:
                alter(completion, asked)
                return await properly(asked, completion)

            yield Misbehaviour(kind=kind, name=name, text=lambda asked: asked.answer, reply=reply)


def _instead(kind: str, name: str, response: Callable[[Asked], web.Response], *, passes: bool = False) -> Misbehaviour:
    """What a server answers where no model wrote anything."""

    async def reply(asked: Asked, completion: dict[str, Any]) -> web.StreamResponse:
        return response(asked)

    return Misbehaviour(kind=kind, name=name, text=lambda asked: "", reply=reply, billed=False, passes=passes)


def statuses() -> Iterator[Misbehaviour]:
    """Every status of an error, in one of three forms."""
    bodies = {
        "JSON": b'{"error": {"message": "no", "type": "t", "code": "c"}}',
        "a page": b"<html>no</html>",
        "nothing": b"",
    }
    for status in range(400, 600):
        name, body = list(bodies.items())[status % 3]
        made = partial(web.Response, status=status, body=body, content_type="application/json")
        passes = status in (408, 429) or status >= 500
        yield _instead("statuses", f"{status}, {name}", lambda asked, made=made: made(), passes=passes)


def redirects() -> Iterator[Misbehaviour]:
    """Every redirect, to another host and to the same one."""
    places = {"host": "{}/v1/chat/completions", "path": "/v1/other", "scheme": "file:///etc/passwd"}
    for status, (name, place) in product((301, 302, 303, 307, 308), places.items()):

        def response(asked: Asked, status: int = status, place: str = place) -> web.Response:
            return web.Response(status=status, headers={"Location": place.format(asked.elsewhere)})

        yield _instead("redirects", f"{status} to another {name}", response)


def retry_after() -> Iterator[Misbehaviour]:
    """Refusals that say how long to wait, sensibly or not."""
    values = {
        "seconds": lambda: "1", "a fraction": lambda: "0.2", "a date": lambda: formatdate(time.time() + 1, usegmt=True),
        "a past date": lambda: formatdate(0, usegmt=True), "garbage": lambda: "soon", "empty": lambda: "",
        "negative": lambda: "-5", "NaN": lambda: "nan", "not ASCII": lambda: "٣",
        "an impossible date": lambda: "Mon, 99 Foo 99999",
        "huge": lambda: "9" * 30, "a year": lambda: "31536000", "a date in years": lambda: formatdate(4e9, usegmt=True),
        "a year too far": lambda: "Mon, 01 Jan 99999 00:00:00 GMT", "hex": lambda: "0x10",
    }  # fmt: skip
    for status, (name, made) in product((429, 503), values.items()):

        def response(asked: Asked, status: int = status, made: Callable[[], str] = made) -> web.Response:
            return web.Response(status=status, headers={"Retry-After": made()}, text="{}")

        yield _instead("retry-after", f"{status}, {name}", response, passes=True)


Wire = Callable[[Asked, bytes], Awaitable[web.StreamResponse]]


def _raw(*parts: bytes, pause_s: float = 0.0, abort: bool = False) -> Wire:
    """Write these bytes as they are, with a pause after each, and close; {} in them is the proper body."""

    async def reply(asked: Asked, body: bytes) -> web.StreamResponse:
        transport = asked.request.transport
        assert isinstance(transport, asyncio.Transport)
        for part in parts:
            transport.write(part.replace(b"{body}", body).replace(b"{half}", body[: len(body) // 2]))
            await asyncio.sleep(pause_s)
            if transport.is_closing():
                break
        (transport.abort if abort else transport.close)()
        return web.Response()

    return reply


def _whole(body: Callable[[bytes], bytes] = lambda body: body, **headers: str) -> Wire:
    async def reply(asked: Asked, completion: bytes) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(body=body(completion), headers={"Content-Type": "application/json"} | named)

    return reply


_OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
_EVENT = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
_WIRES: dict[str, Wire] = {
    "a page with 200": _whole(lambda body: b"<html>hello</html>", Content_Type="text/html"),
    "text/plain": _whole(Content_Type="text/plain"),
    "odd content type": _whole(Content_Type="x; ; charset=\xff"),
    "odd charset": _whole(Content_Type="application/json; charset=utf-99"),
    "UTF-16": _whole(lambda body: body.decode().encode("utf-16")),
    "bytes that are no text": _whole(lambda body: body.replace(b"a", b"\xff")),
    "nothing with 200": _whole(lambda body: b""),
    "cut JSON": _whole(lambda body: body[: len(body) // 2]),
    "a list": _whole(lambda body: b"[" + body + b"]"),
    "a number": _whole(lambda body: b"7"),
    "null": _whole(lambda body: b"null"),
    "a deep body": _whole(lambda body: b"[" * 100_000),
    "a long number": _whole(lambda body: b"9" * 100_000),
    "17 MB of spaces": _whole(lambda body: b" " * (17 * 2**20)),
    "a gzip bomb": _whole(lambda body: gzip.compress(b" " * 2**26), Content_Encoding="gzip"),
    "a gzip bomb of gzip": _whole(lambda body: gzip.compress(gzip.compress(b" " * 2**26)), Content_Encoding="gzip"),
    "gzip, properly": _whole(gzip.compress, Content_Encoding="gzip"),
    "gzip that is none": _whole(Content_Encoding="gzip"),
    "cut gzip": _whole(lambda body: gzip.compress(body)[:40], Content_Encoding="gzip"),
    "brotli": _whole(Content_Encoding="br"),
    "two encodings": _whole(Content_Encoding="gzip, br"),
    "204": _raw(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"),
    "304": _raw(b"HTTP/1.1 304 Not Modified\r\nConnection: close\r\n\r\n"),
    "status 999": _raw(b"HTTP/1.1 999 Odd\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"),
    "status 000": _raw(b"HTTP/1.1 000 Odd\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"),
    "no HTTP": _raw(b"hello\r\n\r\n"),
    "a line of a megabyte": _raw(b"HTTP/1.1 200 " + b"x" * 2**20 + b"\r\n\r\n"),
    "a header of a megabyte": _raw(_OK + b"X: " + b"x" * 2**20 + b"\r\n\r\n"),
    "100,000 headers": _raw(_OK + b"X: y\r\n" * 100_000 + b"Content-Length: 2\r\n\r\n{}"),
    "too long a Content-Length": _raw(_OK + b"Content-Length: 999999\r\n\r\n{body}"),
    "too short a Content-Length": _raw(_OK + b"Content-Length: 20\r\nConnection: close\r\n\r\n{body}"),
    "a negative Content-Length": _raw(_OK + b"Content-Length: -1\r\n\r\n{body}"),
    "a Content-Length in words": _raw(_OK + b"Content-Length: many\r\n\r\n{body}"),
    "two Content-Lengths": _raw(_OK + b"Content-Length: 5\r\nContent-Length: 9\r\n\r\n{body}"),
    "no Content-Length": _raw(_OK + b"Connection: close\r\n\r\n{body}"),
    "bad chunks": _raw(_OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{body}"),
    "a chunk of 2^70 bytes": _raw(_OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 18 + b"\r\n{body}"),
    "cut chunks": _raw(_OK + b"Transfer-Encoding: chunked\r\n\r\n10\r\n{half}"),
    "a reset before": _raw(abort=True),
    "a reset in the headers": _raw(b"HTTP/1.1 200 O", pause_s=0.05, abort=True),
    "a reset in the body": _raw(_OK + b"Content-Length: 9999\r\n\r\n{half}", pause_s=0.05, abort=True),
    "closed at once": _raw(),
    "a stream of events": _raw(_EVENT + b"data: {body}\n\ndata: [DONE]\n\n"),
    "a stream of garbage": _raw(_EVENT + b"data: {\n\ndata: [[[\n\n"),
    "cookies and redirects": _whole(Set_Cookie="a=b", Refresh="0; url=http://localhost/", Location="http://localhost/"),
}  # fmt: skip
_SLOW: dict[str, Wire] = {
    "no headers": _raw(b"", pause_s=LONGER_THAN_ANY_S),
    "headers a byte at a time": _raw(*(bytes([byte]) for byte in _OK[:20]), pause_s=1.0),
    "half of the headers": _raw(_OK, pause_s=LONGER_THAN_ANY_S),
    "a body a byte a second": _raw(_OK + b"Content-Length: 999\r\n\r\n", *[b" "] * 20, pause_s=1.0),
    "half of a body": _raw(_OK + b"Content-Length: 9999\r\n\r\n{half}", pause_s=LONGER_THAN_ANY_S),
    "endless chunks": _raw(_OK + b"Transfer-Encoding: chunked\r\n\r\n", *[b"1\r\n \r\n"] * 200, pause_s=0.1),
    "an endless body": _raw(_OK + b"\r\n", *[b" " * 1000] * 200, pause_s=0.1),
    "endless 100 Continue": _raw(*[b"HTTP/1.1 100 Continue\r\n\r\n"] * 200, pause_s=0.1),
    "endless events": _raw(_EVENT, *[b"data: {}\n\n"] * 200, pause_s=0.1),
    "endless comments of events": _raw(_EVENT, *[b": wait\n\n"] * 200, pause_s=0.1),
    "an error a byte at a time": _raw(b"HTTP/1.1 500 Odd\r\nContent-Length: 99\r\n\r\n", *[b" "] * 20, pause_s=1.0),
}


def wires() -> Iterator[Misbehaviour]:
    """Proper answers that get lost on the way, at once or slowly."""
    for kind, table in (("HTTP", _WIRES), ("slowness", _SLOW)):
        for name, wire in table.items():

            async def reply(asked: Asked, completion: dict[str, Any], wire: Wire = wire) -> web.StreamResponse:
                return await wire(asked, json.dumps(completion).encode())

            billed = "error" not in name and not name.startswith(("204", "304", "status"))
            yield Misbehaviour(kind=kind, name=name, text=lambda asked: asked.answer, reply=reply, billed=billed)
