"""Pages in a browser cannot use a server without a key; programs, and servers with a key, can."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from embedded.server.running import Running, serving
from kt_cli.embedded.server.guard import host_name

PATHS = ("/health", "/metrics", "/v1/models", "/v1/nothing", "/v1/models/")
KEY = "secret"


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving() as running:
        yield running


CLIENT = httpx.Client()


def ask(server: Running, method: str, path: str, headers: dict[str, str]) -> httpx.Response:
    body = b'{"model": "fake", "prompt": "a"}' if method == "POST" else b""
    return CLIENT.request(method, server.url + path, headers=headers, content=body)


def refused(server: Running, headers: dict[str, str]) -> set[str]:
    """The codes of all answers; every one must be a refusal."""
    headers = {"content-type": "application/json", **headers}
    answers = [ask(server, "GET", path, headers) for path in PATHS]
    answers += [ask(server, method, "/v1/completions", headers) for method in ("POST", "OPTIONS")]
    assert {answer.status_code for answer in answers} == {403}
    assert not any("access-control-allow-origin" in answer.headers for answer in answers)
    return {answer.json()["error"]["code"] for answer in answers}


FOREIGN_HOSTS = [
    "evil.example",
    "evil.example:30000",
    "192.168.1.4:30000",
    "127.0.0.1.evil.example",
]
FOREIGN_HOSTS += ["[", "[::2]:80", "a b", "localhost.evil.example", "#", "@"]


def test_a_name_of_somewhere_else_is_refused(server):
    for host in FOREIGN_HOSTS:
        assert refused(server, {"host": host}) == {"host_not_allowed"}, host
    headers = {"host": "evil.example:1", "origin": "http://evil.example:1"}
    assert refused(server, headers) == {"host_not_allowed"}


def test_a_page_of_another_site_is_refused(server):
    here = server.url.removeprefix("http://")
    origins = ["http://evil.example", "https://evil.example", "null", "http://localhost:1"]
    for origin in [*origins, f"http://{here}0", "garbage"]:
        assert refused(server, {"origin": origin}) == {"origin_not_allowed"}, origin
    for site in ("cross-site", "same-site"):
        assert refused(server, {"sec-fetch-site": site}) == {"origin_not_allowed"}


def test_programs_and_own_pages_are_answered(server):
    here = server.url.removeprefix("http://")
    port = here.partition(":")[2]
    for headers in (
        {},
        {"host": f"localhost:{port}"},
        {"host": f"LOCALHOST.:{port}"},
        {"host": "127.5.5.5"},
        {"host": f"[::1]:{port}"},
        {"origin": server.url},
        {"origin": server.url, "sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none", "sec-fetch-mode": "navigate"},
        {"origin": "vscode-webview://1"},
    ):
        headers = {"content-type": "application/json", **headers}
        assert ask(server, "POST", "/v1/completions", headers).status_code == 200, headers
        assert ask(server, "GET", "/metrics", headers).status_code == 200, headers


def test_a_link_may_be_followed(server):
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert ask(server, "GET", "/health", headers).status_code == 200
    assert ask(server, "POST", "/v1/completions", headers).status_code == 403


def test_with_a_key_the_server_may_have_any_name():
    with serving(api_key=KEY) as server:
        headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
        for more in ({"host": "gpu.lan"}, {"origin": "https://ui.example"}):
            assert ask(server, "POST", "/v1/completions", {**headers, **more}).status_code == 200
            assert ask(server, "GET", "/health", more).status_code == 200


@pytest.mark.parametrize(
    ("host", "name"),
    [("A.b:1", "a.b"), ("[::1]", "::1"), ("x@y", "y"), ("[", ""), ("", ""), ("::1", "")],
)
def test_the_name_in_a_host_header(host, name):
    assert host_name(host) == name
