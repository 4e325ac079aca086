"""HTTP servers that answer with their names: where a gateway's requests arrive.

Belongs here: routers' doubles for what is about the way to them and not about their answers.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PATH = "/v1/chat/completions"
"""All that they know; a gateway that does not take a fleet's prefix off finds nothing here."""


@contextmanager
def named_server(name: str, asked: Counter[str], host: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """A server that answers every POST to `PATH` with its name and counts it in `asked`; its port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            found = self.path == PATH
            asked[name] += found
            body = json.dumps({"answered_by": name} if found else {"error": self.path}).encode()
            self.send_response(200 if found else 404)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing on the terminal."""

    with serving(Handler, host, port) as there:
        yield there


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler], host: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """Answer by the handler until the `with` block ends, each request in a thread of its own; the port."""
    server = ThreadingHTTPServer((host, port), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
