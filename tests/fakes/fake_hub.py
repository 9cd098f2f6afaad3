"""A Hugging Face hub on the loopback interface: takes commits, keeps their files, wants the right token."""

import base64
import json
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.fakes.raw_server import RawServer, send

TOKEN = "hf_planted_for_the_test"


class FakeHub(RawServer):
    """`files[repo][path]` is what was committed; `requests` the (method, path) of every request in order."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.created: list[dict[str, Any]] = []
        self.requests: list[tuple[str, str]] = []
        super().__init__(self._answer)

    @property
    def endpoint(self) -> str:
        return self.address

    def reply(self, method: str, path: str, body: bytes) -> Any:
        """The JSON for a request, None for what this hub does not know."""
        kind, *rest = path.removeprefix("/api/").split("/")
        if path == "/api/repos/create":
            self.created.append(json.loads(body))
            return {"url": f"{self.address}/{self.created[-1]['organization']}/{self.created[-1]['name']}"}
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        repo = "/".join(rest[:2])
        if rest[2:3] == ["preupload"]:
            wanted = json.loads(body)["files"]
            return {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in wanted]}
        if rest[2:3] == ["commit"]:
            held = self.files.setdefault(repo, {})
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    held[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return {"commitUrl": f"{self.address}/{repo}/commit/0", "commitOid": "0" * 40}
        if method == "GET" and kind == "datasets" and repo == "org/pairs":
            return {"id": repo, "sha": "a" * 40, "siblings": [], "tags": []}
        return None

    def _answer(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        self.requests.append((handler.command, handler.path))
        allowed = handler.headers.get("Authorization") == f"Bearer {TOKEN}"
        reply = self.reply(handler.command, handler.path.split("?")[0], body) if allowed else {"error": "bad token"}
        status = 401 if not allowed else 404 if reply is None else 200
        send(handler, json.dumps(reply if reply is not None else {"error": "not found"}).encode(), status)
