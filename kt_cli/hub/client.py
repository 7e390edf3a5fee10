"""Which hub is spoken with, and what its refusals mean, with errors that name the cure.

Hugging Face is spoken with through huggingface_hub (`hub.huggingface`), ModelScope from here.

Endpoints and tokens are the ones people have: HF_ENDPOINT, HF_TOKEN (or huggingface_hub's stored
token), MODELSCOPE_ENDPOINT, MODELSCOPE_API_TOKEN, HF_HUB_OFFLINE.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from kt_cli import __version__, environment, network
from kt_cli.errors import AuthError, KtError, NotFoundError, TransferError
from kt_cli.hub.listing import Hub, Listing, check_repo, from_modelscope

if TYPE_CHECKING:
    import httpx

TIMEOUT_S = 30.0
RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP statuses that another attempt may not meet."""


@dataclass(frozen=True, slots=True)
class Client:
    hub: Hub
    endpoint: str
    token: str = ""
    offline: bool = False

    def listing(self, repo: str, revision: str = "") -> Listing:
        """Raises NotFoundError, AuthError or TransferError."""
        check_repo(repo)
        self.require_online()
        if self.hub == "huggingface":
            from kt_cli.hub import huggingface

            return huggingface.listing(self, repo, revision)
        branch = revision or "master"
        url = f"/api/v1/models/{repo}/repo/files?Revision={quote(branch)}&Recursive=true"
        with self.session() as session:
            return from_modelscope(repo, branch, self._json(session, url, repo))

    def search(self, text: str, limit: int = 20) -> list[dict[str, Any]]:
        """Repositories by name: id, downloads, gated. Hugging Face only."""
        from kt_cli.hub import huggingface

        self.require_online()
        return huggingface.search(self, text, limit)

    def require_online(self) -> None:
        """Raises TransferError when the user is offline on purpose."""
        if self.offline:
            raise TransferError(
                "downloads are switched off", "HF_HUB_OFFLINE is set", "unset it to download"
            )

    def file_url(self, listing: Listing, path: str) -> str:
        """ModelScope's address of a file."""
        query = f"Revision={quote(listing.revision)}&FilePath={quote(path)}"
        return f"{self.endpoint}/api/v1/models/{listing.repo}/repo?{query}"

    def session(self) -> httpx.Client:
        headers = {"User-Agent": f"kt/{__version__}"}
        return network.client(
            base_url=self.endpoint, headers=headers, timeout=TIMEOUT_S, follow_redirects=False
        )

    def authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def _json(self, session: httpx.Client, url: str, repo: str) -> Any:
        import httpx

        try:
            response = session.get(url, headers=self.authorization(), follow_redirects=True)
        except httpx.HTTPError as error:
            raise unreachable(self.endpoint, error) from error
        if response.status_code != 200:
            gated = "gated" in response.headers.get("x-error-code", "").lower()
            raise refused(response.status_code, repo, bool(self.token), gated)
        try:
            return response.json()
        except ValueError as error:
            raise TransferError(f"{self.endpoint} did not answer with JSON", str(error)) from error


def client(hub: Hub = "huggingface", environ: Mapping[str, str] = os.environ) -> Client:
    """Raises UsageError that names a variable which is no address or no token."""
    offline = environment.flag("HF_HUB_OFFLINE", environ)
    if hub == "modelscope":
        endpoint = environment.url("MODELSCOPE_ENDPOINT", "https://www.modelscope.cn", environ)
        return Client(hub, endpoint, environment.secret("MODELSCOPE_API_TOKEN", environ), offline)
    endpoint = environment.url("HF_ENDPOINT", "https://huggingface.co", environ)
    token = environment.secret("HF_TOKEN", environ) or _stored_token()
    return Client(hub, endpoint, token, offline)


def _stored_token() -> str:
    from huggingface_hub import get_token

    return environment.clean_secret(get_token() or "", "the token that `hf auth login` stored")


def refused(status: int, what: str, had_token: bool, gated: bool = False) -> KtError:
    """An HTTP status as an error that names the cure."""
    if status == 401 and not gated:
        why = "the token is wrong or has expired" if had_token else "no token was sent"
        return AuthError(f"the hub refuses {what}", why, "run `hf auth login` or set HF_TOKEN")
    if status in (401, 403):
        fix = "accept the terms on the model's page, then try again with your token"
        return AuthError(f"{what} is gated", "the hub wants its terms to be accepted", fix)
    if status == 404:
        why = "there is no such repository, revision or file, or it is private"
        return NotFoundError(f"{what} was not found on the hub", why, "check the name")
    if status == 429:
        return TransferError(f"the hub limits requests for {what}", "HTTP 429", "try again later")
    return TransferError(f"the hub failed on {what}", f"HTTP {status}", "try again")


def unreachable(endpoint: str, error: Exception) -> TransferError:
    why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return TransferError(f"{endpoint} cannot be reached", why, "check the network or HF_ENDPOINT")
