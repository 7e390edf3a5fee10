"""A hub on loopback that speaks enough of the protocol, with faults on demand.

For huggingface_hub: HEAD with ETag, X-Repo-Commit and the X-Linked headers of large files, ranges,
and /api/models. For ModelScope: its listing and its files.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class FakeHub:
    """`faults[path]` is a list of faults, one per GET of that file, first to last.

    drop:N (close after N bytes), wrong (other bytes), status:N, norange (answers 200 to a Range),
    slow:S (seconds per 64 KiB), redirect (to /cdn, which refuses a token), long (too many bytes).
    """

    files: dict[str, bytes]
    repo: str = "acme/model"
    revision: str = "c0ffee" * 6 + "c0ff"
    branches: tuple[str, ...] = ("main",)
    token: str = ""
    gated: bool = False
    api_status: int = 200
    faults: dict[str, list[str]] = field(default_factory=dict)
    slow_s: float = 0.0
    seen: Counter = field(default_factory=Counter)
    ranges: list[str] = field(default_factory=list)
    sending: int = 0
    most_at_once: int = 0
    tokens_at_cdn: list[str] = field(default_factory=list)

    def __enter__(self) -> FakeHub:
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def info(self) -> dict:
        return {
            "id": self.repo,
            "sha": self.revision,
            "siblings": [self._sibling(p) for p in self.files],
        }

    def modelscope(self) -> dict:
        entries = [
            {"Path": p, "Size": len(d), "Sha256": hashlib.sha256(d).hexdigest(), "Type": "blob"}
            for p, d in self.files.items()
        ]
        return {"Data": {"Files": [{"Path": "dir", "Type": "tree"}, *entries]}}

    def etag(self, path: str) -> str:
        entry = self._sibling(path)
        return entry["lfs"]["sha256"] if "lfs" in entry else entry["blobId"]

    def _sibling(self, path: str) -> dict:
        data = self.files[path]
        blob = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
        entry = {"rfilename": path, "size": len(data), "blobId": blob}
        if path.endswith((".safetensors", ".gguf")):
            entry["lfs"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            entry["lfs"]["pointerSize"] = 134
        return entry


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def handle(self) -> None:
        with suppress(ConnectionResetError):  # the client was killed
            super().handle()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path.startswith("/cdn/"):
            self.hub.tokens_at_cdn.append(self.headers.get("Authorization", ""))
            return self.send_file(unquote(url.path.removeprefix("/cdn/")), [])
        if not self.allowed():
            return None
        if url.path.startswith("/api/v1/models/"):
            query = parse_qs(url.query)
            if "FilePath" in query:
                return self.file(query["FilePath"][0])
            return self.send_json(self.hub.modelscope())
        if url.path == "/api/models":
            found = [self.hub.info()] if parse_qs(url.query)["search"][0] in self.hub.repo else []
            return self.send_json(found)
        if url.path.startswith("/api/models/"):
            return self.api(url.path)
        path = self.resolved(url.path)
        return self.file(path) if path else self.refuse(404)

    def do_HEAD(self) -> None:
        if not self.allowed():
            return
        path = self.resolved(urlsplit(self.path).path)
        if path not in self.hub.files:
            return self.refuse(404, {"X-Error-Code": "EntryNotFound"})
        size, etag = len(self.hub.files[path]), self.hub.etag(path)
        headers = {"X-Repo-Commit": self.hub.revision, "ETag": f'"{etag}"'}
        if (self.hub.faults.get(path) or [""])[0] == "redirect":
            linked = {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(size)}
            return self.refuse(302, {**headers, **linked, "Location": self.cdn(path)})
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(size)}.items():
            self.send_header(name, value)
        self.end_headers()

    def allowed(self) -> bool:
        if not self.hub.token or self.headers.get("Authorization") == f"Bearer {self.hub.token}":
            return True
        self.refuse(401, {"X-Error-Code": "GatedRepo"} if self.hub.gated else {})
        return False

    def resolved(self, path: str) -> str:
        """The file that an address means; empty for none."""
        for revision in (self.hub.revision, *self.hub.branches):
            prefix = f"/{self.hub.repo}/resolve/{revision}/"
            if path.startswith(prefix):
                return unquote(path.removeprefix(prefix))
        return ""

    def cdn(self, path: str) -> str:
        return f"{self.hub.url.replace('127.0.0.1', 'localhost')}/cdn/{path}"

    def api(self, path: str) -> None:
        if self.hub.api_status != 200:
            return self.refuse(self.hub.api_status)
        if f"/{self.hub.repo}/" not in f"{path}/":
            return self.refuse(404, {"X-Error-Code": "RepoNotFound"})
        return self.send_json(self.hub.info())

    def file(self, path: str) -> None:
        if path not in self.hub.files:
            return self.refuse(404)
        self.hub.seen[path] += 1
        queue = self.hub.faults.get(path, [])
        fault = queue.pop(0) if queue else ""
        if fault.startswith("status:"):
            return self.refuse(int(fault[7:]))
        if fault == "redirect":
            return self.refuse(302, {"Location": self.cdn(path)})
        return self.send_file(path, [fault])

    def send_file(self, path: str, faults: list[str]) -> None:
        data, fault = self.hub.files[path], (faults or [""])[0]
        if fault == "wrong":
            data = bytes(b ^ 255 for b in data)
        if fault == "long":
            data += b"more"
        start = 0
        wanted = self.headers.get("Range", "")
        if wanted:
            self.hub.ranges.append(wanted)
        if wanted and fault != "norange":
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        body = data[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault.startswith("drop:"):
            self.wfile.write(body[: int(fault[5:])])
            self.close_connection = True
            return
        self.hub.sending += 1
        self.hub.most_at_once = max(self.hub.most_at_once, self.hub.sending)
        try:
            for at in range(0, len(body), 65536):
                self.wfile.write(body[at : at + 65536])
                time.sleep(self.hub.slow_s)
        except (BrokenPipeError, ConnectionResetError):  # the client was killed
            self.close_connection = True
        finally:
            self.hub.sending -= 1

    def send_json(self, data: object) -> None:
        body = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()
