"""Errors in the shape of the OpenAI API: status, message, type, param and code."""

from __future__ import annotations

from typing import Any

from kt_cli.errors import KtError, NotReadyError


class ApiError(Exception):
    """An answer other than success; `retry_after` (seconds) becomes the header of that name."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        headers = {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
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
