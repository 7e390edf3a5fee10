"""A model's chat template, rendered in a process that it cannot leave; see `template_process`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kt_cli.children import answering
from kt_cli.errors import KtError

if TYPE_CHECKING:
    import subprocess

PROCESS = "kt_cli.embedded.template_process"
PASSED_ON = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ")
"""Of the environment: no key, no token."""


@dataclass(frozen=True, slots=True)
class TemplateLimits:
    cpu_s: float = 2.0
    wall_s: float = 60.0
    """For a machine so busy that the CPU time does not pass."""
    memory_bytes: int = 2**30
    most_characters: int = 2**25


class ChatTemplate:
    """One process at a time, started when it is needed and again after it ended."""

    def __init__(
        self, template: str, values: Mapping[str, Any], limits: TemplateLimits | None = None
    ) -> None:
        self._limits = limits or TemplateLimits()
        self._start = {
            "template": template,
            "values": dict(values),
            "cpu_s": self._limits.cpu_s,
            "memory_bytes": self._limits.memory_bytes,
            "most_characters": self._limits.most_characters,
        }
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def render(self, messages: Sequence[dict[str, Any]]) -> str:
        """Raises ValueError with the template's reason, or with the limit that it passed."""
        with self._lock:
            answer = self._ask(self._running(), list(messages))
        if "error" in answer:
            raise ValueError(answer["error"])
        text = str(answer["text"])
        if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
            raise ValueError("it makes text that is not valid Unicode")
        return text

    def close(self) -> None:
        with self._lock:
            if self._process is not None:
                self._end(self._process)

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self._process = self._spawn()
            self._send(self._process, self._start)
        return self._process

    def _spawn(self) -> subprocess.Popen[str]:
        try:
            env = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
            return answering([sys.executable, "-m", PROCESS], env)
        except OSError as error:
            what = "the process for chat templates could not be started"
            raise KtError(what, error.strerror or str(error)) from None

    def _ask(
        self, process: subprocess.Popen[str], messages: list[dict[str, Any]]
    ) -> dict[str, Any]:
        patience = threading.Timer(self._limits.wall_s, process.kill)
        patience.start()
        try:
            self._send(process, messages)
            line = process.stdout.readline() if process.stdout else ""
        finally:
            patience.cancel()
        if line.endswith("\n"):
            answer: dict[str, Any] = json.loads(line)
            return answer
        return {"error": self._end(process)}

    def _send(self, process: subprocess.Popen[str], body: object) -> None:
        if process.stdin is None:
            return
        with contextlib.suppress(BrokenPipeError):  # it has ended; its exit status says why
            process.stdin.write(json.dumps(body) + "\n")
            process.stdin.flush()

    def _end(self, process: subprocess.Popen[str]) -> str:
        """Why it ended, or is ended now."""
        self._process = None
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        code = process.wait()
        if code in (-signal.SIGPROF, -signal.SIGKILL):
            return f"it did not end within {self._limits.cpu_s:g} seconds"
        return f"the process that renders it ended with {code}"
