"""Asks an environment's own interpreter whether its engine really works there."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Literal

from kt_cli import children
from kt_cli.core.serial import ShapeError, from_plain
from kt_cli.runtime.environments import python_of

State = Literal["ok", "failed", "unable"]
_TIMEOUT_S = 600.0
"""The first import of a large engine compiles thousands of files."""


@dataclass(frozen=True, slots=True)
class Check:
    """`unable`: this machine lacks what the check needs, as `detail` says."""

    check: str
    state: State
    detail: str


def verify(folder: Path, name: str) -> tuple[Check, ...]:
    """What loads and computes in the environment at `folder`, one check after the other."""
    script = str(Path(__file__).with_name("engine_checks.py"))
    command = [str(python_of(folder)), "-E", "-s", script, name]
    try:
        done = children.run(command, timeout_s=_TIMEOUT_S)
    except TimeoutExpired as error:
        text = _text(error.stdout or b"")
        return tuple(_checks(text, f"took longer than {_TIMEOUT_S:.0f} s"))
    except OSError as error:
        return (Check("the interpreter", "failed", str(error)),)
    return tuple(_checks(_text(done.stdout), _ending(done.returncode, _text(done.stderr))))


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def _checks(text: str, ending: str) -> Iterator[Check]:
    """A check that began and has no result ended the process."""
    begun, said = "", False
    for line in text.splitlines():
        try:
            data = json.loads(line)
            begun, said = data["check"], False
            if "state" in data:
                yield from_plain(Check, data)
                begun = ""
            said = True
        except (ValueError, KeyError, TypeError, ShapeError):
            continue
    if begun or not said:
        yield Check(begun or "the interpreter", "failed", ending)


def _ending(code: int, stderr: str) -> str:
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    lines = stderr.strip().splitlines()
    return lines[-1] if lines else f"ended with {code}"
