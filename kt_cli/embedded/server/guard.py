"""What stands before the routes: the kind of client, the API key, the kind and size of a body.

Without a key the server trusts every program on this machine, but not the pages of other sites that
a browser on this machine shows. Such a page is known by the name it used for the server (`Host`,
after DNS rebinding), by `Origin` and by `Sec-Fetch-Site`; programs do not send the last two. With a
key none of this is needed: no page knows the key, and the server may have any name.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request

from kt_cli.core.hosts import is_loopback
from kt_cli.embedded.server.errors import ApiError, Json, bad_request

OPEN_PATHS = ("/health",)
WEB_SCHEMES = ("http", "https")
JSON_TYPE = "application/json"

Headers = Mapping[bytes, bytes]


class Guard:
    """ASGI middleware; with `key` every path but `/health` needs `Authorization: Bearer KEY`."""

    def __init__(self, app: Callable[..., Awaitable[None]], key: str) -> None:
        self._app = app
        self._key = key.encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = dict(scope["headers"])
        error = http_error(scope["http_version"], headers) or self._refusal(scope, headers)
        if error is None:
            return await self._app(scope, receive, send)
        response = Json(error.body(), error.status, headers=error.headers)
        await response(scope, receive, send)

    def _refusal(self, scope: Any, headers: Headers) -> ApiError | None:
        if not self._key:
            return host_error(headers) or page_error(scope["method"], headers)
        if scope["path"] in OPEN_PATHS:
            return None
        return key_error(headers.get(b"authorization", b""), self._key)


def http_error(version: str, headers: Headers) -> ApiError | None:
    if version not in ("1.0", "1.1"):
        message = f"HTTP {version} is not spoken here, use HTTP 1.1"
        return ApiError(400, message, code="invalid_http_request", close=True)
    if b"content-length" in headers and b"transfer-encoding" in headers:
        # Whoever stands between may have read the other one (RFC 9112, section 6.1).
        message = "A request has either Content-Length or Transfer-Encoding, not both"
        return ApiError(400, message, code="invalid_http_request", close=True)
    return None


def host_error(headers: Headers) -> ApiError | None:
    """A program that sends no `Host` is no browser."""
    host = headers.get(b"host", b"").decode("latin-1")
    if not host or is_loopback(host_name(host)):
        return None
    message = (
        f"The host '{host}' is not a name of this machine: without an API key the server only "
        "answers to localhost and 127.0.0.1. Use one of these, or start it with `--api-key`"
    )
    return ApiError(403, message, code="host_not_allowed")


def page_error(method: str, headers: Headers) -> ApiError | None:
    """For requests that a browser sends on behalf of another site's page."""
    origin = headers.get(b"origin", b"").decode("latin-1")
    if origin and not origin_allowed(origin, headers.get(b"host", b"").decode("latin-1")):
        who = f"The page '{origin}'"
    elif _of_another_site(method, headers):
        who = "A page of another site"
    else:
        return None
    message = f"{who} may not use this server: without an API key it answers to no other site"
    return ApiError(403, message, code="origin_not_allowed")


def origin_allowed(origin: str, host: str) -> bool:
    """The server's own pages, and programs that are no pages, such as `vscode-webview://`."""
    scheme, separator, address = origin.partition("://")
    if not separator:
        return False  # "null": a sandboxed frame or a file
    return scheme.lower() not in WEB_SCHEMES or address.lower() == host.lower()


def _of_another_site(method: str, headers: Headers) -> bool:
    if headers.get(b"sec-fetch-site", b"") not in (b"cross-site", b"same-site"):
        return False
    follows_link = headers.get(b"sec-fetch-mode") == b"navigate" and method in ("GET", "HEAD")
    return not follows_link  # what a person opens, the page that linked it cannot read


def host_name(host: str) -> str:
    """Without port and brackets; empty where it cannot be told."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
    return name.removesuffix(".")


def key_error(header: bytes, key: bytes) -> ApiError | None:
    scheme, _, given = header.partition(b" ")
    if scheme.lower() != b"bearer" or not given.strip():
        message = "You didn't provide an API key: send it as 'Authorization: Bearer KEY'"
        return ApiError(401, message, code="missing_api_key")
    if not hmac.compare_digest(given.strip(), key):
        return ApiError(401, "Incorrect API key provided", code="invalid_api_key")
    return None


async def read_body(request: Request, limit: int) -> bytes:
    """The body of a JSON request, refused as soon as it is known to be longer than `limit`."""
    # Browsers send other kinds, or none, across sites without asking: they are not taken as JSON.
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if kind.lower() != JSON_TYPE:
        given = f"Unsupported content type '{kind}'" if kind else "No content type"
        message = f"{given}: send the header 'Content-Type: {JSON_TYPE}'"
        raise ApiError(415, message, code="unsupported_content_type")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiError(415, "The body must not be compressed", code="unsupported_content_encoding")
    announced = request.headers.get("content-length", "0")
    if not announced.isdigit():
        raise bad_request("Invalid Content-Length header")
    message = f"The request body exceeds {limit} bytes"
    too_large = ApiError(413, message, code="body_too_large", close=True)
    if int(announced) > limit:
        raise too_large
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise too_large
        parts.append(part)
    return b"".join(parts)
