"""A model by what a person calls it: here, known, or on a hub and read by its headers alone."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from kt_cli.core.model import Model
from kt_cli.errors import KtError, NotFoundError, TransferError
from kt_cli.workflow.context import Context

_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def find_model(name: str, ctx: Context) -> Model:
    """OWNER/NAME that was pulled or is in the user's Hugging Face cache is read there; any other
    is described by a few range requests.

    Raises NotFoundError, AuthError or TransferError.
    """
    from kt_cli import catalog

    try:
        return catalog.find(name, ctx.home)
    except NotFoundError:
        if not _REPOSITORY.fullmatch(name) or Path(name).exists():
            raise
    return _pulled(name, ctx.home) or catalog.cached(name) or _remote(name, ctx)


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


def is_known(folder: Path) -> bool:
    """Whether the model of a folder is of a kind that kt reads; only its configuration is looked
    at."""
    from kt_cli import catalog
    from kt_cli.documents import read_json
    from kt_cli.modelfiles import CONFIG, models_at

    if any(model.form == "gguf" for model in models_at(folder)):
        return True
    try:
        catalog.from_config(read_json(folder / CONFIG).values, folder.name)
    except KtError:
        return False
    return True
