"""A hub on the loopback interface: real HTTP, the paths and headers that huggingface_hub relies on.

It serves one repository from memory. `*.safetensors` are large files, which a second server sends, as a content
network does. Faults are switched on by fields: see `StandInHub`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

COMMIT = hashlib.sha1(b"the one commit", usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class Seen:
    """One request: method, path, range asked for, token given. `network`: it was to the content network."""

    method: str
    path: str
    range: str
    token: str
    network: bool


@dataclass
class StandInHub:
    """Serves `files` as `repository` at branch `main`. A context manager.

    `token`: needed where set. `gated`: every request is refused until its terms are accepted. `cut_after`: the next
    large answer breaks off after so many bytes, once. `spoil`: large answers carry wrong bytes of the right number.
    """

    repository: str
    files: Mapping[str, bytes]
    token: str = ""
    gated: bool = False
    cut_after: int | None = None
    spoil: bool = False
    seen: list[Seen] = field(default_factory=list)
    connections: list[socket.socket] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._network = _serve(self, network=True)
        self._front = _serve(self, network=False)
        self.endpoint = f"http://127.0.0.1:{self._front.server_address[1]}"
        self.network = f"http://127.0.0.1:{self._network.server_address[1]}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """No longer reachable; safe to call twice."""
        for server in (self._front, self._network):
            server.shutdown()
            server.server_close()
        for connection in self.connections:
            with contextlib.suppress(OSError):  # closed by the client already
                connection.shutdown(socket.SHUT_RDWR)

    def large(self, path: str) -> bool:
        return path.endswith(".safetensors")

    def entry(self, path: str) -> dict[str, Any]:
        """A file as the tree lists it."""
        data = self.files[path]
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": _git_id(data)}
        if self.large(path):
            entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        return entry

    def downloads(self, path: str) -> list[Seen]:
        """GETs of a file's content."""
        return [
            s
            for s in self.seen
            if s.method == "GET" and s.path.endswith(f"/{path}") and (s.network or not self.large(path))
        ]


def _serve(hub: StandInHub, *, network: bool) -> ThreadingHTTPServer:
    class Handler(_Handler):
        pass

    Handler.hub, Handler.network = hub, network
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


class _Handler(BaseHTTPRequestHandler):
    hub: StandInHub
    network: bool
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.hub.connections.append(self.connection)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        hub.seen.append(Seen(self.command, path, self.headers.get("Range", ""), token, self.network))
        if self.network:
            self._content(path.split("/large/", 1)[1])
        elif hub.gated:
            self._refuse(403, "GatedRepo")
        elif hub.token and token != hub.token:
            self._refuse(401, "RepoNotFound")
        elif path.startswith(f"/api/models/{hub.repository}/"):
            self._api(path.removeprefix(f"/api/models/{hub.repository}/"))
        elif path.startswith(f"/{hub.repository}/resolve/"):
            self._file(path.removeprefix(f"/{hub.repository}/resolve/"))
        else:
            self._refuse(404, "RepoNotFound")

    def _api(self, rest: str) -> None:
        what, _, revision = rest.partition("/")
        if revision not in ("main", COMMIT):
            self._refuse(404, "RevisionNotFound")
        elif what == "tree":
            self._json([self.hub.entry(path) for path in sorted(self.hub.files)])
        else:
            self._json({"id": self.hub.repository, "sha": COMMIT, "siblings": []})

    def _file(self, rest: str) -> None:
        revision, _, path = rest.partition("/")
        if revision not in ("main", COMMIT):
            self._refuse(404, "RevisionNotFound")
        elif path not in self.hub.files:
            self._refuse(404, "EntryNotFound")
        elif self.hub.large(path):
            lfs = self.hub.entry(path)["lfs"]
            headers = {"X-Linked-Etag": f'"{lfs["oid"]}"', "X-Linked-Size": str(lfs["size"])}
            self._send(302, b"", {**headers, "Location": f"{self.hub.network}/large/{path}", "X-Repo-Commit": COMMIT})
        else:
            data = self.hub.files[path]
            self._send(200, data, {"ETag": f'"{_git_id(data)}"', "X-Repo-Commit": COMMIT})

    def _content(self, path: str) -> None:
        hub, data = self.hub, self.hub.files[path]
        whole = bytes(len(data)) if hub.spoil else data
        first = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        headers = {"Content-Range": f"bytes {first}-{len(data) - 1}/{len(data)}"} if first else {}
        cut, hub.cut_after = hub.cut_after, None
        self._send(206 if first else 200, whole[first:], headers, cut)

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": code})

    def _send(self, status: int, data: bytes, headers: Mapping[str, str], cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data if cut is None else data[:cut])
        if cut is not None:
            self.close_connection = True


def _git_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
