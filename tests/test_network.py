"""Proxies, exceptions, certificates, keys and addresses as real environments have them."""

import http.server
import json
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import FakeHub

from kt_cli import environment, network
from kt_cli.api_client.client import Client as ChatClient
from kt_cli.api_client.find import find
from kt_cli.app import run
from kt_cli.catalog import remote_files
from kt_cli.doctor import online
from kt_cli.errors import EnvironmentBroken, KtError, UsageError
from kt_cli.hub.client import client

KEY = "hf_SentinelSecret0123456789"
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    others = ("NO_PROXY", "no_proxy", "HF_ENDPOINT", "HF_TOKEN", "SSL_CERT_FILE", "SSL_CERT_DIR")
    for name in (*PROXIES, *others, "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("names", "inside", "outside"),
    [
        ("*", ["a.b", "10.0.0.1", "fd00::1"], []),
        ("", [], ["a.b", "10.0.0.1"]),
        ("example.com", ["example.com", "a.example.com", "EXAMPLE.com"], ["badexample.com"]),
        (".example.com", ["example.com", "a.b.example.com"], ["xexample.com"]),
        ("*.example.com", ["a.example.com"], ["other.com"]),
        ("10.0.0.0/8, 192.168.0.0/16", ["10.1.2.3", "192.168.9.9"], ["11.0.0.1", "10.example"]),
        ("fd00::/8", ["fd00::1", "fdff::"], ["fe80::1", "10.0.0.1"]),
        ("fd00::7", ["fd00::7", "fd00:0:0::7"], ["fd00::8"]),
        ("[fd00::7]", ["fd00::7"], ["fd00::8"]),
        ("10.0.0.7 a.b\n", ["10.0.0.7", "a.b"], ["10.0.0.8"]),
        (",,;::///[[", [], ["a.b", "::2"]),
    ],
)
def test_no_proxy_knows_names_addresses_and_networks(
    names: str, inside: list[str], outside: list[str]
) -> None:
    env = {"ALL_PROXY": "http://proxy:1", "NO_PROXY": names}

    def way(host: str) -> network.Proxy | None:
        return network.proxy_for(f"https://[{host}]/x" if ":" in host else f"https://{host}/x", env)

    assert [way(host) for host in inside] == [None] * len(inside)
    assert all(way(host) for host in outside)


def test_a_port_in_no_proxy_counts() -> None:
    env = {"https_proxy": "http://proxy:1", "no_proxy": "a.b:8443,[fd00::7]:443"}
    assert network.proxy_for("https://a.b:8443/", env) is None
    assert network.proxy_for("https://a.b/", env)
    assert network.proxy_for("https://[fd00::7]/", env) is None
    assert network.proxy_for("https://[fd00::7]:1/", env)


def test_the_nearest_variable_wins_and_this_machine_needs_none() -> None:
    env = {"ALL_PROXY": "socks5h://s:1", "https_proxy": " http://h:2\n", "HTTP_PROXY": "p:3"}
    assert network.proxy_for("https://a.b/", env) == ("http://h:2", "https_proxy")
    assert network.proxy_for("http://a.b/", env) == ("http://p:3", "HTTP_PROXY")
    for host in ("127.0.0.1", "localhost", "[::1]", "127.9.9.9"):
        assert network.proxy_for(f"http://{host}:31350/", env) is None


@pytest.mark.parametrize(
    "value", ["ftp://x", "http://", "http://a:99999", "http://a b", "http://é"]
)
def test_what_is_no_proxy_is_named_and_not_shown(value: str) -> None:
    env = {"HTTPS_PROXY": value.replace("://", f"://u:{KEY}@")}
    with pytest.raises(UsageError, match="HTTPS_PROXY") as caught:
        network.proxy_for("https://a.b/", env)
    assert KEY not in f"{caught.value.what}{caught.value.why}{caught.value.fix}"


