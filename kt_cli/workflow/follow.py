"""Starts a server and stays with it: progress, readiness, and the end."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import typer

from kt_cli import runtime
from kt_cli.core.events import Event, Failed, Progress, Ready, Starting, Stopped
from kt_cli.core.launch import LaunchSpec
from kt_cli.core.serial import to_plain
from kt_cli.errors import INTERRUPTED, NotReadyError
from kt_cli.ui.progress import Show, progress
from kt_cli.workflow.context import Context

_TAIL = 10
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class ServerFailed(NotReadyError):
    """The engine ended or never became ready; `details` are for programs."""

    def __init__(self, failure: Failed) -> None:
        super().__init__(failure.what, failure.why, failure.fix)
        self.details = {"engine_exit_code": failure.exit_code, "log_tail": failure.log_tail}


@dataclass(frozen=True, slots=True)
class Served:
    spec: LaunchSpec
    name: str
    key: str | None = None
    made: bool = False
    """The key was made here, so it is shown once."""


@dataclass(slots=True)
class Asked:
    """What the user has asked for by signals so far."""

    signals: list[int] = field(default_factory=list)

    @property
    def hung_up(self) -> bool:
        return signal.SIGHUP in self.signals


def serve(
    served: Served, ctx: Context, detach: bool, on_ready: Callable[[], None] | None = None
) -> None:
    """Returns when the server is ready (detached) or has ended; raises ServerFailed."""
    asked = Asked()
    with _obeying(asked, served.name, ctx):
        events = runtime.start(
            served.spec, ctx.home, served.name, key=served.key, attached=not detach
        )
        if asked.signals:
            runtime.ask_to_stop(ctx.home, served.name)
        with progress(ctx.out, served.name) as show:
            ready = _until_ready(events, ctx, show)
        if isinstance(ready, Ready):
            _report(served, ready, ctx, detach)
            if on_ready:
                on_ready()
            if detach:
                return
        last = ready if not isinstance(ready, Ready) else _last(events, ctx)
    _end(last, served.name, ctx, asked, was_ready=isinstance(ready, Ready))


def _until_ready(events: Iterator[Event], ctx: Context, show: Show) -> Event:
    """The first event that is not about loading."""
    for event in events:
        if isinstance(event, (Starting, Progress)):
            _tell(event, ctx, show)
            continue
        return event
    return Stopped("engine")


def _tell(event: Event, ctx: Context, show: Show) -> None:
    ctx.out.event(type(event).__name__.lower(), event)
    if isinstance(event, Progress):
        show(event.stage, event.fraction)
    else:
        show("starting", None)


def _last(events: Iterator[Event], ctx: Context) -> Event:
    """The event that ended the server."""
    last: Event = Stopped("engine")
    for event in events:
        last = event
    return last


def _report(served: Served, ready: Ready, ctx: Context, detach: bool) -> None:
    server = runtime.find(ctx.home, served.name)
    ctx.out.event("ready", {**to_plain(ready), "name": served.name})
    data: dict[str, Any] = {"server": to_plain(server), "api": f"{ready.url}/v1"}
    if served.made:
        data["api_key"] = served.key
    if ctx.out.json_mode:
        ctx.out.event("run", data)
    else:
        ctx.out.print(*_report_lines(served, ready, detach))


def _report_lines(served: Served, ready: Ready, detach: bool) -> Iterator[str]:
    yield f"{served.name} is ready at {ready.url}/v1 after {ready.seconds:.1f} s"
    yield ""
    if served.made:
        yield f"  key    {served.key}   (shown once; clients send it as a bearer token)"
    yield "  chat   kt chat"
    yield f"  curl   {curl(ready.url, served.spec.model, served.key is not None)}"
    yield f"  stop   kt stop {served.name}" + ("" if detach else "   (or Ctrl-C here)")


def curl(url: str, model: str, with_key: bool) -> str:
    """A line to paste into a shell; the key stays in the environment."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello"}]})
    key = ' -H "Authorization: Bearer $KT_API_KEY"' if with_key else ""
    shown = body.replace("'", "'\\''")
    return f"curl {url}/v1/chat/completions{key} -H 'Content-Type: application/json' -d '{shown}'"


def _end(last: Event, name: str, ctx: Context, asked: Asked, was_ready: bool) -> None:
    if asked.hung_up:
        raise typer.Exit(128 + signal.SIGHUP)
    if isinstance(last, Failed):
        ctx.out.event("failed", last)
        for line in last.log_tail[-_TAIL:]:
            ctx.out.note(f"  | {line}")
        raise ServerFailed(last)
    by: Mapping[str, object] = to_plain(last)
    ctx.out.event("stopped", by, f"{name} is stopped")
    if not was_ready:
        raise typer.Exit(INTERRUPTED)


@contextmanager
def _obeying(asked: Asked, name: str, ctx: Context) -> Iterator[None]:
    """Ctrl-C, SIGTERM and a closing terminal ask the server to stop; a second time kills it.

    What is ignored stays ignored: `nohup` and background jobs of scripts mean it.
    """

    def ask(number: int, frame: FrameType | None) -> None:
        again = bool(asked.signals)
        asked.signals.append(number)
        if number != signal.SIGHUP:
            ctx.out.note("killing it" if again else f"stopping {name} (Ctrl-C again kills it)")
        runtime.ask_to_stop(ctx.home, name, now=again)

    heard = [n for n in _STOP_SIGNALS if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, ask) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
