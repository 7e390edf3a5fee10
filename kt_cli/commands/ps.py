"""`kt ps`: the servers of this machine and what they do."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kt_cli import runtime
from kt_cli.command import takes
from kt_cli.core.serial import to_plain
from kt_cli.opts import opt
from kt_cli.runtime import Server, Unwritten, Usage
from kt_cli.ui import human_bytes, one_line
from kt_cli.workflow.context import Context

SUMMARY = "Running servers and what they do"

_HEAD = ("NAME", "STATE", "URL", "UPTIME", "MEMORY", "RUN/WAIT", "TOK/S", "MODEL", "ENGINE")


@dataclass(frozen=True, slots=True)
class PsOptions:
    all: bool = opt("-a", "--all", help="Stopped servers too", default=False)


@takes(PsOptions)
def cli(options: PsOptions, ctx: Context) -> None:
    """List running servers."""
    known = [s for s in runtime.servers(ctx.home) if options.all or s.state != "stopped"]
    seen = [(server, runtime.usage(server)) for server in known]
    data = {"servers": [as_json(server, usage) for server, usage in seen]}
    if not seen:
        ctx.out.result("ps", data, "no server is running")
        return
    rows = [_row(server, usage) for server, usage in seen]
    ctx.out.result("ps", data, *listing([_HEAD, *rows]), *_reports(seen), *_notes(known))


def as_json(server: Server, usage: Usage) -> dict[str, Any]:
    load = to_plain(usage.load)
    return {**to_plain(server), "uptime_s": _uptime(server), "memory": usage.memory, "load": load}


def _row(server: Server, usage: Usage) -> tuple[str, ...]:
    load = usage.load
    return (
        server.name,
        "failing" if load.failing else server.state,
        server.url,
        span(_uptime(server)) if server.live else "-",
        human_bytes(usage.memory) if usage.memory else "-",
        "-" if load.running is None else f"{load.running}/{_number(load.waiting)}",
        "-" if load.tokens_s is None else f"{load.tokens_s:.1f}",
        server.model,
        server.engine,
    )


def listing(rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned columns that are never cut, so that a URL can be copied from any terminal."""
    cells = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    padded = (zip(row, widths, strict=True) for row in cells)
    return ["  ".join(f"{cell:<{width}}" for cell, width in row).rstrip() for row in padded]


def _reports(seen: Sequence[tuple[Server, Usage]]) -> list[str]:
    told = [f"{s.name} {line}" for s, usage in seen for line in usage.load.report.lines()]
    failing = ((s.name, usage.load.failing) for s, usage in seen if usage.load.failing)
    return [*told, *(one_line(f"{name}: its answers fail: {why}") for name, why in failing)]


def _notes(known: Sequence[Server]) -> list[str]:
    """What ended servers, and what could not be written down of those that run."""
    failures = [(s.name, s.failure) for s in known if s.failure]
    told = [one_line(f"{name}: {failure.what}: {failure.why}") for name, failure in failures]
    lost = [
        one_line(f"{s.name}: {unwritten(s.unwritten)}") for s in known if s.live and s.unwritten
    ]
    return [*told, *lost]


def unwritten(what: Unwritten) -> str:
    """In a sentence, times of day as they are here."""
    since, until = (time.strftime("%H:%M:%S", time.localtime(t)) for t in (what.since, what.until))
    span = f"from {since} to {until}" if what.until else f"since {since}"
    lines = f"; {what.lines} lines of the log are lost" if what.lines else ""
    return f"its files could not be written {span}: {what.why}{lines}"


def _uptime(server: Server) -> float:
    """Seconds until now, or until the end."""
    return round((server.ended or time.time()) - server.started, 1)


def span(seconds: float) -> str:
    """12 s, 3 min, 2 h 05 min, 4 d 3 h."""
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60:02d} min"
    return f"{minutes} min" if minutes else f"{int(seconds)} s"


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)
