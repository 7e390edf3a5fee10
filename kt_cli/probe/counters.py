"""Memory bandwidth from the memory controllers' own counters, where kernel and rights allow it.

Linux shows Intel's integrated memory controllers as `uncore_imc_*` event sources; each CAS command
moves one cache line of 64 bytes (Intel, uncore performance monitoring guides). Opening them needs
root or a low `perf_event_paranoid`, and most virtual machines hide them: then there is no reader.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

from kt_cli.probe import answers, cpulist
from kt_cli.probe.host import Host

SOURCES = "/sys/bus/event_source/devices"
LINE_BYTES = 64
_PERF_EVENT_OPEN = {"x86_64": 298}
_ATTR_BYTES = 64  # PERF_ATTR_SIZE_VER0
_FIELD = re.compile(r"config:([0-9]|[1-5][0-9]|6[0-3])(?:-([0-9]+))?")


@dataclass(frozen=True, slots=True)
class Event:
    """One counter to open: the arguments that perf_event_open wants."""

    type: int
    config: int
    cpu: int


def events(host: Host) -> tuple[Event, ...]:
    """Reads and writes of every memory controller, once per socket; empty where there are none."""
    found: list[Event] = []
    for name in host.names(SOURCES, "uncore_imc_"):
        place = f"{SOURCES}/{name}"
        kind = host.number(f"{place}/type")
        cpus = cpulist.lenient(host.text(f"{place}/cpumask"))
        texts = [host.text(f"{place}/events/cas_count_{way}") for way in ("read", "write")]
        configs = [_config(host, place, text) for text in texts if text]
        if kind is not None:
            found += [Event(kind, c, cpu) for c in configs if c is not None for cpu in cpus]
    return tuple(found)


def _config(host: Host, place: str, text: str) -> int | None:
    """`event=0x04,umask=0x03` as the number that the source's format describes."""
    config = 0
    for part in text.split(","):
        name, _, value = part.partition("=")
        field = _FIELD.fullmatch(host.text(f"{place}/format/{name.strip()}"))
        if not field:
            return None
        number = answers.number(value or "1")
        if number is None:
            return None
        config |= number << int(field[1])
    return config


class Reader:
    """Open counters; `rate` is bytes per second since the last call."""

    def __init__(self, files: Sequence[int]) -> None:
        self._files = tuple(files)
        self._last = (time.monotonic(), self._lines())

    def rate(self) -> float:
        now, lines = time.monotonic(), self._lines()
        (then, before), self._last = self._last, (now, lines)
        return (lines - before) * LINE_BYTES / max(1e-6, now - then)

    def close(self) -> None:
        for file in self._files:
            os.close(file)

    def _lines(self) -> int:
        return sum(int.from_bytes(os.read(f, 8), "little") for f in self._files)


def reader(host: Host) -> Reader | None:
    """None where there are no counters or they may not be opened."""
    number = _PERF_EVENT_OPEN.get(platform.machine())
    wanted = events(host) if host.live and number else ()
    files: list[int] = []
    for event in wanted:
        file = _open(number or 0, event)
        if file < 0:
            for opened in files:
                os.close(opened)
            return None
        files.append(file)
    return Reader(files) if files else None


def _open(number: int, event: Event) -> int:
    attr = bytearray(_ATTR_BYTES)
    attr[0:4] = event.type.to_bytes(4, "little")
    attr[4:8] = _ATTR_BYTES.to_bytes(4, "little")
    attr[8:16] = event.config.to_bytes(8, "little")
    buffer = (ctypes.c_char * _ATTR_BYTES).from_buffer(attr)
    libc = ctypes.CDLL(None, use_errno=True)
    return int(libc.syscall(number, ctypes.byref(buffer), -1, event.cpu, -1, 0))
