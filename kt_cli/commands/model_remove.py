"""`kt model rm`: a model's entry, and with --cache its files in the Hugging Face cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kt_cli import hubcache
from kt_cli.command import takes
from kt_cli.commands.model_packs import bytes_of, packs_of
from kt_cli.errors import UsageError
from kt_cli.hub.store import Entry, Store, cached_entries
from kt_cli.opts import opt
from kt_cli.ui import human_bytes
from kt_cli.weights.packs import remove as remove_pack
from kt_cli.workflow.context import Context, need


@dataclass(frozen=True, slots=True)
class RemoveOptions:
    name: str | None = opt(help="Name of the model in `kt model list`", metavar="NAME")
    cache: bool = opt(
        "--cache", help="Delete its files in the Hugging Face cache too", default=False
    )


@takes(RemoveOptions)
def remove(options: RemoveOptions, ctx: Context) -> None:
    """Remove a model; a linked one loses its entry only, its files stay.

    The files of a model that lies in the Hugging Face cache, which other programs may use, stay
    there unless --cache is given.
    """
    store = Store(ctx.home / "models")
    entry = _entry(store, need(ctx, "name", options.name, "Which model?"))
    _require_sense(store, entry, options.cache)
    what, kept = _what(entry, options.cache), packs_of(ctx, entry.path)
    if kept:
        what += f" and {human_bytes(bytes_of(kept))} of packed experts"
    if not ctx.confirm(f"Remove {entry.name} ({what})?"):
        raise UsageError("nothing was removed", f"this removes {what}", "add --yes to confirm")
    if not _only_cached(entry):
        store.remove(entry.name)
    for pack in kept:
        remove_pack(pack)
    freed = hubcache.delete(Path(entry.snapshot)) if options.cache and entry.snapshot else 0
    stay = entry.bytes if entry.snapshot and not options.cache else 0
    data = {"removed": entry, "bytes_in_cache": stay, "bytes_freed_in_cache": freed}
    ctx.out.result("model.rm", data, f"{entry.name} is removed ({what})")
    if stay:
        where = f"`kt model rm {entry.repo} --cache` deletes them"
        ctx.out.note(f"{human_bytes(stay)} stay in the Hugging Face cache; {where}")


def _entry(store: Store, name: str) -> Entry:
    """Of the models folder, or one that is in the cache only. Raises NotFoundError, UsageError."""
    if "/" not in name:
        return store.entry(name)
    entries = store.entries()
    found = next((e for e in cached_entries(entries) if e.name == name), None)
    found = found or next((e for e in entries if e.repo == name), None)
    return found or store.entry(name)


def _only_cached(entry: Entry) -> bool:
    return bool(entry.snapshot) and entry.path == entry.snapshot


def _require_sense(store: Store, entry: Entry, cache: bool) -> None:
    """Raises UsageError where nothing would be removed, or another entry lose its files."""
    if not cache:
        if _only_cached(entry):
            why = "it is in the Hugging Face cache only, which other programs may use"
            raise UsageError(f"{entry.name} was not removed", why, "add --cache to delete it there")
        return
    others = [
        other.name
        for other in store.entries()
        if other.name != entry.name and other.snapshot and other.snapshot == entry.snapshot
    ]
    if others:
        why = f"its files in the Hugging Face cache are those of {', '.join(others)} too"
        raise UsageError(f"{entry.name} was not removed", why, "leave --cache out")


def _what(entry: Entry, cache: bool) -> str:
    if entry.snapshot:
        size = human_bytes(entry.bytes)
        return f"{size} of files in the Hugging Face cache" if cache else "the entry"
    return "the entry" if entry.linked else f"{human_bytes(entry.bytes)} of files"
