"""Addresses and ports: who holds one, which is free, what reaches a server."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from runtime.bench import free_port

from kt_cli.core.hosts import is_loopback
from kt_cli.errors import KtError, UsageError
from kt_cli.runtime import control, ports


def test_a_busy_port_names_its_process_and_a_free_one(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError) as caught:
            control.check_port(tmp_path, "127.0.0.1", port)
        assert f"process {os.getpid()} " in caught.value.why
        assert "--port" in caught.value.fix
        with pytest.raises(UsageError):
            control.check_port(tmp_path, "0.0.0.0", port)
    control.check_port(tmp_path, "127.0.0.1", port)


def test_an_ipv6_holder_is_found() -> None:
    with socket.socket(socket.AF_INET6) as taken:
        try:
            taken.bind(("::1", 0))
        except OSError:
            pytest.skip("no IPv6 here")
        taken.listen()
        found = ports.holder(taken.getsockname()[1])
    assert found is not None and found.pid == os.getpid()


@pytest.mark.parametrize("host", ["203.0.113.7", "no.such.host.invalid"])
def test_an_address_of_somebody_else_is_refused(host: str) -> None:
    with pytest.raises(KtError):
        ports.is_free(host, free_port())


@pytest.mark.parametrize(
    ("host", "loopback", "url"),
    [
        ("127.0.0.1", True, "http://127.0.0.1:80"),
        ("127.5.0.1", True, "http://127.5.0.1:80"),
        ("localhost", True, "http://localhost:80"),
        ("::1", True, "http://[::1]:80"),
        ("0.0.0.0", False, "http://127.0.0.1:80"),
        ("::", False, "http://[::1]:80"),
        ("192.0.2.1", False, "http://192.0.2.1:80"),
        ("example.org", False, "http://example.org:80"),
    ],
)
def test_addresses(host: str, loopback: bool, url: str) -> None:
    assert is_loopback(host) is loopback
    assert ports.url(host, 80) == url
