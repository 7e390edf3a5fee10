"""Opens the port and says where it is, before anything slow happens."""

from __future__ import annotations

import errno
import os
import socket

from kt_cli.core.hosts import is_loopback
from kt_cli.errors import AuthError, KtError

BACKLOG = 2048


def require_key(host: str, key: str) -> None:
    """Only this machine may use a server without a key."""
    if not key and not is_loopback(host):
        raise AuthError(
            f"refusing to listen on {host} without an API key",
            "everybody who reaches that address could use the server",
            "set `KT_API_KEY`, or listen on 127.0.0.1",
        )


def open_port(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        why = error.strerror or str(error)
        raise KtError(
            f"cannot listen on {host}", why, "check the address given to `--host`"
        ) from None
    sock = socket.socket(family, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise _port_error(host, port, error) from None
    sock.set_inheritable(False)
    return sock


def url_of(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _port_error(host: str, port: int, error: OSError) -> KtError:
    what = f"cannot listen on {host}:{port}"
    if error.errno == errno.EADDRINUSE:
        return KtError(what, "another process listens there", "choose another `--port`")
    if error.errno == errno.EACCES:
        return KtError(what, "ports below 1024 need privileges", "choose a `--port` from 1024 on")
    return KtError(what, os.strerror(error.errno or 0), "check `--host` and `--port`")
