"""`kt model packs`: the packed experts that are kept for later starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kt_cli.command import takes
from kt_cli.errors import EnvironmentBroken, UsageError
from kt_cli.hub.store import Store
from kt_cli.opts import opt
from kt_cli.ui import human_bytes, table
from kt_cli.weights.packs import ENDING, Pack, Shelf, folder_of, remove
from kt_cli.workflow.context import Context

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True, slots=True)
class PacksOptions:
    name: str | None = opt(help="Model whose packs are meant; all when left out", metavar="NAME")
    clear: bool = opt("--clear", help="Remove them", default=False)
    verify: bool = opt("--verify", help="Read every byte; what is damaged goes", default=False)


@takes(PacksOptions)
def packs(options: PacksOptions, ctx: Context) -> None:
    """Show the packed experts that are kept for later starts; --clear removes them."""
    found = _meant(options, ctx)
    if options.clear:
        _clear(found, ctx)
    elif options.verify:
        _verify(found, ctx)
    else:
        _list(found, ctx)


def packs_of(ctx: Context, path: str) -> tuple[Pack, ...]:
    """Those of the model whose files are at `path`."""
    return Shelf(folder_of(ctx.home)).of(Path(path))


def bytes_of(packs: Sequence[Pack]) -> int:
    return sum(pack.bytes for pack in packs)


def _meant(options: PacksOptions, ctx: Context) -> tuple[Pack, ...]:
    shelf = Shelf(folder_of(ctx.home))
    if options.name is None:
        return shelf.packs()
    place = Path(options.name).expanduser()
    if not place.exists():
        place = Path(Store(ctx.home / "models").entry(options.name).path)
    return shelf.of(place)


def _list(found: Sequence[Pack], ctx: Context) -> None:
    data = {"packs": [_plain(pack) for pack in found], "bytes": bytes_of(found)}
    shown = _table(found) if found else "no packed experts are kept"
    ctx.out.result("model.packs", data, shown)


def _plain(pack: Pack) -> dict[str, Any]:
    return {**asdict(pack), "folder": str(pack.folder), "bytes": pack.bytes}


def _table(found: Sequence[Pack]) -> RenderableType:
    rows = [
        [
            Path(pack.checkpoint).name,
            ", ".join(sorted({name.split(".")[-2] for name in pack.files if ENDING in name})),
            human_bytes(pack.bytes),
            datetime.fromtimestamp(pack.used).strftime("%Y-%m-%d %H:%M"),
            pack.checkpoint,
        ]
        for pack in reversed(found)
    ]
    return table(["model", "formats", "size>", "last used", "checkpoint"], rows)


def _clear(found: Sequence[Pack], ctx: Context) -> None:
    size = human_bytes(bytes_of(found))
    if found and not ctx.confirm(f"Remove {size} of packed experts?"):
        why = f"this removes {size}; the next start packs again"
        raise UsageError("nothing was removed", why, "add --yes to confirm")
    for pack in found:
        remove(pack)
    data = {"removed": [str(pack.folder) for pack in found], "bytes": bytes_of(found)}
    ctx.out.result("model.packs", data, f"{size} of packed experts are removed")


def _verify(found: Sequence[Pack], ctx: Context) -> None:
    files = [pack.folder / name for pack in found for name in pack.files if name.endswith(ENDING)]
    damaged = [(path, why) for path in files if (why := _fault(path))]
    for path, why in damaged:
        path.unlink(missing_ok=True)
        ctx.out.warn(f"removed {path.name}: {why}")
    data = {"files": len(files), "damaged": [str(path) for path, _ in damaged]}
    ctx.out.result("model.packs", data, f"{len(files) - len(damaged)} of {len(files)} are whole")


def _fault(path: Path) -> str:
    try:
        from kt_moe import PackFileError, packfile
    except ImportError as error:
        raise EnvironmentBroken("packs cannot be verified", str(error)) from error
    try:
        packfile.read(path, verify=True)
    except (PackFileError, OSError) as error:
        return str(error)
    return ""
