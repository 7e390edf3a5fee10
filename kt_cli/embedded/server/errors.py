"""Errors in the shape of the OpenAI API: status, message, type, param and code."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import JSONResponse

from kt_cli.errors import KtError, NotReadyError

MAX_MESSAGE = 1000
MAX_PARAM = 200
"""Characters of a client's own words that an error repeats."""


def printable(text: str, most: int) -> str:
    """No control characters and no lone surrogates, and the middle left out beyond `most`."""
    if len(text) > most:
        text = f"{text[: most * 2 // 3]} […] {text[-most // 3 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def to_json(body: object) -> bytes:
    """UTF-8; a lone surrogate, which a folder's name may have, stays the escape that JSON has."""
    text = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")


class Json(JSONResponse):  # type: ignore[misc]
    def render(self, content: object) -> bytes:
        return to_json(content)


class ApiError(Exception):
    """An answer other than success.

    `retry_after` (seconds) becomes the header of that name, `close` ends the connection.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = printable(message, MAX_MESSAGE)
        self.param = None if param is None else printable(param, MAX_PARAM)
        self.code = code
        self.retry_after = retry_after
        self.close = close

    @property
    def headers(self) -> dict[str, str]:
        headers = {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        if self.close:
            headers["Connection"] = "close"
        return headers

    def body(self) -> dict[str, Any]:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        fields = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": fields}


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    return ApiError(400, message, param=param, code=code)


def unsupported(what: str, param: str) -> ApiError:
    """A request that is valid for OpenAI and that this server cannot answer."""
    return bad_request(f"{what} is not supported by this server", param, "unsupported_parameter")


def context_exceeded(message: str, param: str) -> ApiError:
    return bad_request(message, param, "context_length_exceeded")


def model_not_found(name: str) -> ApiError:
    message = f"The model '{name}' does not exist on this server"
    return ApiError(404, message, param="model", code="model_not_found")


def unknown_route(method: str, path: str) -> ApiError:
    return ApiError(404, f"Unknown request URL: {method} {path}", code="unknown_url")


def loading() -> ApiError:
    return ApiError(503, "The model is still loading", code="model_loading", retry_after=2)


def shutting_down() -> ApiError:
    return ApiError(503, "The server is shutting down", code="server_shutting_down")


def too_many_choices(count: int, limit: int, param: str) -> ApiError:
    message = f"The request asks for {count} answers, but the server holds at most {limit} at once"
    return bad_request(message, param, "too_many_choices")


def overloaded(limit: int) -> ApiError:
    message = f"The server already holds {limit} requests, try again later"
    return ApiError(503, message, code="server_overloaded", retry_after=1)


def from_exception(error: BaseException) -> ApiError:
    """What a client reads when the engine or the server itself failed."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, KtError):
        text = ": ".join(filter(None, (error.what, error.why)))
        status = 503 if isinstance(error, NotReadyError) else 500
        return ApiError(status, text, code="engine_error")
    return ApiError(500, f"Internal error: {type(error).__name__}", code="internal_error")
