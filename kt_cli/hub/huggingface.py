"""huggingface_hub, as kt uses it: what a repository holds, searching, and what its errors mean.

The library is imported when it is used. It speaks through kt's own HTTP client, so that proxies and
certificates count here as everywhere, and it prints nothing.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

from kt_cli import __version__, network
from kt_cli.errors import KtError, NotFoundError, TransferError
from kt_cli.hub.check import Again, Wrong
from kt_cli.hub.client import RETRIED, TIMEOUT_S, Client, refused, unreachable
from kt_cli.hub.listing import Listing, from_huggingface, odd_answer

CHUNK = 256 * 1024
"""Bytes after which the library writes, and so what a kill loses and how often a pull can be
stopped; its own 10 MiB take a slow line minutes."""


@cache
def prepare() -> None:
    """Sets the library up for this process; before its first use."""
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.utils import disable_progress_bars, logging

    constants.DOWNLOAD_CHUNK_SIZE = CHUNK

    http = http_package()
    huggingface_hub.set_client_factory(
        lambda: network.client(http=http, follow_redirects=True, timeout=None)
    )
    disable_progress_bars()
    logging.set_verbosity_error()


def http_package() -> Any:
    """The HTTP package of the library: httpx up to 1.x, httpx2 from 2.0 on."""
    return sys.modules[_http_error().__module__.partition(".")[0]]


@cache
def _http_error() -> type[Exception]:
    """What all errors of that package are."""
    from huggingface_hub.errors import HfHubHTTPError

    found = (base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")
    return next(found)  # type: ignore[no-any-return]


def api(client: Client) -> Any:
    """`HfApi` with the endpoint and the token of `client`."""
    prepare()
    from huggingface_hub import HfApi

    return HfApi(
        endpoint=client.endpoint,
        token=client.token or False,
        library_name="kt",
        library_version=__version__,
    )


def listing(client: Client, repo: str, revision: str) -> Listing:
    hub = api(client)
    try:
        info = hub.model_info(
            repo, revision=revision or None, files_metadata=True, timeout=TIMEOUT_S
        )
    except (KeyError, TypeError) as error:
        raise odd_answer(repo, error) from error
    except (OSError, ValueError, _http_error()) as error:
        raise _refusal(error, client, repo) from error
    return from_huggingface(repo, info)


def search(client: Client, text: str, limit: int) -> list[dict[str, Any]]:
    hub = api(client)
    try:
        found = hub.list_models(
            search=text, limit=limit, sort="downloads", filter="text-generation"
        )
        return [{"id": m.id, "downloads": m.downloads or 0, "gated": m.gated} for m in found]
    except (OSError, ValueError, KeyError, TypeError, _http_error()) as error:
        raise _refusal(error, client, text) from error


@cache
def errors() -> tuple[type[Exception], ...]:
    """What the library raises while it fetches a file."""
    from huggingface_hub.errors import XetDownloadError

    return OSError, ValueError, RuntimeError, XetDownloadError, _http_error()


def meaning(error: Exception, client: Client, what: str) -> Exception:
    """An error of the library while it fetched a file: KtError, Again, Wrong, or OSError (disk)."""
    cause = _cause(error)
    status = _status(cause)
    if status in RETRIED:
        return Again(f"HTTP {status}", _wait_s(cause))
    if status == 416:
        return Wrong("the server refuses to go on from the bytes at hand")
    if status:
        return _refusal(cause, client, what)
    if isinstance(cause, KtError | Again | Wrong):
        return cause
    again = (_http_error(), ConnectionError, RuntimeError)
    if isinstance(cause, again) or type(cause).__name__ == "XetDownloadError":
        return Again(f"{type(cause).__name__}: {cause}")
    if isinstance(cause, OSError) and cause.errno is None and "size" in str(cause):
        return Wrong(str(cause).splitlines()[0])
    if isinstance(cause, OSError) and cause.errno is not None:
        return cause
    return _refusal(cause, client, what)


def _cause(error: Exception) -> Exception:
    """What made the library say that a file cannot be found anywhere."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    cause = error.__cause__
    hidden = isinstance(error, LocalEntryNotFoundError | ValueError) and not _status(error)
    return cause if hidden and isinstance(cause, Exception) else error


def _status(error: Exception) -> int:
    return int(getattr(getattr(error, "response", None), "status_code", 0))


def _header(error: Exception, name: str) -> str:
    return str(getattr(error, "response").headers.get(name, ""))  # noqa: B009


def _wait_s(error: Exception) -> float:
    after = _header(error, "retry-after")
    return min(60.0, float(after)) if after.isdigit() else 0.0


def _refusal(error: Exception, client: Client, what: str) -> KtError:
    if isinstance(error, KtError):
        return error
    status = _status(error)
    if status:
        said = _header(error, "x-error-code").lower()
        if said == "reponotfound":
            why = "there is no such repository, or it is private and needs a token that may read it"
            return NotFoundError(f"{what} was not found on the hub", why, "check the name")
        return refused(status, what, bool(client.token), "gated" in said)
    if isinstance(error, (_http_error(), ConnectionError)):
        return unreachable(client.endpoint, error)
    if isinstance(error, ValueError) and not isinstance(error, OSError):
        return TransferError(f"{client.endpoint} did not answer with JSON", str(error))
    why = str(error).partition("\n")[0]
    return TransferError(
        f"{client.endpoint} does not answer as a hub does", why, "check HF_ENDPOINT"
    )
