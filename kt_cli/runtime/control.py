"""Starting, following and stopping servers, from any process."""

from __future__ import annotations

import dataclasses
import os
import secrets
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import kt_cli
from kt_cli.core.events import Event
from kt_cli.core.launch import LaunchSpec
from kt_cli.errors import AuthError, EnvironmentBroken, KtError, NotFoundError, UsageError
from kt_cli.runtime import following, health, logfile, ports, procs, register
from kt_cli.runtime.register import (
    SUPERVISOR,
    Folder,
    Order,
    Server,
    api_key,
    lock,
    read,
    servers,
    write_last,
    write_order,
    write_private,
)

GRACE_S = 10.0
_LOCK_WAIT_S = 3.0
_SLACK_S = 10.0
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Usage:
    """What a server holds and does now."""

    memory: int
    """Resident bytes of the engine and its descendants."""
    load: health.Load


def new_api_key() -> str:
    return "kt-" + secrets.token_urlsafe(24)


def check_name(home: Path, name: str) -> None:
    """Raises UsageError for a name that cannot be used or belongs to a running server."""
    register.check_name(name)
    server = read(Folder(home, name))
    if server is not None and server.live and server.state != "stopping":
        raise _taken(server.name, f"it is {server.state} at {server.url}")


def check_port(home: Path, host: str, port: int) -> None:
    """Raises UsageError that names the process in the way and a port that is free."""
    if ports.is_free(host, port):
        return
    ours = _server_at(home, port)
    other = ports.next_free(host, port)
    instead = f"use `--port {other}`" if other else "choose another `--port`"
    if ours is not None:
        why = f"server {ours.name} (process {ours.pid}) listens there"
        raise UsageError(f"port {port} is busy", why, f"`kt stop {ours.name}`, or {instead}")
    found = ports.holder(port)
    why = f"it is held by {found}" if found else "its holder is not visible from here"
    raise UsageError(f"port {port} is busy", why, instead)


def start(
    spec: LaunchSpec,
    home: Path,
    name: str,
    *,
    key: str | None = None,
    attached: bool = False,
    grace_s: float = GRACE_S,
) -> Iterator[Event]:
    """Starts a server under a supervisor of its own and follows it.

    `key` is what clients must send; the engine finds it in its environment as KT_API_KEY. An
    attached server stops when the calling process ends. Raises UsageError for a bad or taken name
    and for a busy port, before anything is loaded.
    """
    _require_linux()
    register.check_name(name)
    folder = Folder(home, name)
    client = procs.identify(os.getpid()) if attached else None
    try:
        _launch(folder, Order(name, spec, grace_s, client), key)
    except OSError as error:
        raise _no_place(folder, error.strerror or str(error)) from error
    return follow(home, name)


def follow(home: Path, name: str) -> Iterator[Event]:
    """Every event since the server's start, as they come; ends with the server.

    Raises NotFoundError for a name that the register does not know.
    """
    folder = Folder(home, name)
    if read(folder) is None:
        raise _unknown(home, name)
    return following.events(folder)


def stop(home: Path, name: str, *, grace_s: float | None = None, now: bool = False) -> Server:
    """Ends a server and waits until it is gone; `now` kills it without asking it first.

    `grace_s` is how long to wait before it is killed, the server's own by default. A failed or
    crashed one is marked as stopped. Raises NotFoundError, or AuthError when it is another user's.
    """
    server = find(home, name)
    folder = Folder(home, name)
    if server.live:
        _end(server, now, grace_s if grace_s is not None else GRACE_S + _SLACK_S)
        server = read(folder) or server
    if server.state != "stopped":
        server = _acknowledge(folder, server)
    return server


def ask_to_stop(home: Path, name: str, *, now: bool = False) -> bool:
    """Sends the request and returns at once; False when the server is gone already."""
    server = read(Folder(home, name))
    number = signal.SIGQUIT if now else signal.SIGTERM
    return server is not None and server.live and procs.send(server.supervisor, number)


def find(home: Path, name: str) -> Server:
    """Raises NotFoundError with the names there are."""
    register.check_name(name)
    server = read(Folder(home, name))
    if server is None:
        raise _unknown(home, name)
    return server


def logs(home: Path, name: str, *, lines: int | None = None, follow: bool = False) -> Iterator[str]:
    """The last `lines` of the engine's output (all by default); with `follow` until it ends."""
    find(home, name)
    return following.lines(Folder(home, name), lines, follow)


