"""`kt model pull`, `search` and `verify`: what needs a hub or reads every byte."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kt_cli.command import takes
from kt_cli.errors import KtError, NotFoundError, TransferError
from kt_cli.hub import manifest
from kt_cli.hub.check import Fault
from kt_cli.hub.check import verify as verify_files
from kt_cli.hub.client import client
from kt_cli.hub.fetch import WORKERS
from kt_cli.hub.listing import Hub
from kt_cli.hub.pulls import Pull, Wanted, prepare
from kt_cli.hub.store import Store
from kt_cli.options import HubOptions, RunOptions
from kt_cli.opts import opt, parse_path
from kt_cli.ui import human_bytes, table
from kt_cli.ui.progress import progress
from kt_cli.weights import sums
from kt_cli.workflow.context import Context, need

if TYPE_CHECKING:
    from rich.console import RenderableType


def _patterns(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


@dataclass(frozen=True, slots=True)
class PullOptions(HubOptions):
    model: str | None = opt(help="Name or alias of a known model, or OWNER/NAME", metavar="MODEL")
    revision: str | None = opt("--revision", help="Branch, tag or commit")
    include: tuple[str, ...] | None = opt(
        "--include", help="Files to pull, such as '*Q4_K_M*'", parse=_patterns, metavar="PATTERNS"
    )
    exclude: tuple[str, ...] | None = opt(
        "--exclude", help="Files to leave out", parse=_patterns, metavar="PATTERNS"
    )
    name: str | None = opt("--name", help="Name to give it; the repository's when left out")
    to: str | None = opt("--to", help="Folder on another disk", parse=parse_path, metavar="FOLDER")
    workers: int = opt("--workers", help="Files fetched at once", default=WORKERS, low=1, high=64)
    dry_run: bool = opt("--dry-run", help="Show what would be fetched, and stop", default=False)


@dataclass(frozen=True, slots=True)
class SearchOptions:
    text: str | None = opt(help="Words of the model's name", metavar="TEXT")
    limit: int = opt("--limit", help="Results at the most", default=20, low=1, high=100)


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    name: str | None = opt(help="Name of the model in `kt model list`", metavar="NAME")
    repair: bool = opt("--repair", help="Fetch again what is wrong", default=False)


@takes(PullOptions)
def pull(options: PullOptions, ctx: Context) -> None:
    """Fetch a model; goes on where an interrupted pull stopped, and verifies every byte."""
    name = need(ctx, "model", options.model, "Which model?")
    if name == "demo":
        _make_demo(ctx)
        return
    hub: Hub = options.hub or ctx.settings.get("hub.name").value  # type: ignore[assignment]
    found = prepare(client(hub), _store(ctx), _wanted(options, name, hub))
    _announce(ctx, found)
    _forecast(ctx, found.listing.repo)
    if options.dry_run:
        ctx.out.result("model.pull", _data(found, 0.0), _file_table(found))
        return
    if found.to_fetch and ctx.may_ask and not ctx.confirm("Fetch it?"):
        raise KtError("nothing was fetched")
    seconds = _run(ctx, found)
    ctx.out.result("model.pull", _data(found, seconds), f"{found.name} is in {found.folder}")


def fetch(name: str, ctx: Context) -> None:
    """Pulls a known model or OWNER/NAME from the hub of the settings, all files, without asking."""
    hub: Hub = ctx.settings.get("hub.name").value
    found = prepare(client(hub), _store(ctx), _wanted(PullOptions(), name, hub))
    _announce(ctx, found)
    _run(ctx, found)


def _make_demo(ctx: Context) -> None:
    from kt_cli.catalog import demo

    with progress(ctx.out, "demo") as show:
        path = str(demo.ensure(ctx.home, show))
    ctx.out.result("model.pull", {"name": "demo", "path": path}, f"demo is in {path}")


def _store(ctx: Context) -> Store:
    return Store(ctx.home / "models")


def _wanted(options: PullOptions, name: str, hub: str) -> Wanted:
    return Wanted(
        _repository(name, hub),
        options.revision or "",
        options.include or (),
        options.exclude or (),
        options.name or "",
        Path(options.to) if options.to else None,
        options.workers,
    )


def _repository(name: str, hub: str) -> str:
    """OWNER/NAME as it is, else the repository of a known model or of its variant."""
    if "/" in name:
        return name
    from kt_cli import catalog
    from kt_cli.catalog.names import lookup, not_found

    presets = catalog.load_presets()
    found = lookup(name, presets)
    if found is None:
        raise not_found(name, presets)
    preset, variant = found
    repo = variant.repo if variant else preset.repos.get(hub, "")
    if not repo:
        raise NotFoundError(f"{preset.name} has no repository on {hub}", "", "name OWNER/NAME")
    return repo


def _announce(ctx: Context, found: Pull) -> None:
    listing, count = found.listing, len(found.listing.files)
    text = f"{listing.repo} at {listing.revision[:12]}: {count} files, {human_bytes(listing.bytes)}"
    ctx.out.note(text)
    if found.have:
        left = human_bytes(found.to_fetch)
        ctx.out.note(f"{human_bytes(found.have)} are here already, {left} to fetch")


def _forecast(ctx: Context, repo: str) -> None:
    """Says before the download whether the model would run here; never a reason to stop it."""
    from kt_cli import probe
    from kt_cli.workflow.models import find_model
    from kt_cli.workflow.plan import plan_for

    try:
        model = find_model(repo, ctx)
        options = RunOptions(model=repo)
        plan = plan_for(options, ctx, probe.machine(home=ctx.home), model).plan
    except KtError as error:
        ctx.out.note(f"whether it fits is not known: {error.what}")
        return
    if plan.fits:
        ctx.out.note(f"it runs here: `kt plan {repo}` says how")
    for problem in plan.problems:
        if problem.severity == "error":
            ctx.out.warn(f"{problem.what}; `kt plan {repo}` names ways out")


def _run(ctx: Context, found: Pull) -> float:
    total = max(1, found.listing.bytes)
    start = time.monotonic()
    with progress(ctx.out, found.name) as show:

        def tell(here: int) -> None:
            rate = (here - found.have) / max(1e-3, time.monotonic() - start)
            show(f"{human_bytes(here)}, {human_bytes(int(rate))}/s", here / total)

        found.run(tell)
    return time.monotonic() - start


def _data(found: Pull, seconds: float) -> dict[str, object]:
    return {
        "name": found.name,
        "path": str(found.folder),
        "repo": found.listing.repo,
        "revision": found.listing.revision,
        "files": len(found.listing.files),
        "bytes": found.listing.bytes,
        "fetched": found.to_fetch if seconds else 0,
        "seconds": round(seconds, 3),
    }


def _file_table(found: Pull) -> RenderableType:
    return table(["file", "size>"], [[f.path, human_bytes(f.size)] for f in found.listing.files])


@takes(SearchOptions)
def search(options: SearchOptions, ctx: Context) -> None:
    """Search Hugging Face for models."""
    text = need(ctx, "text", options.text, "Search for?")
    found = client().search(text, options.limit)
    rows = [[str(e.get("id", "")), f"{e.get('downloads', 0)}", _gate(e)] for e in found]
    data = {"models": [{"id": r[0], "downloads": int(r[1]), "gated": bool(r[2])} for r in rows]}
    shown = table(["repository", "downloads>", ""], rows) if rows else "nothing was found"
    ctx.out.result("model.search", data, shown)


def _gate(entry: dict[str, object]) -> str:
    return "gated" if entry.get("gated") else ""


@takes(VerifyOptions)
def verify(options: VerifyOptions, ctx: Context) -> None:
    """Read every byte of a model and compare checksums; --repair fetches what is wrong."""
    entry = _store(ctx).entry(need(ctx, "name", options.name, "Which model?"))
    folder = Path(entry.path)
    known = manifest.read(folder)
    if known is None and sums.read(folder) is not None:
        _verify_made(ctx, entry.name, folder)
        return
    if known is None:
        why = "it was not pulled by kt, so nothing says what its checksums should be"
        raise NotFoundError(f"{entry.name} has no checksums", why, "pull it with `kt model pull`")
    faults = _verified(ctx, entry.name, folder, known)
    data = {"name": entry.name, "faults": faults}
    if faults and options.repair:
        _run(ctx, prepare(client(known.listing.hub), _store(ctx), _again(entry.name, known)))
        ctx.out.result("model.verify", {**data, "repaired": True}, f"{entry.name} is whole again")
    elif faults:
        lines = "; ".join(f"{fault.path} {fault.why}" for fault in faults)
        fix = f"run `kt model verify {entry.name} --repair`"
        raise TransferError(f"{entry.name} is damaged", lines, fix)
    else:
        ctx.out.result("model.verify", data, f"{entry.name} is whole")


def _verify_made(ctx: Context, name: str, folder: Path) -> None:
    """A model that was made here, such as the demo."""
    wrong = sums.Guard(folder).wrong()
    if wrong:
        raise TransferError(f"{name} is damaged", ", ".join(wrong), f"`kt model rm {name}`")
    ctx.out.result("model.verify", {"name": name, "faults": ()}, f"{name} is whole")


def _verified(ctx: Context, name: str, folder: Path, known: manifest.Manifest) -> tuple[Fault, ...]:
    total, read = max(1, known.listing.bytes), 0
    with progress(ctx.out, name) as show:

        def tell(path: str, size: int) -> None:
            nonlocal read
            read += size
            show(path, read / total)

        faults, good = verify_files(folder, known, tell)
    manifest.write(folder, good)
    return faults


def _again(name: str, known: manifest.Manifest) -> Wanted:
    return Wanted(known.listing.repo, known.listing.revision, name=name)
