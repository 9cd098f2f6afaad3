"""An OpenAI-compatible chat server on a free loopback port: the base of recorded answers and of the tests' fakes."""

import asyncio
import json
import secrets
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from programs.lm.usage import estimated_usage

HOST = "127.0.0.1"
# Prompts with few-shot demonstrations are long; what is longer than this is no prompt of ours.
_MAX_REQUEST_BYTES = 16 * 2**20


class LoopbackServer(ABC):
    """Serves POST /v1/chat/completions from a thread of this process, and so ends with the process, however that ends.

    It listens on 127.0.0.1 only, on a port that the system picks, and answers only to its own random `token`.
    Subclasses write `answer`. Use it as a context manager.
    """

    def __init__(self) -> None:
        self.token = f"loopback-{secrets.token_urlsafe(24)}"
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, name=type(self).__name__, daemon=True)

    @property
    def api_base(self) -> str:
        """The base address that an OpenAI client is given."""
        return f"http://{HOST}:{self.port}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        # Until the port accepts connections.
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    @abstractmethod
    async def answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        """Answer one chat completion request whose token and JSON form are already checked."""

    def add_routes(self, app: web.Application) -> None:
        """What is served; a subclass may add to it."""
        app.router.add_post("/v1/chat/completions", self._completions)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application(client_max_size=_MAX_REQUEST_BYTES)
        self.add_routes(app)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, HOST, 0, backlog=1024)
        self._loop.run_until_complete(site.start())
        self.port = runner.addresses[0][1]
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        # Answers that nobody waits for any more.
        late = asyncio.all_tasks(self._loop)
        for task in late:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*late, return_exceptions=True))
        self._loop.close()

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        given = request.headers.get("Authorization", "")
        # A header is bytes; those that are no text are not the token either.
        if not secrets.compare_digest(given.encode(errors="surrogateescape"), f"Bearer {self.token}".encode()):
            return error_response(401, "the token is not this server's", "invalid_api_key")
        try:
            body = json.loads(await request.read())
        except (ValueError, RecursionError):
            return error_response(400, "the request is not JSON", "invalid_request")
        if not isinstance(body, dict) or not isinstance(body.get("messages"), list):
            return error_response(400, "the request has no list of messages", "invalid_request")
        return await self.answer(request, body)


def error_response(
    status: int, message: str, code: str, headers: Mapping[str, str] | None = None
) -> web.StreamResponse:
    """An error in the form that OpenAI's clients read."""
    return _json({"error": {"message": message, "type": code, "code": code}}, status=status, headers=headers)


def completion_response(
    body: Mapping[str, Any], text: str, *, finish_reason: str = "stop", usage: Mapping[str, int] | None = None
) -> web.StreamResponse:
    """One chat completion; `usage` is estimated from the lengths when it is not given."""
    return _json(
        {
            "id": f"chatcmpl-{secrets.token_hex(8)}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": str(body.get("model", "")),
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
            ],
            "usage": dict(usage or estimated_usage(body, text)),
        }
    )


def _json(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(
        body=json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"),
        status=status,
        headers=headers,
        content_type="application/json",
    )
