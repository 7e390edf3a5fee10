"""The picture of `kt top`: cores by NUMA node, memory, GPUs, servers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from kt_cli.ui.out import human_bytes

_BLOCKS = " ▁▂▃▄▅▆▇█"
_ASCII = " .:-=+*#@"
BAR = 24


def cores_line(shares: Sequence[float], unicode: bool = True) -> str:
    """One character a core, higher the busier."""
    marks = _BLOCKS if unicode else _ASCII
    return "".join(marks[round(share * (len(marks) - 1))] for share in shares)


def bar(used: float, total: float, unicode: bool = True) -> str:
    filled = round(BAR * min(1.0, used / total)) if total else 0
    full, empty = ("█", "░") if unicode else ("#", ".")
    return full * filled + empty * (BAR - filled)


def memory_line(name: str, used: int, total: int, unicode: bool = True) -> str:
    return f"{name:<8} {bar(used, total, unicode)} {human_bytes(used)} of {human_bytes(total)}"


def screen(
    cores: Mapping[int, Sequence[float]],
    memory: Sequence[tuple[str, int, int]],
    gpus: Sequence[tuple[str, int, int, float | None]],
    bandwidth: float | None,
    servers: Sequence[Sequence[str]],
    unicode: bool = True,
) -> RenderableType:
    """`memory` and `gpus` are (name, used, total[, busy]); `servers` rows of SERVER_COLUMNS."""
    parts: list[RenderableType] = [_cores(cores, unicode)]
    parts += [Text(memory_line(*place, unicode)) for place in memory]
    if bandwidth is not None:
        parts.append(Text(f"{'reads+writes':<8} {bandwidth / 1e9:.1f} GB/s"))
    parts += [_gpu(gpu, unicode) for gpu in gpus]
    parts += [Text(""), _servers(servers)]
    return Group(*parts)


def _cores(cores: Mapping[int, Sequence[float]], unicode: bool) -> Text:
    lines = []
    for node, shares in cores.items():
        mean = 100 * sum(shares) / max(1, len(shares))
        lines.append(
            f"node{node:<4} {cores_line(shares, unicode)}  {mean:.0f} % of {len(shares)} CPUs"
        )
    return Text("\n".join(lines), no_wrap=False)


def _gpu(gpu: tuple[str, int, int, float | None], unicode: bool) -> Text:
    name, used, total, load = gpu
    share = "" if load is None else f"  {100 * load:.0f} % busy"
    return Text(memory_line(name, used, total, unicode) + share)


SERVER_COLUMNS = ("server", "state", "tokens/s", "running", "waiting", "memory", "KV cache")


def _servers(rows: Sequence[Sequence[str]]) -> RenderableType:
    if not rows:
        return Text("no server is running")
    grid = Table(box=None, pad_edge=False)
    for position, name in enumerate(SERVER_COLUMNS):
        grid.add_column(name, justify="left" if position < 2 else "right")
    for row in rows:
        grid.add_row(*(Text(cell) for cell in row))
    return grid