@pytest.mark.parametrize("scheme", ["socks5h", "socks5", "socks"])
def test_a_socks_proxy_without_its_package_is_named(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "socksio", None)
    env = {"ALL_PROXY": f"{scheme}://user:{KEY}@127.0.0.1:9"}
    with network.client(env) as session, pytest.raises(EnvironmentBroken, match="ALL_PROXY") as e:
        session.get("http://hub.invalid/")
    assert KEY not in f"{e.value.what}{e.value.why}{e.value.fix}"
    assert "socksio" in e.value.fix


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_certificate_file_that_is_gone_is_named(name: str, tmp_path: Path) -> None:
    env = {name: str(tmp_path / "gone.pem")}
    with network.client(env) as session, pytest.raises(EnvironmentBroken, match=name):
        session.get("https://127.0.0.1:9/")
    (tmp_path / "gone.pem").write_text("no certificate")
    with pytest.raises(EnvironmentBroken, match=name):
        network.certificates(env)
    (tmp_path / "folder").mkdir()
    assert isinstance(network.certificates({name: str(tmp_path / "folder")}), ssl.SSLContext)
    with FakeHub({"config.json": b"{}"}) as hub, network.client(env) as session:  # no TLS, no need
        assert session.get(f"{hub.url}/api/models/a/b/revision/main").status_code in (200, 404)


