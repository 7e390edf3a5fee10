"""A model in the user's Hugging Face cache, used in place under its repository's name."""

from __future__ import annotations

from dataclasses import replace

from kt_cli import hubcache
from kt_cli.catalog.local import read
from kt_cli.core.model import Model
from kt_cli.errors import KtError, NotFoundError, TransferError
from kt_cli.modelfiles import models_at


def cached(repo: str) -> Model | None:
    """None where the cache has no weights of it. Raises TransferError where files are missing."""
    folder = hubcache.find(repo)
    found = models_at(folder) if folder else ()
    if not folder or not found:
        return None
    if len(found) > 1:
        names = ", ".join(model.path.name for model in found[:4])
        fix = f"name one of them, such as {found[0].path}"
        raise KtError(f"{repo} in the Hugging Face cache holds several models", names, fix)
    try:
        model = read(folder)
    except NotFoundError as error:
        fix = f"`kt model pull {repo}` fetches the rest"
        what = f"{repo} is in the Hugging Face cache, but not whole"
        raise TransferError(what, error.why, fix) from error
    return replace(model, name=repo.rpartition("/")[2], repo=repo)
