"""What went wrong between client and server, in words."""

from __future__ import annotations

import json
from typing import Any

from kt_cli.errors import AuthError, KtError, NotFoundError, NotReadyError

CONTEXT = "context_length_exceeded"


class LostError(NotReadyError):
    """The answer began and will not end."""

    def __init__(self, why: str) -> None:
        fix = "see `kt ps` and `kt logs`, then ask again"
        super().__init__("the server was lost in the middle of the answer", why, fix)


def unreachable(url: str, error: Exception) -> KtError:
    kind = type(error).__name__
    if "Timeout" in kind:
        return NotReadyError(f"the server at {url} does not answer", kind, "see `kt ps`")
    why = str(error) or kind
    fix = "start one with `kt run demo`, or give its address with --url"
    return NotReadyError(f"no server answers at {url}", why, fix)


def refusal(status: int, content: bytes, url: str) -> KtError:
    """An HTTP answer that is no success."""
    error = _error_object(content)
    if error is None:
        why = f"HTTP status {status} without the JSON of such a server"
        return KtError(f"{url} is not an OpenAI-compatible server", why, "check --url")
    message = str(error.get("message") or f"HTTP status {status}").rstrip(".")
    if status in (401, 403):
        return AuthError(
            "the server refuses the key", message, "give it by --api-key or KT_API_KEY"
        )
    if status == 404:
        return NotFoundError(message, "", "`/model` in `kt chat` lists what the server has")
    if status == 503:
        return NotReadyError("the server cannot answer now", message, "wait a little and try again")
    return KtError(message, "", _fix(error))


def _fix(error: dict[str, Any]) -> str:
    if error.get("code") == CONTEXT:
        return "shorten the message, or start anew with `/clear`"
    return ""


def _error_object(content: bytes) -> dict[str, Any] | None:
    """The `error` of the OpenAI shape; some servers put its fields at the top or send a text."""
    try:
        body = json.loads(content)
    except ValueError:
        return None
    if not isinstance(body, dict):
        return None
    error = body.get("error", body)
    if isinstance(error, str):
        return {"message": error}
    return error if isinstance(error, dict) and "message" in error else None
