"""Below the routes: broken HTTP, half-sent requests, bodies too large, too many connections."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest

from embedded.server.fake import Script, wait_until
from embedded.server.running import Running, serving
from kt_cli.embedded.server import Limits
from kt_cli.embedded.server.connection import ConnectionLimits, Patience

QUICK = ConnectionLimits(head=Patience(0.3), body=Patience(0.3, 1000), rest=Patience(1.0, 2**30))
POST = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving(limits=Limits(body_bytes=20_000, connections=QUICK)) as running:
        yield running


def connect(server: Running) -> socket.socket:
    address = httpx.URL(server.url)
    return socket.create_connection((address.host, address.port), timeout=20)


def read_all(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(65536), b""))


def exchange(server: Running, raw: bytes) -> bytes:
    with connect(server) as sock:
        sock.sendall(raw)
        return read_all(sock)


def error_of(answer: bytes) -> tuple[int, dict[str, str]]:
    head, _, body = answer.partition(b"\r\n\r\n")
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert b"connection: close" in head.lower()
    return int(head.split()[1]), error


BROKEN = {
    "no http": (b"GARBAGE\r\n\r\n", 400),
    "tls": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(80) + b"\r\n\r\n", 400),
    "http2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "no host": (b"GET /health HTTP/1.1\r\n\r\n", 400),
    "bad header": (b"GET /health HTTP/1.1\r\nHost: localhost\r\nA b: c\r\n\r\n", 400),
    "bad target": (b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "long head": (b"GET / HTTP/1.1\r\nHost: localhost\r\nA: " + b"a" * 100_000, 431),
    "long target": (b"GET /" + b"a" * 100_000, 431),
    "many headers": (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"A: a\r\n" * 20_000, 431),
    "two lengths": (POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc", 400),
    "bad length": (POST + b"Content-Length: -3\r\n\r\nabc", 400),
    "huge length": (POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nabc", 400),
    "length and chunks": (
        POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "bad chunk": (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    "bad coding": (POST + b"Transfer-Encoding: gzip\r\n\r\n", 400),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_http_is_an_error_in_the_shape_of_the_api(server, case):
    raw, wanted = BROKEN[case]
    status, error = error_of(exchange(server, raw))
    assert (status, error["code"]) == (wanted, "invalid_http_request")


def test_a_request_that_follows_an_answer_may_be_broken_too(server):
    answer = exchange(server, GET + b"GARBAGE\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200") == 1
    status, _ = error_of(answer[answer.index(b"HTTP/1.1 400") :])
    assert status == 400


@pytest.mark.parametrize("start", [b"GET /hea", POST, POST + b"Content-Length: 100\r\n\r\n{"])
def test_a_request_that_stops_half_way_is_ended(server, start):
    status, error = error_of(exchange(server, start))
    assert (status, error["code"]) == (408, "request_timeout")


def test_a_silent_connection_is_closed(server):
    assert exchange(server, b"") == b""


def test_bytes_that_trickle_in_do_not_keep_a_request_alive(server):
    with connect(server) as sock:
        sock.sendall(POST + b"Content-Length: 1000\r\n\r\n")
        sock.settimeout(0.05)
        for _ in range(400):
            sock.sendall(b" ")
            try:
                answer = sock.recv(65536)
            except TimeoutError:
                continue
            break
    assert error_of(answer)[0] == 408


def test_a_slow_body_that_makes_progress_is_read(server):
    body = b'{"model": "fake", "prompt": "hi"}'.ljust(4000)
    with connect(server) as sock:
        sock.sendall(POST + b"Connection: close\r\nContent-Length: 4000\r\n\r\n")
        for start in range(0, 4000, 400):
            time.sleep(0.1)
            sock.sendall(body[start : start + 400])
        assert read_all(sock).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("close", [b"Connection: close\r\n", b""])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_huge_body_is_refused_while_it_is_still_being_sent(server, chunked, close):
    size = 64 * 2**20
    head = (
        b"Transfer-Encoding: chunked\r\n\r\n"
        if chunked
        else f"Content-Length: {size}\r\n\r\n".encode()
    )
    part = b"a" * 2**20
    if chunked:
        part = b"%x\r\n%s\r\n" % (len(part), part)
    with connect(server) as sock:
        sock.sendall(POST + close + head)
        for _ in range(64):
            sock.sendall(part)
        status, error = error_of(read_all(sock))
    assert (status, error["code"]) == (413, "body_too_large")


def test_what_is_sent_after_the_answer_is_not_read_for_ever(server):
    with connect(server) as sock:
        sock.sendall(POST + b"Content-Length: 1000000\r\n\r\n")
        assert error_of(read_all(sock))[0] == 413
        with pytest.raises(OSError):
            for _ in range(1000):
                time.sleep(0.01)
                sock.sendall(b"a")


def test_half_sent_requests_leave_room_for_others():
    limits = Limits(connections=ConnectionLimits(most=20))
    with serving(limits=limits) as server:
        stuck = [connect(server) for _ in range(100)]
        for sock in stuck:
            sock.sendall(POST + b"Content-Length: 100\r\n\r\n{")
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert server.chat().status_code == 200
        for sock in stuck:
            sock.close()


def test_connections_beyond_what_is_being_answered_are_told_to_come_again():
    limits = Limits(connections=replace(QUICK, most=2))
    with serving(Script(pause=60.0), limits=limits) as server:
        body = b'{"model": "fake", "prompt": "a", "stream": true}'
        asking = POST + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        busy = [connect(server) for _ in range(2)]
        for sock in busy:
            sock.sendall(asking)
        wait_until(lambda: server.engine.stats().running == 2)
        answer = exchange(server, GET)
        assert error_of(answer)[1]["code"] == "server_overloaded"
        assert b"retry-after: 1" in answer.lower()
        for sock in busy:
            sock.close()
        wait_until(lambda: server.engine.stats().running == 0)
        assert httpx.get(f"{server.url}/health").status_code == 200


def test_an_answer_that_nobody_reads_is_given_up():
    script = Script(reply=lambda _: ["x" * 100_000] * 500, context=10_000, kv_total=10_000)
    limits = Limits(connections=replace(QUICK, stalled_s=0.3))
    with serving(script, limits=limits) as server, connect(server) as sock:
        body = b'{"model": "fake", "prompt": "a", "stream": true, "max_tokens": 600}'
        sock.sendall(POST + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        wait_until(lambda: 'status="499"' in server.state.metrics.render(None), 10)
