"""A fake provider with files and batches endpoints in OpenAI's form, reached through real litellm over HTTP.

Its answers are FakeModel's; what may go wrong with a whole batch is told by number. It keeps what it was asked, so that
a test can compare a run's books with what really arrived.
"""

import asyncio
import json
import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import httpx
from aiohttp import web

from programs.lm.servers.loopback import error_response
from tests.fakes.fake_model import FakeModel

BatchFault = Literal[
    "429_create",  # refused, nothing is made
    "drop_after_create",  # made, and the answer to the create call is lost
    "expired",  # half of the lines are answered, then the window is over
    "cancelled",  # the same, by somebody else's hand
    "failed",  # the provider refuses the file as a whole
    "error_lines",  # every third line is an error of its own
    "reordered",
    "duplicated",  # every line twice
    "too_large",  # the upload is refused
]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class Batch:
    """One batch as the provider keeps it."""

    id: str
    metadata: dict[str, str]
    custom_ids: list[str]
    ends_at: float
    status: str = "in_progress"
    fault: BatchFault | None = None
    output: list[dict[str, Any]] = field(default_factory=list)
    errors: list[dict[str, Any]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        ended = self.status != "in_progress"
        return {
            "id": self.id, "object": "batch", "endpoint": "/v1/chat/completions", "completion_window": "24h",
            "input_file_id": f"file-{self.id}", "created_at": int(time.time()), "status": self.status,
            "metadata": self.metadata,
            "errors": {"data": [{"message": "fake fault failed"}]} if self.status == "failed" else None,
            "output_file_id": f"output-{self.id}" if ended and self.output else None,
            "error_file_id": f"errors-{self.id}" if ended and self.errors else None,
            "request_counts": {
                "total": len(self.custom_ids), "completed": len(self.output) if ended else 0,
                "failed": len(self.errors) if ended else 0,
            },
        }  # fmt: skip


class FakeBatches(FakeModel):
    """`batch_fault(n)` names the misbehaviour of the n-th batch that is created (0-based); batches take `batch_s`."""

    def __init__(
        self,
        *,
        batch_fault: Callable[[int], BatchFault | None] = lambda number: None,
        batch_s: float = 0.05,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self._batch_fault, self._batch_s = batch_fault, batch_s
        self.files: dict[str, bytes] = {}
        self._created = 0
        self.refused_files = 0
        self.batches: dict[str, Batch] = {}

    def sent(self) -> Counter[str]:
        """How often each request (its custom_id) stands in an accepted batch."""
        with self._lock:
            return Counter(one for batch in self.batches.values() for one in batch.custom_ids)

    def end_all(self) -> None:
        """End what is out now; later batches end at once."""
        with self._lock:
            self._batch_s = 0.0
            for batch in self.batches.values():
                batch.ends_at = 0.0

    def billed(self) -> int:
        """The tokens of all answered lines."""
        return sum(served.prompt_tokens + served.completion_tokens for served in self.log)

    def add_routes(self, app: web.Application) -> None:
        super().add_routes(app)
        for method, path, handler in (
            ("POST", "/v1/files", self._upload),
            ("GET", "/v1/files/{id}/content", self._content),
            ("POST", "/v1/batches", self._create),
            ("GET", "/v1/batches", self._list),
            ("GET", "/v1/batches/{id}", self._retrieve),
            ("POST", "/v1/batches/{id}/cancel", self._cancel),
        ):
            app.router.add_route(method, path, self._with_token(handler))

    def _with_token(self, handler: Handler) -> Handler:
        async def checked(request: web.Request) -> web.StreamResponse:
            if request.headers.get("Authorization") != f"Bearer {self.token}":
                return error_response(401, "the token is not this server's", "invalid_api_key")
            return await handler(request)

        return checked

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        content = b""
        async for part in await request.multipart():
            if part.name == "file":  # type: ignore[union-attr]
                content = bytes(await part.read())  # type: ignore[union-attr]
        if self._batch_fault(self._created) == "too_large":
            self._created += 1
            self.refused_files += 1
            return error_response(413, "the file is too large", "file_too_large")
        name = f"file-{secrets.token_hex(6)}"
        self.files[name] = content
        return web.json_response(
            {"id": name, "object": "file", "bytes": len(content), "created_at": int(time.time()),
             "filename": "wave.jsonl", "purpose": "batch", "status": "processed"}
        )  # fmt: skip

    async def _create(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        fault = self._batch_fault(self._created)
        self._created += 1
        if fault == "429_create":
            return error_response(429, "too many batches", "rate_limit_exceeded")
        lines = [json.loads(line) for line in self.files[body["input_file_id"]].splitlines() if line.strip()]
        batch = Batch(
            id=f"batch_{secrets.token_hex(6)}",
            metadata=body.get("metadata") or {},
            custom_ids=[line["custom_id"] for line in lines],
            ends_at=time.monotonic() + self._batch_s,
            fault=fault,
        )
        with self._lock:
            self.batches[batch.id] = batch
        await self._work(request, batch, lines)
        if fault == "drop_after_create":
            assert request.transport is not None
            request.transport.abort()
        return web.json_response(batch.as_json())

    async def _work(self, request: web.Request, batch: Batch, lines: list[dict[str, Any]]) -> None:
        if batch.fault == "failed":
            return
        answered = lines[: len(lines) // 2] if batch.fault in ("expired", "cancelled") else lines
        for number, line in enumerate(answered):
            if batch.fault == "error_lines" and number % 3 == 0:
                error = {"status_code": 500, "body": {"error": {"message": "fake line fault", "code": "server_error"}}}
                batch.errors.append({"id": "r", "custom_id": line["custom_id"], "response": error, "error": None})
                continue
            response = await self.answer(request, line["body"])
            assert isinstance(response, web.Response) and isinstance(response.body, bytes)
            result = {"status_code": response.status, "request_id": "r", "body": json.loads(response.body)}
            batch.output.append({"id": "r", "custom_id": line["custom_id"], "response": result, "error": None})
            if number % 50 == 49:
                await asyncio.sleep(0)
        if batch.fault == "reordered":
            batch.output.reverse()
        if batch.fault == "duplicated":
            batch.output *= 2
        for line in lines[len(answered) :]:
            gone = {"code": "batch_expired", "message": "this request could not be executed before the window ended"}
            batch.errors.append({"id": "r", "custom_id": line["custom_id"], "response": None, "error": gone})

    def _aged(self, batch: Batch) -> Batch:
        if batch.status == "in_progress" and time.monotonic() >= batch.ends_at:
            ends = {"expired": "expired", "cancelled": "cancelled", "failed": "failed"}
            batch.status = ends.get(batch.fault or "", "completed")
        return batch

    async def _retrieve(self, request: web.Request) -> web.StreamResponse:
        batch = self.batches.get(request.match_info["id"])
        if batch is None:
            return error_response(404, "no such batch", "not_found")
        return web.json_response(self._aged(batch).as_json())

    async def _list(self, request: web.Request) -> web.StreamResponse:
        ids = list(reversed(self.batches))
        after, limit = request.query.get("after"), int(request.query.get("limit", "20"))
        start = ids.index(after) + 1 if after in ids else 0
        page = ids[start : start + limit]
        return web.json_response(
            {"object": "list", "data": [self.batches[one].as_json() for one in page],
             "first_id": page[0] if page else None, "last_id": page[-1] if page else None,
             "has_more": start + limit < len(ids)}
        )  # fmt: skip

    async def _cancel(self, request: web.Request) -> web.StreamResponse:
        batch = self._aged(self.batches[request.match_info["id"]])
        if batch.status != "in_progress":
            return error_response(409, f"cannot cancel a batch with status {batch.status}", "invalid_request_error")
        batch.status = "cancelled"
        return web.json_response(batch.as_json())

    async def _content(self, request: web.Request) -> web.StreamResponse:
        kind, _, batch_id = request.match_info["id"].partition("-")
        batch = self.batches[batch_id]
        lines = batch.output if kind == "output" else batch.errors
        return web.Response(body="".join(json.dumps(line) + "\n" for line in lines).encode())


class _Server(Protocol):
    @property
    def api_base(self) -> str: ...

    @property
    def token(self) -> str: ...


class RunBatch:
    """A `run-batch`: while entered, answers every request file below `folder` by asking `server`, a line at a time.

    The first response file ends in the middle of its last line where `cuts_first` is set, as one whose writer was
    killed long ago.
    """

    def __init__(self, folder: Path, server: _Server, *, cuts_first: bool = False):
        self._folder, self._server, self._cut = folder, server, cuts_first
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _work(self) -> None:
        with httpx.Client(headers={"Authorization": f"Bearer {self._server.token}"}) as client:
            while not self._ended.is_set():
                for asked in sorted(self._folder.rglob("requests/*.jsonl")):
                    answered = asked.parent.parent / "responses" / asked.name
                    if not answered.exists():
                        self._answer(client, asked, answered)
                self._ended.wait(0.05)

    def _answer(self, client: httpx.Client, asked: Path, answered: Path) -> None:
        text = ""
        for line in asked.read_text(encoding="utf-8").splitlines():
            request = json.loads(line)
            reply = client.post(f"{self._server.api_base}/chat/completions", json=request["body"], timeout=30)
            response = {"status_code": reply.status_code, "body": reply.json()}
            text += json.dumps({"custom_id": request["custom_id"], "response": response}) + "\n"
        part = answered.with_suffix(".part")
        part.write_text(text[:-40] if self._cut else text, encoding="utf-8")
        if self._cut:
            os.utime(part, (0, 0))
        self._cut = False
        part.rename(answered)
