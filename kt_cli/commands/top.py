"""`kt top`: the machine and its servers, live."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kt_cli import probe, runtime
from kt_cli.command import takes
from kt_cli.core.serial import to_plain
from kt_cli.errors import UsageError
from kt_cli.opts import opt
from kt_cli.probe import counters, live
from kt_cli.probe.live import Sample
from kt_cli.runtime import Server, Usage
from kt_cli.ui import human_bytes
from kt_cli.workflow.context import Context

if TYPE_CHECKING:
    from rich.console import RenderableType

SUMMARY = "Cores, memory, GPUs and servers, live"


@dataclass(frozen=True, slots=True)
class TopOptions:
    once: bool = opt("--once", help="Show one picture and stop", default=False)
    interval: float = opt(
        "--interval", help="Seconds between pictures", default=1.0, low=0.1, high=60
    )


@dataclass(frozen=True, slots=True)
class View:
    """One moment: shares of CPU time by node, the sample behind it, servers, GB/s."""

    nodes: Mapping[int, Mapping[int, float]]
    sample: Sample
    servers: Sequence[tuple[Server, Usage]]
    bandwidth: float | None

    def as_json(self) -> dict[str, Any]:
        return {
            "cores": {
                str(n): {str(c): round(s, 3) for c, s in v.items()} for n, v in self.nodes.items()
            },
            "memory": {"total": self.sample.memory, "used": self.sample.memory_used},
            "nodes": {str(n): {"total": t, "used": u} for n, (t, u) in self.sample.nodes.items()},
            "gpus": to_plain(self.sample.gpus),
            "memory_bytes_per_s": self.bandwidth,
            "servers": [
                {**to_plain(s), "memory": u.memory, "load": to_plain(u.load)}
                for s, u in self.servers
            ],
        }


class Watch:
    """Takes a view at each call; the first covers the time since the start."""

    def __init__(self, ctx: Context) -> None:
        self._home = ctx.home
        self._host = probe.Host()
        self._nodes = probe.machine(home=ctx.home).nodes
        self._counters = counters.reader(self._host)
        self._last = live.sample(self._host)

    def view(self) -> View:
        now = live.sample(self._host)
        shares = live.busy(self._last, now)
        self._last = now
        nodes = {n.id: {c: shares[c] for c in n.cpus if c in shares} for n in self._nodes}
        known = [s for s in runtime.servers(self._home) if s.live]
        seen = [(server, runtime.usage(server)) for server in known]
        rate = self._counters.rate() if self._counters else None
        return View({n: v for n, v in nodes.items() if v}, now, seen, rate)


@takes(TopOptions)
def cli(options: TopOptions, ctx: Context) -> None:
    """Watch cores, memory, GPUs and servers; Ctrl-C ends it."""
    watch = Watch(ctx)
    if options.once or ctx.out.json_mode:
        time.sleep(min(options.interval, 0.3))
        view = watch.view()
        ctx.out.result("top", view.as_json(), picture(view, _unicode(ctx)))
    elif not ctx.out.stdout.isatty():
        raise UsageError("`kt top` draws on a terminal", "", "use `kt top --once`")
    else:
        _follow(watch, options.interval, ctx)


def _follow(watch: Watch, interval: float, ctx: Context) -> None:
    """On the terminal's second screen, so that it is left as it was."""
    from rich.live import Live

    console = ctx.out.console()
    with Live(console=console, screen=True, auto_refresh=False) as shown:
        try:
            while True:
                shown.update(picture(watch.view(), _unicode(ctx)), refresh=True)
                time.sleep(interval)
        except KeyboardInterrupt:
            return


def _unicode(ctx: Context) -> bool:
    return (getattr(ctx.out.stdout, "encoding", "") or "").lower().startswith("utf")


def picture(view: View, unicode: bool) -> RenderableType:
    from kt_cli.ui import top

    cores = {node: list(shares.values()) for node, shares in view.nodes.items()}
    gpus = [(f"GPU{g.index}", g.used, g.memory, g.busy) for g in view.sample.gpus]
    rows = [_row(server, usage) for server, usage in view.servers]
    return top.screen(cores, _memory(view.sample), gpus, view.bandwidth, rows, unicode)


def _memory(sample: Sample) -> list[tuple[str, int, int]]:
    if len(sample.nodes) < 2:
        return [("RAM", sample.memory_used, sample.memory)]
    return [(f"node{n} RAM", used, total) for n, (total, used) in sample.nodes.items()]


def _row(server: Server, usage: Usage) -> tuple[str, ...]:
    load = usage.load
    numbers = (load.running, load.waiting)
    speed = "-" if load.tokens_s is None else f"{load.tokens_s:.1f}"
    kv = "-" if not load.kv_total else f"{load.kv_used or 0}/{load.kv_total}"
    counts = ("-" if n is None else str(n) for n in numbers)
    return (server.name, server.state, speed, *counts, human_bytes(usage.memory), kv)
