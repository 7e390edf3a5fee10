"""API keys and addresses."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from openai import AuthenticationError, OpenAI

from embedded.server.running import Running, serving
from kt_cli.core.hosts import is_loopback
from kt_cli.embedded.server.listen import open_port, require_key, url_of
from kt_cli.errors import AuthError, KtError

KEY = "kt-secret-ü"


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving(api_key=KEY) as running:
        yield running


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/v1/nothing", "/"])
@pytest.mark.parametrize("header", ["", "Bearer wrong", f"Basic {KEY}", "Bearer", KEY])
def test_without_the_key_nothing_is_told(server, path, header):
    response = httpx.get(server.url + path, headers={"Authorization": header.encode()})
    assert response.status_code == 401
    assert response.json()["error"]["code"] in ("missing_api_key", "invalid_api_key")
    assert response.headers["www-authenticate"] == "Bearer"


def test_health_stays_open(server):
    assert httpx.get(f"{server.url}/health").status_code == 200


def test_the_key_opens(server):
    headers = {"Authorization": f"Bearer {KEY}".encode()}
    assert httpx.get(f"{server.url}/metrics", headers=headers).status_code == 200
    assert httpx.get(f"{server.url}/v1/models", headers=headers).status_code == 200


def test_the_client_sees_an_authentication_error(server):
    client = OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0)
    with pytest.raises(AuthenticationError, match="Incorrect API key"):
        client.models.list()
    client.close()


def test_no_cross_origin_headers():
    with serving() as server:
        response = httpx.get(f"{server.url}/v1/models", headers={"Origin": "http://evil.example"})
        assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_this_machine_needs_no_key(host):
    assert is_loopback(host)
    require_key(host, "")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "my-server", ""])
def test_the_network_needs_a_key(host):
    with pytest.raises(AuthError, match="without an API key"):
        require_key(host, "")
    require_key(host, "secret")


def test_a_busy_port_is_named():
    with open_port("127.0.0.1", 0) as sock:
        port = int(url_of(sock).rsplit(":", 1)[1])
        with pytest.raises(KtError) as caught:
            open_port("127.0.0.1", port)
    assert str(port) in caught.value.what
    assert "another process" in caught.value.why


def test_an_unknown_host_is_an_error_with_a_reason():
    with pytest.raises(KtError, match="cannot listen on"):
        open_port("256.256.256.256", 0)
