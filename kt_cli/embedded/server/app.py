"""The routes of the OpenAI-compatible server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from kt_cli.embedded.api import Sampling
from kt_cli.embedded.server.answer import CLIENT_GONE, EventStream, Exchange, answer_whole
from kt_cli.embedded.server.errors import (
    ApiError,
    Json,
    from_exception,
    model_not_found,
    unknown_route,
)
from kt_cli.embedded.server.fields import parse_body
from kt_cli.embedded.server.guard import Guard, read_body
from kt_cli.embedded.server.metrics import CONTENT_TYPE
from kt_cli.embedded.server.schema import (
    ChatRequest,
    CompletionRequest,
    parse_chat,
    parse_completion,
)
from kt_cli.embedded.server.state import State
from kt_cli.embedded.server.submit import submit

Parse = Callable[[Mapping[str, Any], Sampling], ChatRequest | CompletionRequest]
T = TypeVar("T")
SMALL_BODY = 2**16
Endpoint = Callable[[Request], Awaitable[Any]]


def create_app(state: State) -> Any:
    """An ASGI application over `state`; CORS stays off."""
    routes = [
        Route("/health", _health(state), methods=["GET"]),
        Route("/metrics", _metrics(state), methods=["GET"]),
        Route("/v1/models", _models(state), methods=["GET"]),
        Route("/v1/models/{name:path}", _model(state), methods=["GET"]),
        Route("/v1/chat/completions", _generate(state, "chat", parse_chat), methods=["POST"]),
        Route(
            "/v1/completions", _generate(state, "completions", parse_completion), methods=["POST"]
        ),
    ]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Guard, key=state.api_key)],
        exception_handlers={
            ApiError: _on_api_error,
            HTTPException: _on_http_error,
            Exception: _on_exception,
        },
    )
    # A redirect would be to wherever the `Host` of the request says.
    app.router.redirect_slashes = False
    return app


def _generate(state: State, name: str, parse: Parse) -> Endpoint:
    async def answer(request: Request) -> Any:
        raw = await read_body(request, state.limits.body_bytes)
        parsed = await _off_loop(raw, lambda: parse(parse_body(raw), state.defaults))
        exchange = Exchange(state, parsed, await submit(state, parsed))
        if parsed.stream:
            return EventStream(exchange, name)
        return await answer_whole(exchange, request.receive)

    async def endpoint(request: Request) -> Any:
        try:
            response = await answer(request)
        except ClientDisconnect:
            response = Response(status_code=CLIENT_GONE)
        except Exception as error:
            response = error_response(state.failure(error))
        if not isinstance(response, EventStream):
            state.metrics.count(name, response.status_code)
        return response

    return endpoint


async def _off_loop(raw: bytes, read: Callable[[], T]) -> T:
    """Megabytes take seconds to check, in which others want to be answered."""
    return read() if len(raw) < SMALL_BODY else await asyncio.to_thread(read)


def _health(state: State) -> Endpoint:
    async def endpoint(_: Request) -> Any:
        status, body = state.health()
        return Json(body, status)

    return endpoint


def _metrics(state: State) -> Endpoint:
    async def endpoint(_: Request) -> Any:
        return PlainTextResponse(state.render_metrics(), media_type=CONTENT_TYPE)

    return endpoint


def _models(state: State) -> Endpoint:
    async def endpoint(_: Request) -> Any:
        return Json({"object": "list", "data": [_describe(state)]})

    return endpoint


def _model(state: State) -> Endpoint:
    async def endpoint(request: Request) -> Any:
        name = request.path_params["name"]
        if name != state.model_name:
            raise model_not_found(name)
        return Json(_describe(state))

    return endpoint


def _describe(state: State) -> dict[str, Any]:
    return {
        "id": state.model_name,
        "object": "model",
        "created": state.created,
        "owned_by": "kt",
        "max_model_len": state.engine.context,
    }


def error_response(error: ApiError) -> Any:
    return Json(error.body(), error.status, headers=error.headers)


async def _on_api_error(_: Request, error: ApiError) -> Any:
    return error_response(error)


async def _on_exception(_: Request, error: Exception) -> Any:
    return error_response(from_exception(error))


async def _on_http_error(request: Request, error: Any) -> Any:
    if error.status_code == 404:
        return error_response(unknown_route(request.method, request.scope["path"]))
    if error.status_code == 405:
        message = f"Not allowed to {request.method} on {request.scope['path']}"
        return error_response(ApiError(405, message, code="method_not_allowed"))
    return error_response(ApiError(error.status_code, str(error.detail)))
