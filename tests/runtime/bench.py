from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kt_cli import runtime
from kt_cli.core.events import Event
from kt_cli.core.launch import LaunchSpec
from kt_cli.runtime import procs

ENGINE = Path(__file__).parent / "fake_engine.py"


@dataclass
class Bench:
    """A home of its own, with a mark in the environment of everything that it starts."""

    home: Path
    mark: str

    def spec(self, *flags: str, **fields: object) -> LaunchSpec:
        port = fields.pop("port", None) or free_port()
        argv = (sys.executable, str(ENGINE), "--port", str(port), *flags)
        env = {"KT_TEST_MARK": self.mark}
        base = {"engine": "fake", "model": "m", "argv": argv, "host": "127.0.0.1", "port": port}
        return LaunchSpec(**{**base, "env": env, "ready_timeout_s": 30.0, **fields})  # type: ignore[arg-type]

    def start(
        self, *flags: str, name: str = "m", grace_s: float = 5.0, **fields: object
    ) -> Iterator[Event]:
        return runtime.start(self.spec(*flags, **fields), self.home, name, grace_s=grace_s)

    def left(self) -> list[int]:
        """Processes that carry the mark, supervisors included, this one left out."""
        needle = f"KT_TEST_MARK={self.mark}".encode()
        home = str(self.home).encode()
        return [p for p in pids() if _holds(p, "environ", needle) or _holds(p, "cmdline", home)]

    def none_left(self, timeout_s: float = 5.0) -> bool:
        return wait_for(lambda: not self.left(), timeout_s)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def pids() -> list[int]:
    return [
        int(p.name)
        for p in Path("/proc").iterdir()
        if p.name.isdigit() and int(p.name) != os.getpid()
    ]


def wait_for(condition: Callable[[], object], timeout_s: float = 10.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _holds(pid: int, file: str, needle: bytes) -> bool:
    try:
        return (
            needle in Path(f"/proc/{pid}/{file}").read_bytes() and procs.identify(pid) is not None
        )
    except OSError:
        return False
