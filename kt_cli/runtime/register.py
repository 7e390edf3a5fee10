"""The register of servers: one folder per server below KT_HOME/run, written by its supervisor.

run/NAME/lock            locked as long as the supervisor lives
         spec.json       the LaunchSpec and how to supervise it
         api-key         the key clients must send, readable by the owner alone
         state.json      `State`, replaced as a whole
         state.spare     room for the last state, while the supervisor lives
         events.ndjson   what happened since the start
         engine.log      what the engine wrote
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kt_cli import unfinished
from kt_cli.core.events import Failed
from kt_cli.core.launch import LaunchSpec
from kt_cli.core.serial import ShapeError, from_plain, to_plain
from kt_cli.documents import Source, parse_json, read_json
from kt_cli.errors import KtError, UsageError
from kt_cli.runtime.board import View
from kt_cli.runtime.losses import Unwritten
from kt_cli.runtime.procs import Process, alive, command_line, here, pids

Status = Literal["starting", "ready", "stopping", "failed", "stopped"]
LIVE: frozenset[Status] = frozenset({"starting", "ready", "stopping"})
SUPERVISOR = "kt_cli.runtime.supervisor"
"""The module that supervises: `python -m SUPERVISOR HOME NAME LOCK`."""
_SPARE = 64 << 10
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Server:
    """One server as the register knows it; `state` is what is true now, not what was written."""

    name: str
    model: str
    engine: str
    url: str
    """Where a client on this machine finds it, without /v1."""
    state: Status
    started: float
    """Unix time."""
    supervisor: Process
    pid: int | None = None
    """The engine's process."""
    ready_s: float | None = None
    """Seconds from start to ready."""
    ended: float | None = None
    api_key_file: str = ""
    """Empty when no key is needed; see `api_key`."""
    failure: Failed | None = None
    unwritten: Unwritten | None = None
    """The last time that the disk refused what the supervisor writes."""

    @property
    def live(self) -> bool:
        return self.state in LIVE


@dataclass(frozen=True, slots=True)
class Order:
    """What the supervisor is told: in spec.json, never on its command line."""

    name: str
    spec: LaunchSpec
    grace_s: float
    """Time the engine gets to end by itself after SIGTERM."""
    client: Process | None = None
    """Stop when this process ends: a foreground `kt run`."""


@dataclass(frozen=True, slots=True)
class Folder:
    """The files of one server."""

    home: Path
    name: str
    path: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", self.home / "run" / self.name)

    @property
    def order(self) -> Path:
        return self.path / "spec.json"

    @property
    def key(self) -> Path:
        return self.path / "api-key"

    @property
    def state(self) -> Path:
        return self.path / "state.json"

    @property
    def events(self) -> Path:
        return self.path / "events.ndjson"

    @property
    def log(self) -> Path:
        return self.path / "engine.log"

    @property
    def trace(self) -> Path:
        """What the supervisor itself says when it breaks."""
        return self.path / "supervisor.log"

    @property
    def spare(self) -> Path:
        """Room for the last state where the disk is full by then."""
        return self.path / "state.spare"

    @property
    def lock(self) -> Path:
        return self.path / "lock"


def check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        fix = "use letters, digits, dots, hyphens and underscores, 64 at most"
        raise UsageError(f"{name!r} cannot be a server's name", "", fix)


def servers(home: Path) -> tuple[Server, ...]:
    """Every server the register knows, live ones first, oldest first."""
    names = {*_recorded(home), *_running(home)}
    found = [server for name in sorted(names) if (server := read(Folder(home, name)))]
    return tuple(sorted(found, key=lambda s: (not s.live, s.started)))


def read(folder: Folder) -> Server | None:
    """The server as it is now; None where there is none, or one of another user.

    A supervisor that runs is asked for its own word, which holds where the disk is full, read-only
    or not to be read any more.
    """
    try:
        held = from_plain(Server, read_json(folder.state).values)
    except (KtError, ShapeError):
        pid = _running(folder.home).get(folder.name)
        return None if pid is None else _said(pid)
    if not held.live:
        return held
    return (_said(held.supervisor.pid) or held) if alive(held.supervisor) else _crashed(held)


def _recorded(home: Path) -> list[str]:
    try:
        return [p.name for p in (home / "run").iterdir() if p.is_dir()]
    except OSError:
        return []


def _running(home: Path) -> dict[str, int]:
    """Supervisors of a home that run: name → pid."""
    head = ("-m", SUPERVISOR, str(home.absolute()))
    lines = ((pid, command_line(pid)) for pid in pids())
    return {line[4]: pid for pid, line in lines if line[1:4] == head and len(line) > 5}


def _said(pid: int) -> Server | None:
    """What a supervisor shows of its server in memory; None where that cannot be seen."""
    try:
        said = parse_json(View(pid).read(), Source(f"what process {pid} shows"))
        return from_plain(Server, said.part("server").values)
    except (OSError, KtError, ShapeError):
        return None


def write_private(path: Path, text: str) -> None:
    unfinished.write(path, text, private=True)


def write_state(folder: Folder, server: Server) -> None:
    write_private(folder.state, _text(server))


def reserve(folder: Folder) -> None:
    """Takes the room that `write_last` may need. Raises OSError."""
    handle = os.open(folder.spare, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.posix_fallocate(handle, 0, _SPARE)
    finally:
        os.close(handle)


def write_last(folder: Folder, server: Server) -> bool:
    """The final state, in the room reserved for it where there is no other; False if it cannot be
    written at all."""
    with suppress(OSError):
        write_state(folder, server)
        folder.spare.unlink(missing_ok=True)
        return True
    with suppress(OSError), folder.spare.open("rb+", buffering=0) as file:
        text = _text(_short(server)).encode()
        if file.write(text[:_SPARE]) == len(text):
            file.truncate()
            folder.spare.replace(folder.state)
            return True
    return False


def _text(server: Server) -> str:
    return json.dumps(to_plain(server), indent=1)


def _short(server: Server) -> Server:
    """Its failure without the log's end, which may be long."""
    failure = server.failure and dataclasses.replace(server.failure, log_tail=())
    return dataclasses.replace(server, failure=failure)


def write_order(folder: Folder, order: Order) -> None:
    write_private(folder.order, json.dumps(to_plain(order), indent=1))


def read_order(folder: Folder) -> Order:
    return from_plain(Order, read_json(folder.order).values)


def api_key(server: Server) -> str | None:
    """The key that requests to this server must carry; None where it needs none."""
    if not server.api_key_file:
        return None
    try:
        return Path(server.api_key_file).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None


def lock(folder: Folder) -> int | None:
    """An open file that holds the server's lock, handed on to its supervisor; None when taken."""
    number = os.open(folder.lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(number)
        return None
    return number


def _crashed(held: Server) -> Server:
    """A record that says it lives although its supervisor does not."""
    restarted = held.supervisor.where != here()
    why = (
        "this machine or container was restarted meanwhile"
        if restarted
        else "its supervisor was killed, and the engine with it, or could not write down its end"
    )
    fix = f"start it again; `kt logs {held.name}` shows its last words"
    failure = Failed(f"{held.name} ended without a word", why, fix)
    return dataclasses.replace(held, state="failed", failure=failure)
