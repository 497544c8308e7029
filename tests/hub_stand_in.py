"""A small stand-in for the Hugging Face Hub on this machine's loopback, with configurable faults.

with StandIn({"acme/law": folder}) as hub: hub.url is its endpoint, hub.requests the list of requests.
"""

from __future__ import annotations

import base64
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
    """Serves folders as repositories. Each has one commit; the revisions `main` and `v1` point to it.

    Each request for a file consumes one of `faults`. A fault is a function of the handler. It answers the request
    and returns True, or returns False for a normal answer.
    """

    def __init__(
        self, repositories: dict[str, Path], *, host: str = "127.0.0.1", uploads: Path | None = None
    ) -> None:
        self.repositories = repositories
        self.uploads = uploads or Path("no uploads")  # folder of the repositories that are created
        self.private: dict[str, bool] = {}
        self.large: dict[str, bytes] = {}
        self.faults: list[Callable[[Any], bool]] = []
        self.digests: dict[str, str] = {}  # by file name: wrong digests to list
        self.requests: list[tuple[str, str | None]] = []  # path, Authorization
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                stand_in.answer(self)

            def do_HEAD(self) -> None:
                stand_in.answer(self)

            def do_POST(self) -> None:
                stand_in.receive(self)

            do_PUT = do_POST

            def log_message(self, format: str, *arguments: Any) -> None:
                """Log nothing."""

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
        if words[:2] == ["api", "datasets"] and words[4:5] == ["tree"]:
            self._list_tree(handler, self.repositories["/".join(words[2:4])])
        elif words[:2] in (["api", "models"], ["api", "datasets"]):
            self._list(handler, "/".join(words[2:4]), words[5] if len(words) > 5 else "main")
        elif words[0] == "api":  # the library sends more requests than nexusmix
            say(handler, 404, {})
        elif words[0] == "datasets":
            self._send_data(handler, self.repositories["/".join(words[1:3])].joinpath(*words[5:]))
        elif not (self.faults and self.faults.pop(0)(handler)):
            self._send_data(handler, self.repositories["/".join(words[:2])] / words[-1])

    def receive(self, handler: Any) -> None:
        """Take part in an upload: a new repository, the questions before it, large files, and the commit."""
        path = unquote(urlsplit(handler.path).path)
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        self.requests.append((path, handler.headers.get("Authorization")))
        if self.faults and self.faults.pop(0)(handler):
            return
        words = path.strip("/").split("/")
        reply: dict[str, Any] = {}
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.private[name] = asked.get("visibility") == "private" or bool(asked.get("private"))
            self.repositories.setdefault(name, self.uploads / name).mkdir(parents=True, exist_ok=True)
            reply = {"url": f"{self.url}/{name}", "name": name}
        elif "preupload" in words:
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            reply = {"files": files}
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**each, "actions": {"upload": {"href": f"{self.url}/lfs/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            reply = {"transfer": "basic", "objects": objects}
        elif words[0] == "lfs":
            assert hashlib.sha256(body).hexdigest() == words[1]
            self.large[words[1]] = body
        elif "commit" in words:
            name = "/".join(words[2:4])
            folder = self.repositories[name]
            for line in body.splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    (folder / value["path"]).write_bytes(base64.b64decode(value["content"]))
                elif entry["key"] == "lfsFile":
                    (folder / value["path"]).write_bytes(self.large[value["oid"]])
            reply = {"success": True, "commitOid": COMMIT, "commitUrl": f"{self.url}/{name}/commit/{COMMIT}"}
        say(handler, 200, {"Content-Type": "application/json"}, json.dumps(reply).encode())

    def _list(self, handler: Any, repository: str, revision: str) -> None:
        folder = self.repositories.get(repository)
        if folder is None:
            say(handler, 404, {"X-Error-Code": "RepoNotFound"})
        elif revision not in ("main", "v1", COMMIT):
            say(handler, 404, {"X-Error-Code": "RevisionNotFound"})
        else:
            siblings = [
                {**self._sibling(path), "rfilename": path.relative_to(folder).as_posix()}
                for path in sorted(folder.rglob("*"))
                if path.is_file()
            ]
            listed = {"id": repository, "sha": COMMIT, "siblings": siblings}
            say(handler, 200, {"Content-Type": "application/json"}, json.dumps(listed).encode())

    def _list_tree(self, handler: Any, folder: Path) -> None:
        """List the files as huggingface_hub's own downloads ask for them."""
        files = [
            {
                "type": "file",
                "path": path.relative_to(folder).as_posix(),
                "size": path.stat().st_size,
                "oid": self._sibling(path)["blobId"],
            }
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        ]
        say(handler, 200, {"Content-Type": "application/json"}, json.dumps(files).encode())

    def _sibling(self, path: Path) -> dict[str, Any]:
        content = path.read_bytes()
        sha256 = self.digests.get(path.name, hashlib.sha256(content).hexdigest())
        sibling: dict[str, Any] = {"rfilename": path.name, "size": len(content)}
        sibling["blobId"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        if path.suffix == ".safetensors":
            sibling["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 130}
        return sibling

    def headers_of(self, path: Path) -> dict[str, str]:
        """The headers that name a file's content, as of the hub: its digest, its commit and its size."""
        content = path.read_bytes()
        sibling = self._sibling(path)
        etag = hashlib.sha256(content).hexdigest() if "lfs" in sibling else sibling["blobId"]
        return {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Content-Length": str(len(content))}

    def _send_data(self, handler: Any, path: Path) -> None:
        """Answer the library's downloads: first a request for the headers, then one for all bytes or the last ones."""
        content = path.read_bytes()
        headers = self.headers_of(path)
        if handler.command == "HEAD":
            say(handler, 200, headers)
        elif part := handler.headers["Range"]:
            first, last = part.removeprefix("bytes=").split("-")
            content = content[int(first) : int(last) + 1 if last else None]
            say(handler, 206, {**headers, "Content-Length": str(len(content))}, content)
        else:
            say(handler, 200, headers, content)


def say(handler: Any, status: int, headers: dict[str, str], body: bytes = b"") -> bool:
    """Answer the request. Returns True, like a fault that answered."""
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)
    return True


def busy(handler: Any) -> bool:
    """Answer 429 (too many requests), with a Retry-After header."""
    return say(handler, 429, {"Retry-After": "7"})


def truncated(handler: Any) -> bool:
    """Send a body that is shorter than its declared length."""
    say(handler, 206, {"Content-Length": "1000000"}, b"\0" * 10)
    handler.close_connection = True
    return True


def elsewhere(hub: StandIn, url: str) -> Callable[[Any], bool]:
    """A fault that redirects to the same path on another host, with the hub's headers."""

    def redirect(handler: Any) -> bool:
        words = unquote(urlsplit(handler.path).path).strip("/").split("/")
        known = hub.headers_of(hub.repositories["/".join(words[:2])] / words[-1])
        linked = {"X-Linked-ETag": known["ETag"], "X-Linked-Size": known["Content-Length"]}
        return say(handler, 302, {"Location": url + handler.path, "X-Repo-Commit": COMMIT, **linked})

    return redirect


def fine(_handler: Any) -> bool:
    """No fault."""
    return False
