"""The part of the hub's HTTP API that publishing a model uses, on loopback: what was sent stays to be looked at."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

TOKEN = "hf_" + "a" * 34
LICENCES = ("apache-2.0", "mit")


@dataclass
class Hub:
    """Repositories by name, file -> content; blobs by SHA-256; every request's line and body."""

    address: str = ""
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, bytes]] = field(default_factory=list)
    forbidden: str = ""  # a token without the right to write


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """A hub at an address of this machine."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self._read()
        if self.path == "/api/validate-yaml":
            return self._validate(json.loads(body)["content"])
        token = str(self.headers.get("Authorization")).removeprefix("Bearer ")
        if token not in (TOKEN, self.hub.forbidden):
            return self._answer(401, {"error": "Invalid credentials"})
        if token == self.hub.forbidden:
            return self._answer(403, {"error": "You don't have the rights to create a model"})
        if self.path == "/api/repos/create":
            return self._create(json.loads(body))
        repo = self.path.removeprefix("/api/models/").split("/preupload")[0].split("/commit")[0]
        if self.path.endswith("/preupload/main"):
            files = [
                {"path": f["path"], "shouldIgnore": False,
                 "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular"}
                for f in json.loads(body)["files"]
            ]  # fmt: skip
            return self._answer(200, {"files": files})
        if self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**o, "actions": {"upload": {"href": f"{self.hub.address}/blobs/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            return self._answer(200, {"transfer": "basic", "objects": objects})
        if self.path.endswith("/commit/main"):
            return self._commit(repo, [json.loads(line) for line in body.splitlines()])
        self._answer(404, {"error": self.path})

    def do_PUT(self) -> None:
        self.hub.blobs[self.path.rpartition("/")[2]] = self._read()
        self._answer(200, {})

    def _validate(self, text: str) -> None:
        data = yaml.safe_load(text.split("---")[1])
        wrong = (
            [f"license: {data['license']} is unknown"]
            if data.get("license") not in LICENCES
            else []
        )
        if any(not entry["results"] for entry in data.get("model-index", [])):
            wrong.append("model-index: no results")
        self._answer(400 if wrong else 200, {"errors": wrong, "warnings": []})

    def _create(self, asked: dict[str, Any]) -> None:
        repo = f"{asked['organization']}/{asked['name']}"
        known = repo in self.hub.repos
        self.hub.repos.setdefault(repo, {})
        self.hub.private.setdefault(repo, asked.get("visibility") == "private")
        self._answer(409 if known else 200, {"url": f"{self.hub.address}/{repo}", "name": repo})

    def _commit(self, repo: str, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.hub.repos[repo][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.hub.repos[repo][value["path"]] = self.hub.blobs[value["oid"]]
        address = f"{self.hub.address}/{repo}/commit/{'1' * 40}"
        self._answer(200, {"success": True, "commitOid": "1" * 40, "commitUrl": address})

    def _read(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append((f"{self.command} {self.path}", body))
        return body

    def _answer(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""
