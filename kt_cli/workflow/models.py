"""A model by what a person calls it: here, known, or on a hub and read by its headers alone."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from kt_cli.core.model import Model
from kt_cli.errors import NotFoundError, TransferError
from kt_cli.workflow.context import Context

_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def find_model(name: str, ctx: Context) -> Model:
    """OWNER/NAME that is neither here nor known is described by a few range requests.

    Raises NotFoundError, AuthError or TransferError.
    """
    from kt_cli import catalog

    try:
        return catalog.find(name, ctx.home)
    except NotFoundError:
        if not _REPOSITORY.fullmatch(name) or Path(name).exists():
            raise
    return _pulled(name, ctx.home) or _remote(name, ctx)


def _pulled(repo: str, home: Path) -> Model | None:
    from kt_cli import catalog
    from kt_cli.hub.store import Store

    entries = Store(home / "models").entries()
    name = next((e.name for e in entries if e.repo == repo), None)
    return replace(catalog.find(name, home), repo=repo) if name else None


def _remote(repo: str, ctx: Context) -> Model:
    from kt_cli.catalog.remote_files import remote
    from kt_cli.hub.client import client

    if ctx.settings.get("hub.name").value != "huggingface":
        why = "headers are read from Hugging Face only"
        raise NotFoundError(f"{repo} is not on this machine", why, f"`kt model pull {repo}`")
    hub = client()
    if hub.offline:
        why = "HF_HUB_OFFLINE is set, so the hub is not asked"
        raise TransferError(f"{repo} is not on this machine", why, "unset it, or give a folder")
    ctx.out.note(f"reading the headers of {repo} at {hub.endpoint}")
    return remote(repo, endpoint=hub.endpoint, token=hub.token)