def usage(server: Server, timeout_s: float = 0.5) -> Usage:
    memory = procs.resident(server.pid) if server.live and server.pid else 0
    if server.state != "ready":
        return Usage(memory, health.Load())
    address = health.Address(server.url, "/metrics", api_key(server))
    return Usage(memory, health.load(address, timeout_s))


def processes(server: Server) -> tuple[int, ...]:
    """The engine and its descendants; empty when it does not run."""
    return (server.pid, *procs.descendants(server.pid)) if server.live and server.pid else ()


def _require_linux() -> None:
    if sys.platform != "linux":
        why = "its supervisor is built on what the Linux kernel offers"
        raise EnvironmentBroken("kt serves models on Linux only", why, "use a Linux machine")


def _take_lock(folder: Folder) -> int:
    """The lock of a server that is not running; one that is just ending is waited for."""
    deadline = time.monotonic() + _LOCK_WAIT_S
    while (held := lock(folder)) is None:
        server = read(folder)
        ending = server is None or server.state in ("stopping", "stopped", "failed")
        if not ending or time.monotonic() > deadline:
            raise _taken(folder.name)
        time.sleep(_POLL_S)
    return held


def _launch(folder: Folder, order: Order, key: str | None) -> None:
    """A start that fails leaves nothing half-written."""
    fresh = not folder.path.exists()
    folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    held = _take_lock(folder)
    try:
        check_port(folder.home, order.spec.host, order.spec.port)
        fresh = True
        _prepare(folder, order, key)
        _spawn(folder, held)
    except (OSError, KtError):
        if fresh:
            shutil.rmtree(folder.path, ignore_errors=True)
        raise
    finally:
        os.close(held)


def _no_place(folder: Folder, why: str) -> KtError:
    fix = f"free some space or mend the permissions of {folder.home}, or set KT_HOME to another"
    return KtError(f"{folder.name} cannot be started: its files cannot be written", why, fix)


def _prepare(folder: Folder, order: Order, key: str | None) -> None:
    """Puts away what an earlier server of this name left."""
    for path in (folder.state, folder.spare, folder.events, folder.key, folder.trace):
        path.unlink(missing_ok=True)
    logfile.remove(folder.log)
    if key is not None:
        write_private(folder.key, key)
    write_order(folder, order)


def _spawn(folder: Folder, held: int) -> None:
    """Returns when the supervisor is on record; it is nobody's child here."""
    argv = [sys.executable, "-m", SUPERVISOR, str(folder.home.absolute()), folder.name, str(held)]
    trace = os.open(folder.trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        subprocess.run(
            argv,
            cwd=folder.path,
            env=_python_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=trace,
            pass_fds=(held,),
            start_new_session=True,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        said = error.stdout.decode(errors="replace")
        if said:
            raise _no_place(folder, said) from error
        why = following.last_words(folder)
        raise KtError("the supervisor could not be started", why) from error
    finally:
        os.close(trace)


def _python_environment() -> dict[str, str]:
    """Lets a child find this package, and all that is on the path, although it starts elsewhere."""
    root = str(Path(kt_cli.__file__).absolute().parent.parent)
    own = [] if root == sysconfig.get_path("purelib") else [root]
    inherited = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    path = [*own, *(str(Path(part).absolute()) for part in inherited)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(path))}


def _end(server: Server, now: bool, patience_s: float) -> None:
    steps = [signal.SIGTERM, signal.SIGQUIT, signal.SIGKILL][int(now) :]
    try:
        for number in steps:
            if not procs.send(server.supervisor, number):
                return
            if procs.wait_end(server.supervisor, patience_s):
                return
            patience_s = _SLACK_S
    except PermissionError as error:
        raise AuthError(f"{server.name} belongs to another user", "", "ask its owner") from error


def _acknowledge(folder: Folder, server: Server) -> Server:
    """On a disk that takes nothing its record goes; where not even that is possible it stays."""
    quiet = dataclasses.replace(server, state="stopped", failure=None, ended=time.time())
    if not write_last(folder, quiet):
        with suppress(OSError):
            folder.state.unlink()
    return quiet


def _server_at(home: Path, port: int) -> Server | None:
    wanted = f":{port}"
    return next((s for s in servers(home) if s.live and s.url.endswith(wanted)), None)


def _taken(name: str, why: str = "") -> UsageError:
    fix = f"`kt stop {name}`, or give this one another `--name`"
    return UsageError(f"a server called {name} is running already", why, fix)


def _unknown(home: Path, name: str) -> NotFoundError:
    names = ", ".join(s.name for s in servers(home))
    fix = f"there are: {names}" if names else "`kt run MODEL` starts one"
    return NotFoundError(f"no server is called {name}", "", fix)
