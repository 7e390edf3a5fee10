"""`kt plan OWNER/NAME` and `kt model show OWNER/NAME` before any download, from a local hub."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from commands.sglang_stand_in import tiny_mixtral

from kt_cli import app

PREFIX = "/acme/moe/resolve/main/"


class Handler(BaseHTTPRequestHandler):
    """Serves ranges of the files of one repository; TOKEN is needed where it is set."""

    root: Path
    token = ""
    sent = 0

    def do_GET(self) -> None:
        kind = type(self)
        file = kind.root / self.path.removeprefix(PREFIX)
        if kind.token and self.headers.get("Authorization") != f"Bearer {kind.token}":
            return self.answer(401, b"")
        if not self.path.startswith(PREFIX) or not file.is_file():
            return self.answer(404, b"")
        start, end = map(int, re.findall(r"\d+", self.headers["Range"]))
        content = file.read_bytes()
        part = content[start : end + 1]
        kind.sent += len(part)
        return self.answer(206, part, f"bytes {start}-{start + len(part) - 1}/{len(content)}")

    def answer(self, status: int, content: bytes, extent: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        if extent:
            self.send_header("Content-Range", extent)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Handler]]:
    handler = type("Hub", (Handler,), {"root": tiny_mixtral(tmp_path / "there")})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("KT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.chdir(tmp_path)
    yield handler
    server.shutdown()
    server.server_close()
    thread.join()


def kt(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = app.run(list(argv))
    return (code, *capsys.readouterr())


def test_a_repository_is_planned_exactly_from_its_headers(
    hub: type[Handler], capsys: pytest.CaptureFixture[str]
) -> None:
    hub.token = "secret"
    code, out, _ = kt(capsys, "plan", "acme/moe", "--on", "laptop-16gb", "--json")
    plan = json.loads(out)
    assert (code, plan["model"], plan["run"]) == (0, "moe", "kt run acme/moe")
    (disk,) = [p for p in plan["pools"] if p["name"] == "disk"]
    size = (hub.root / "model.safetensors").stat().st_size
    assert 0 < disk["items"][0]["bytes"] <= size
    code, out, _ = kt(capsys, "model", "show", "acme/moe", "--json")
    shown = json.loads(out)
    assert (code, shown["exact"], shown["repo"]) == (0, True, "acme/moe")
    assert hub.sent < 2 * 300_000


def test_run_plans_it_and_says_how_to_get_it(
    hub: type[Handler], capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = kt(capsys, "run", "acme/moe", "-p", "31999")
    assert (code, "kt model pull acme/moe" in err) == (3, True), err


@pytest.mark.parametrize(
    ("name", "token", "code", "words"),
    [
        ("acme/none", "", 3, "no acme/none/config.json"),
        ("acme/moe", "another", 4, "HF_TOKEN"),
        ("not-a-repository", "", 3, "no model is called"),
    ],
)
def test_what_the_hub_refuses_is_said(
    hub: type[Handler], capsys: pytest.CaptureFixture[str],
    name: str, token: str, code: int, words: str,
) -> None:  # fmt: skip
    hub.token = token
    got, _, err = kt(capsys, "plan", name, "--on", "laptop-16gb")
    assert (got, words in err) == (code, True), err


def test_offline_is_an_error_of_its_own(
    hub: type[Handler], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, _, err = kt(capsys, "plan", "acme/moe")
    assert (code, "HF_HUB_OFFLINE" in err) == (7, True), err
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    code, _, err = kt(capsys, "plan", "acme/moe")
    assert (code, "cannot reach acme/moe" in err, "network" in err) == (7, True, True), err
