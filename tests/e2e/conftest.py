from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from kt_cli import runtime
from kt_cli.runtime import procs

ROOT = str(Path(runtime.__file__).parents[2])


class Terminal:
    """`kt` as typed into a terminal, with a home of its own that holds the demo model."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._children: list[pexpect.spawn] = []
        path = os.pathsep.join([ROOT, os.environ.get("PYTHONPATH", "")])
        self.env = {**os.environ, "KT_HOME": str(home), "PYTHONPATH": path, "TERM": "xterm"}
        self.env["PROMPT_TOOLKIT_NO_CPR"] = "1"
        for name in ("CI", "KT_API_KEY", "NO_COLOR", "KT_URL"):
            self.env.pop(name, None)

    def kt(self, *argv: str, timeout: float = 120) -> pexpect.spawn:
        child = pexpect.spawn(
            sys.executable,
            ["-m", "kt_cli", *argv],
            env=self.env,
            timeout=timeout,
            encoding="utf-8",
            dimensions=(40, 160),
        )
        self._children.append(child)
        return child

    def close(self) -> None:
        """Ends what a failed test left at the keyboard."""
        while self._children:
            self._children.pop().close(force=True)

    def says(self, *argv: str, code: int = 0, timeout: float = 120) -> str:
        """Everything that a command shows; checks its exit code."""
        child = self.kt(*argv, timeout=timeout)
        child.expect(pexpect.EOF)
        child.close()
        shown = str(child.before).replace("\r\n", "\n")
        assert child.exitstatus == code, shown
        return shown

    def processes(self) -> list[int]:
        """Processes that belong to this home."""
        needle = str(self.home).encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                held = (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if needle in held and procs.identify(int(folder.name)):
                found.append(int(folder.name))
        return found


@pytest.fixture(scope="module")
def terminal(demo_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    home = tmp_path_factory.mktemp("kt")
    for name in ("models", "cache"):
        (home / name).symlink_to(demo_home / name)
    terminal = Terminal(home)
    yield terminal
    for server in runtime.servers(home):
        runtime.stop(home, server.name, now=True)
    for pid in terminal.processes():
        os.kill(pid, signal.SIGKILL)


@pytest.fixture(autouse=True)
def closed(terminal: Terminal) -> Iterator[None]:
    yield
    terminal.close()


@pytest.fixture(scope="module")
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
