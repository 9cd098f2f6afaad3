"""A Hugging Face hub on the loopback interface: takes commits, keeps their files, wants the right token."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

TOKEN = "hf_planted_for_the_test"


class FakeHub:
    """`files[repo][path]` is what was committed; `requests` the (method, path) of every request in order."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.created: list[dict[str, Any]] = []
        self.requests: list[tuple[str, str]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def reply(self, method: str, path: str, body: bytes) -> Any:
        """The JSON for a request, None for what this hub does not know."""
        kind, *rest = path.removeprefix("/api/").split("/")
        if path == "/api/repos/create":
            self.created.append(json.loads(body))
            return {"url": f"{self.endpoint}/{self.created[-1]['organization']}/{self.created[-1]['name']}"}
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
            return {"commitUrl": f"{self.endpoint}/{repo}/commit/0", "commitOid": "0" * 40}
        if method == "GET" and kind == "datasets" and repo == "org/pairs":
            return {"id": repo, "sha": "a" * 40, "siblings": [], "tags": []}
        return None

    def _handler(hub) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer()

            def do_POST(self) -> None:
                self._answer()

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                hub.requests.append((self.command, self.path))
                allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
                reply = hub.reply(self.command, self.path.split("?")[0], body) if allowed else {"error": "bad token"}
                status = 401 if not allowed else 404 if reply is None else 200
                raw = json.dumps(reply if reply is not None else {"error": "not found"}).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing: the test looks at `requests`."""

        return Handler
