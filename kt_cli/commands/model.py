"""`kt model`: the models that are here, and those that can be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kt_cli.command import NoOptions, takes
from kt_cli.commands.model_packs import bytes_of, packs, packs_of
from kt_cli.commands.model_pull import pull, search, verify
from kt_cli.commands.model_remove import remove
from kt_cli.core.model import Model
from kt_cli.errors import UsageError
from kt_cli.hub import store as stores
from kt_cli.hub.store import Entry, Store
from kt_cli.opts import opt, parse_path
from kt_cli.ui import human_bytes, table
from kt_cli.workflow.context import Context, need
from kt_cli.workflow.models import find_model, is_known

if TYPE_CHECKING:
    from rich.console import RenderableType

SUMMARY = "Models: list, pull, verify, add, remove"

cli = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Models: list, pull, verify, add, remove",
)
cli.command("pull")(pull)
cli.command("download", hidden=True)(pull)
cli.command("search")(search)
cli.command("verify")(verify)
cli.command("packs")(packs)
cli.command("rm")(remove)
cli.command("remove", hidden=True)(remove)


@dataclass(frozen=True, slots=True)
class NameOptions:
    name: str | None = opt(help="Name of the model in `kt model list`", metavar="NAME")


@dataclass(frozen=True, slots=True)
class AddOptions:
    path: str | None = opt(
        help="Folder or GGUF file of the model", parse=parse_path, metavar="PATH"
    )
    name: str | None = opt("--name", help="Name to give it; the folder's own when left out")


@dataclass(frozen=True, slots=True)
class ScanOptions:
    path: str | None = opt(help="Folder to look through", parse=parse_path, metavar="FOLDER")
    add: bool = opt("--add", help="Add every model found", default=False)
    depth: int = opt("--depth", help="Folders to go down", default=stores.SCAN_DEPTH, low=1)


@dataclass(frozen=True, slots=True)
class EditOptions(NameOptions):
    rename: str | None = opt("--rename", help="New name")
    path: str | None = opt(
        "--path", help="New place of a linked model", parse=parse_path, metavar="PATH"
    )


def store_of(ctx: Context) -> Store:
    return Store(ctx.home / "models")


@cli.command("list")
@takes(NoOptions)
def list_(options: NoOptions, ctx: Context) -> None:
    """List the models that are here, those on unmounted disks and in the Hugging Face cache too."""
    entries = store_of(ctx).entries()
    cached = tuple(e for e in stores.cached_entries(entries) if is_known(Path(e.path)))
    packed = {e.name: bytes_of(packs_of(ctx, e.path)) for e in (*entries, *cached)}
    data = {"models": entries, "cached": cached, "packed": packed}
    text = "no models yet; `kt model pull OWNER/NAME` or `kt model add PATH`"
    shown = _table((*entries, *cached), packed) if entries or cached else text
    ctx.out.result("model.list", data, shown)


def _table(entries: tuple[Entry, ...], packed: Mapping[str, int]) -> RenderableType:
    """`packed`: bytes of packed experts that are kept, by name."""
    rows = [
        [e.name, human_bytes(e.bytes), e.state, _origin(e), _note(e, packed[e.name])]
        for e in entries
    ]
    return table(["name", "size>", "state", "from", "note"], rows)


def _origin(entry: Entry) -> str:
    return entry.repo or ("link" if entry.linked else "")


def _note(entry: Entry, packed: int) -> str:
    kept = f"and {human_bytes(packed)} of packed experts" if packed else ""
    cached = "in the Hugging Face cache" if entry.snapshot else ""
    rest = "`kt model pull` fetches the rest" if cached and entry.state == "incomplete" else ""
    return "; ".join(filter(None, (entry.why, rest, cached, kept)))


@cli.command("show")
@takes(NameOptions)
def show(options: NameOptions, ctx: Context) -> None:
    """Show what a model holds: layers, experts, attention, bytes by class."""
    model = find_model(need(ctx, "name", options.name, "Which model?"), ctx)
    ctx.out.result("model.show", model, *_description(model))


def _description(model: Model) -> list[RenderableType]:
    experts, attention = model.experts, model.attention
    facts = [
        f"{model.name}: {model.architecture}, {model.layers} layers, context {model.context}",
        f"  attention  {attention.kind}, {attention.heads} heads, {attention.kv_heads} for KV",
        f"  weights    {human_bytes(model.total_bytes)} {model.quantization.method}"
        + ("" if model.exact else " (computed from the configuration)"),
        f"  parameters {model.total_parameters / 1e9:.2f} G, "
        f"{model.active_parameters / 1e9:.2f} G active per token",
    ]
    if experts:
        facts.insert(
            2, f"  experts    {experts.count}, top-{experts.top_k}, in {len(experts.layers)} layers"
        )
    rows = [[kind, human_bytes(size)] for kind, size in model.bytes.items() if size]
    return [
        *facts,
        *(f"  note       {note}" for note in model.notes),
        table(["class", "size>"], rows),
    ]


@cli.command("add")
@takes(AddOptions)
def add(options: AddOptions, ctx: Context) -> None:
    """Make a model elsewhere on disk known by a name; nothing is copied."""
    source = Path(need(ctx, "path", options.path, "Which folder?")).expanduser()
    entry = store_of(ctx).add(source, options.name or stores.default_name(source))
    ctx.out.result("model.add", entry, f"{entry.name} is {entry.path}")


@cli.command("import")
@takes(AddOptions)
def import_(options: AddOptions, ctx: Context) -> None:
    """Copy a model into the models folder."""
    source = Path(need(ctx, "path", options.path, "Which folder?")).expanduser()
    entry = store_of(ctx).copy(source, options.name or stores.default_name(source))
    text = f"{entry.name} is copied ({human_bytes(entry.bytes)})"
    ctx.out.result("model.import", entry, text)


@cli.command("scan")
@takes(ScanOptions)
def scan(options: ScanOptions, ctx: Context) -> None:
    """Look for models below a folder; --add makes them known."""
    root = Path(need(ctx, "path", options.path, "Which folder?")).expanduser()
    store = store_of(ctx)
    known = {entry.path for entry in store.entries()}
    found = [p for p in stores.scan(root, options.depth) if str(p.resolve()) not in known]
    added = [_add_found(store, path) for path in found] if options.add else []
    data = {"found": [str(p) for p in found], "added": [e.name for e in added]}
    lines = [f"{path}  {human_bytes(stores.tree_bytes(path))}" for path in found]
    ctx.out.result("model.scan", data, *(lines or ["nothing new was found"]))
    if found and not options.add:
        ctx.out.hint("`kt model scan FOLDER --add` makes them known")


def _add_found(store: Store, path: Path) -> Entry:
    base = name = stores.default_name(path)
    taken = {entry.name for entry in store.entries()}
    number = 2
    while name in taken:
        name, number = f"{base}-{number}", number + 1
    return store.add(path, name)


@cli.command("path")
@takes(NameOptions)
def path(options: NameOptions, ctx: Context) -> None:
    """Print a model's folder, or the models folder."""
    store = store_of(ctx)
    place = store.entry(options.name).path if options.name else str(store.folder)
    ctx.out.result("model.path", {"path": place}, place)


@cli.command("edit")
@takes(EditOptions)
def edit(options: EditOptions, ctx: Context) -> None:
    """Rename a model, or tell where a linked one has moved."""
    name, store = need(ctx, "name", options.name, "Which model?"), store_of(ctx)
    if options.rename is None and options.path is None:
        raise UsageError("nothing to change", "", "give --rename or --path")
    entry = store.entry(name)
    if options.path is not None:
        entry = store.repoint(name, Path(options.path).expanduser())
    if options.rename is not None:
        entry = store.rename(name, options.rename)
    ctx.out.result("model.edit", entry, f"{entry.name} is {entry.path}")
