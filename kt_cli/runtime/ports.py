"""Who holds a port: asked before a model is loaded, not ten minutes later.

/proc/net/tcp and tcp6 give the socket's inode and user (proc_net_tcp(5)); /proc/PID/fd leads from
the inode to the process.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kt_cli.errors import AuthError, KtError, UsageError

_LISTENING = "0A"


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that listens; `pid` is None when it belongs to somebody else."""

    user: str
    pid: int | None = None
    command: str = ""

    def __str__(self) -> str:
        if self.pid is None:
            return f"a process of user {self.user}"
        return f"process {self.pid} of user {self.user}: {self.command}"


def reachable(host: str) -> str:
    """The address at which a local client finds a server that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)


def url(host: str, port: int) -> str:
    name = reachable(host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def is_free(host: str, port: int) -> bool:
    """Raises KtError for an address that cannot be listened on at all."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except socket.gaierror as error:
        raise UsageError(f"{host!r} is not an address", error.strerror or "") from error
    except OSError as error:
        return _refusal(error, host, port)
    return True


def next_free(host: str, port: int) -> int | None:
    candidates = range(port + 1, min(port + 100, 65536))
    return next((p for p in candidates if is_free(host, p)), None)


def holder(port: int) -> Holder | None:
    """Who listens on this port on any address; None when nobody does."""
    for uid, inode in _listeners(port):
        pid = _owner(inode)
        return Holder(_user(uid), pid, "" if pid is None else command(pid))
    return None


def holders(port: int) -> frozenset[int]:
    """Pids of those that listen on this port, as far as they can be seen."""
    pids = (_owner(inode) for _, inode in _listeners(port))
    return frozenset(pid for pid in pids if pid is not None)


def command(pid: int) -> str:
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ""
    return raw.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")


def _refusal(error: OSError, host: str, port: int) -> bool:
    if error.errno == errno.EADDRINUSE:
        return False
    what = f"cannot listen on {host} port {port}"
    if error.errno in (errno.EACCES, errno.EPERM):
        fix = "use a port from 1024 on"
        raise AuthError(what, "this port is reserved for the administrator", fix) from error
    if error.errno == errno.EADDRNOTAVAIL:
        fix = "use --host 127.0.0.1, or 0.0.0.0 for all addresses"
        raise UsageError(what, "this machine does not have that address", fix) from error
    raise KtError(what, error.strerror or str(error)) from error


def _listeners(port: int) -> Iterator[tuple[int, str]]:
    """(uid, inode) of each listening socket on this port."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in (line.split() for line in lines):
            local, state = fields[1], fields[3]
            if state == _LISTENING and int(local.rpartition(":")[2], 16) == port:
                yield int(fields[7]), fields[9]


def _owner(inode: str) -> int | None:
    wanted = f"socket:[{inode}]"
    for folder in Path("/proc").glob("[0-9]*/fd"):
        if any(target == wanted for target in _targets(folder)):
            return int(folder.parent.name)
    return None


def _targets(folder: Path) -> Iterator[str]:
    """Where the file descriptors lead; nothing for a process of somebody else."""
    try:
        names = os.listdir(folder)  # noqa: PTH208
    except OSError:
        return
    for name in names:
        with contextlib.suppress(OSError):
            yield str((folder / name).readlink())


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
