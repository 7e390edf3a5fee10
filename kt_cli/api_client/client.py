"""A small client of the OpenAI chat API: models, and one streamed answer at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from kt_cli import network
from kt_cli.api_client.failures import LostError, refusal, unreachable
from kt_cli.api_client.params import Params
from kt_cli.errors import KtError, UsageError

CONNECT_S = 5.0
SILENCE_S = 900.0
"""A long prompt on a slow machine may take minutes before the first token."""


@dataclass(frozen=True, slots=True)
class Delta:
    """What one event of the stream brought."""

    text: str = ""
    reasoning: str = ""
    finish_reason: str | None = None
    completion_tokens: int | None = None
    prompt_tokens: int | None = None


class Client:
    def __init__(self, url: str, api_key: str = "") -> None:
        self.url = base_url(url)
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        timeout = httpx.Timeout(SILENCE_S, connect=CONNECT_S)
        self._http = network.client(headers=headers, timeout=timeout)

    def close(self) -> None:
        self._http.close()

    def models(self) -> list[str]:
        with self._translated():
            response = self._http.get(f"{self.url}/models", timeout=30)
        if response.status_code != 200:
            raise refusal(response.status_code, response.content, self.url)
        try:
            return [str(model["id"]) for model in response.json()["data"]]
        except (ValueError, KeyError, TypeError):
            raise refusal(200, response.content, self.url) from None

    def stream(
        self, model: str, messages: Sequence[dict[str, str]], params: Params
    ) -> Iterator[Delta]:
        """Raises a KtError that says what went wrong; closing the iterator frees the server."""
        body = {
            "model": model,
            "messages": list(messages),
            "stream": True,
            "stream_options": {"include_usage": True},
            **params.given(),
        }
        with self._translated(), self._post("chat/completions", body) as response:
            if response.status_code != 200:
                raise refusal(response.status_code, response.read(), self.url)
            try:
                yield from _deltas(response.iter_lines())
            except httpx.TransportError as error:
                raise LostError(str(error) or type(error).__name__) from error

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        text = json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        return self._http.stream("POST", f"{self.url}/{path}", content=text, headers=headers)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPError as error:
            raise unreachable(self.url, error) from error


def base_url(text: str) -> str:
    """`host:port` or `http://host:port` with /v1 after it; an address with a path stays."""
    url = text.strip().rstrip("/")
    if "//" not in url and not url.endswith(":"):
        url = f"http://{url}"
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise UsageError(
            f"{text!r} is not the address of a server", "", "write it as http://127.0.0.1:30000"
        )
    return url if parts.path else f"{url}/v1"


def _deltas(lines: Iterator[str]) -> Iterator[Delta]:
    finished = False
    for line in lines:
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            return
        delta = parse_event(data)
        finished = finished or delta.finish_reason is not None
        yield delta
    if not finished:
        raise LostError("the stream ended before the answer did")


def parse_event(data: str) -> Delta:
    """Raises KtError for an error event, and LostError for what is no event at all."""
    try:
        event = json.loads(data)
        if "error" in event:
            raise _event_error(event["error"])
        choice = (event.get("choices") or [{}])[0]
        delta = choice.get("delta") or {}
        usage = event.get("usage") or {}
        return Delta(
            text=_clean(delta.get("content")),
            reasoning=_clean(delta.get("reasoning_content") or delta.get("reasoning")),
            finish_reason=choice.get("finish_reason"),
            completion_tokens=usage.get("completion_tokens"),
            prompt_tokens=usage.get("prompt_tokens"),
        )
    except (ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        raise LostError(f"the server sent an event that is not JSON: {error}") from error


def _event_error(error: Any) -> KtError:
    message = error.get("message") if isinstance(error, dict) else error
    return LostError(str(message or "the server reported an error"))


def _clean(text: Any) -> str:
    """Half a surrogate pair is no character: no terminal and no file can take it."""
    if not isinstance(text, str):
        return ""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
