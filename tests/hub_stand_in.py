"""A small stand-in of the Hugging Face Hub on this machine's loopback, with the faults that a test asks for.

with StandIn({"acme/law": folder}) as hub: hub.url is its endpoint, hub.requests what it was asked.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class StandIn:
    """Serves folders as repositories, each at one commit, that the revisions `main` and `v1` mean.

    `faults` are taken one a request for a file, each a function of the handler that answers in its own way and
    returns True, or False to let the request be answered well.
    """

    def __init__(self, repositories: dict[str, Path], *, host: str = "127.0.0.1") -> None:
        self.repositories = repositories
        self.faults: list[Callable[[Any], bool]] = []
        self.digests: dict[str, str] = {}  # of files that shall be listed under a wrong digest
        self.requests: list[tuple[str, str | None]] = []  # path, Authorization
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                stand_in.answer(self)

            def log_message(self, format: str, *arguments: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer((host, 0), Handler)
        self.url = f"http://{host}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, handler: Any) -> None:
        path = unquote(urlsplit(handler.path).path)
        self.requests.append((path, handler.headers.get("Authorization")))
        words = path.strip("/").split("/")
        if words[:2] == ["api", "models"]:
            self._list(handler, "/".join(words[2:4]), words[5] if len(words) > 5 else "main")
        elif words[0] == "api":  # the library asks for more than we do
            say(handler, 404, {})
        elif not (self.faults and self.faults.pop(0)(handler)):
            self._send_file(handler, self.repositories["/".join(words[:2])] / words[-1])

    def _list(self, handler: Any, repository: str, revision: str) -> None:
        folder = self.repositories.get(repository)
        if folder is None:
            say(handler, 404, {"X-Error-Code": "RepoNotFound"})
        elif revision not in ("main", "v1", COMMIT):
            say(handler, 404, {"X-Error-Code": "RevisionNotFound"})
        else:
            siblings = [self._sibling(path) for path in sorted(folder.iterdir())]
            listed = {"id": repository, "sha": COMMIT, "siblings": siblings}
            say(handler, 200, {"Content-Type": "application/json"}, json.dumps(listed).encode())

    def _sibling(self, path: Path) -> dict[str, Any]:
        content = path.read_bytes()
        sha256 = self.digests.get(path.name, hashlib.sha256(content).hexdigest())
        sibling: dict[str, Any] = {"rfilename": path.name, "size": len(content)}
        sibling["blobId"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        if path.suffix == ".safetensors":
            sibling["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 130}
        return sibling

    def _send_file(self, handler: Any, path: Path) -> None:
        first, last = handler.headers["Range"].removeprefix("bytes=").split("-")
        say(handler, 206, {}, path.read_bytes()[int(first) : int(last) + 1])


def say(handler: Any, status: int, headers: dict[str, str], body: bytes = b"") -> bool:
    """Answer; True, as a fault that answered."""
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)
    return True


def busy(handler: Any) -> bool:
    """Too many requests; come again at once."""
    return say(handler, 429, {"Retry-After": "7"})


def truncated(handler: Any) -> bool:
    """A body that ends before its length."""
    say(handler, 206, {"Content-Length": "1000000"}, b"\0" * 10)
    handler.close_connection = True
    return True


def elsewhere(url: str) -> Callable[[Any], bool]:
    """A redirect to the same path of another host."""
    return lambda handler: say(handler, 302, {"Location": url + handler.path})


def fine(_handler: Any) -> bool:
    """No fault."""
    return False
