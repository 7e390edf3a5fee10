"""What stands before the routes: the API key and the size and kind of a body."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from kt_cli.embedded.server.errors import ApiError, bad_request

OPEN_PATHS = ("/health",)


class KeyGuard:
    """ASGI middleware: every path but `/health` needs `Authorization: Bearer KEY`."""

    def __init__(self, app: Callable[..., Awaitable[None]], key: str) -> None:
        self._app = app
        self._key = key.encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if not self._key or scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            return await self._app(scope, receive, send)
        error = self._refusal(dict(scope["headers"]).get(b"authorization", b""))
        if error is None:
            return await self._app(scope, receive, send)
        response = JSONResponse(error.body(), error.status, headers=error.headers)
        await response(scope, receive, send)

    def _refusal(self, header: bytes) -> ApiError | None:
        scheme, _, given = header.partition(b" ")
        if scheme.lower() != b"bearer" or not given.strip():
            message = "You didn't provide an API key: send it as 'Authorization: Bearer KEY'"
            return ApiError(401, message, code="missing_api_key")
        if not hmac.compare_digest(given.strip(), self._key):
            return ApiError(401, "Incorrect API key provided", code="invalid_api_key")
        return None


async def read_body(request: Request, limit: int) -> bytes:
    """The body of a JSON request, refused as soon as it is known to be longer than `limit`."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip()
    if kind.lower() != "application/json":
        # Browsers send other kinds across sites without asking, so they are not taken as JSON.
        message = f"Unsupported content type '{kind}', send application/json"
        raise ApiError(415, message, code="unsupported_content_type")
    announced = request.headers.get("content-length", "0")
    if not announced.isdigit():
        raise bad_request("Invalid Content-Length header")
    too_large = ApiError(413, f"The request body exceeds {limit} bytes", code="body_too_large")
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