@pytest.fixture
def proxy() -> Iterator[tuple[str, list[str]]]:
    """Answers as every host itself, and keeps what it was asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.path} {self.headers.get('Authorization')}")
            self.send_response(200)
            self.end_headers()
            listed = b'[{"id": "m"}]'
            self.wfile.write(listed if "/api/models" in self.path else b'{"data": %b}' % listed)

        def log_message(self, *_: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", asked
    server.shutdown()
    server.server_close()


def test_every_client_goes_through_the_proxy(proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    address, asked = proxy
    monkeypatch.setenv("HTTP_PROXY", address)
    monkeypatch.setenv("NO_PROXY", "10.0.0.0/8,::1,fd00::/8")
    assert ChatClient("http://far.invalid/v1").models() == ["m"]
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    client().search("x")
    with remote_files.hub_files("a/b", "main", "http://hub.invalid", "") as files:
        files.read("config.json", 0, 99)
    assert online.ask(dict(__import__("os").environ)).problem == ""
    hosts = [line.split("/")[2] for line in asked]
    assert hosts == ["far.invalid", "hub.invalid", "hub.invalid", "hub.invalid"]


@pytest.mark.parametrize(
    "around", ["{}", "{}\n", " {}\r\n", '"{}"', "'{}'", "\ufeff{}", "{}\u200b", "\t{}\u00a0"]
)
def test_a_key_is_cleaned_of_what_copying_left(around: str) -> None:
    assert environment.secret("HF_TOKEN", {"HF_TOKEN": around.format(KEY)}) == KEY


@pytest.mark.parametrize(
    "inside", ["{}\n{}", "{} {}", "{}é{}", "{}\x00{}", "{}\u202e{}", "{}\ud800{}", "{}\x7f{}"]
)
@pytest.mark.parametrize("name", ["HF_TOKEN", "KT_API_KEY", "OPENAI_API_KEY", "--api-key"])
def test_a_key_that_no_header_carries_is_named_and_not_shown(inside: str, name: str) -> None:
    with pytest.raises(UsageError, match=name) as caught:
        environment.clean_secret(inside.format(KEY, KEY), name)
    assert KEY not in f"{caught.value.what}{caught.value.why}{caught.value.fix}"


def test_every_way_of_a_key_is_cleaned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dirty = f" {KEY}\n"
    monkeypatch.setenv("HF_TOKEN", dirty)
    assert client().token == KEY
    assert client("modelscope", {"MODELSCOPE_API_TOKEN": dirty}).token == KEY
    assert find(tmp_path, environ={"KT_API_KEY": dirty}).api_key == KEY
    assert find(tmp_path, api_key=dirty, environ={}).api_key == KEY
    both = {"OPENAI_BASE_URL": " http://a.b/v1\n", "OPENAI_API_KEY": dirty}
    assert find(tmp_path, environ=both) == find(tmp_path, environ={**both, "OPENAI_API_KEY": KEY})
    bad = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_TOKEN": f"{KEY}\n{KEY}"}
    assert "HF_TOKEN" in online.ask(bad).problem and KEY not in online.ask(bad).problem


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("https://mirror/", "https://mirror"),
        ("mirror.example", "https://mirror.example"),
        (" http://m:8080/hf// \n", "http://m:8080/hf"),
        ("", "https://huggingface.co"),
        ("  ", "https://huggingface.co"),
    ],
)
def test_an_address_is_cleaned(value: str, wanted: str) -> None:
    assert client("huggingface", {"HF_ENDPOINT": value, "HF_TOKEN": KEY}).endpoint == wanted


@pytest.mark.parametrize(
    "value", ["ftp://x", "http://", "http://a b", "http://a:99999", "http://[::1"]
)
def test_what_is_no_address_is_named(value: str) -> None:
    with pytest.raises(UsageError, match="HF_ENDPOINT"):
        client("huggingface", {"HF_ENDPOINT": value})


@pytest.mark.parametrize(
    "value", ["", " ", "~", "~/kt", "kt", "/a/b\n", "~nobody-of-that-name/x", "a\0b"]
)
def test_a_home_is_an_absolute_folder_or_is_named(value: str) -> None:
    env = {"KT_HOME": value, "HOME": "/home/ada"}
    try:
        home = environment.kt_home(env)
    except UsageError as error:
        assert "KT_HOME" in error.what
    else:
        assert home.is_absolute() and home == Path(str(home).strip())
        assert home == Path("/home/ada/.kt") or value.strip()


@pytest.mark.parametrize(
    "variables",
    [
        {"KT_HOME": "/dev/null"}, {"KT_HOME": "/dev/null/x"}, {"KT_SERVER_PORT": "abc"},
        {"KT_SERVER_PORT": "1e3"}, {"KT_SERVER_PORT": "\u0663"}, {"KT_RUN_CTX_SIZE": "x" * 5000},
        {"KT_RUN_CPU_THREADS": "9" * 5000}, {"HF_HUB_CACHE": "~nobody-of-that-name/x"},
        {"HF_HOME": "\n"}, {"CUDA_VISIBLE_DEVICES": ",,\u00b2"}, {"KT_URL": "\x1b"},
    ],
    ids=str,
)  # fmt: skip
def test_odd_variables_are_errors_that_name_them_at_most(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys, tmp_path: Path
) -> None:
    monkeypatch.setenv("KT_HOME", str(tmp_path))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for argv in (
        ["config", "list"],
        ["plan", "demo"],
        ["model", "list"],
        ["ps"],
        ["doctor", "--quick"],
    ):
        code = run([*argv, "--json"])
        body = json.loads(capsys.readouterr().out)
        if code not in (0, 6):
            assert next(iter(variables)) in json.dumps(body["error"]), body
            assert "Error:" not in body["error"]["what"]


def test_a_wrong_variable_is_an_error_with_a_cure_in_every_command(
    monkeypatch: pytest.MonkeyPatch, capsys, tmp_path: Path
) -> None:
    monkeypatch.setenv("KT_HOME", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    for name, value in {"HTTP_PROXY": "ftp://x", "HF_TOKEN": f"{KEY} {KEY}"}.items():
        monkeypatch.setenv(name, value)
        assert run(["model", "pull", "a/b"]) == UsageError.exit_code
        said = capsys.readouterr()
        assert name in said.err and KEY not in said.err + said.out
        monkeypatch.delenv(name)
    assert issubclass(UsageError, KtError)
