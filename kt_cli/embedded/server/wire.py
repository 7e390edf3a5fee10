"""Answers in the shape of the OpenAI API."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kt_cli.embedded.api import Chunk, Handle, TokenLogprob
from kt_cli.embedded.server.schema import ChatRequest, Common

Json = dict[str, Any]
LEAST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON cannot carry."""


@dataclass(slots=True)
class Usage:
    """Tokens of a request; a prompt answered `n` times counts once."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0

    def body(self) -> Json:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }


def usage_of(handles: Sequence[Handle], n: int, completion: int) -> Usage:
    first = handles[::n]
    prompt = sum(handle.prompt_tokens for handle in first)
    return Usage(prompt, sum(handle.cached_tokens for handle in first), completion)


@dataclass(slots=True)
class Answer:
    """One choice as it grows."""

    text: str = ""
    tokens: int = 0
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str | None = None

    spelled: int = 0
    """Characters of the tokens in `logprobs`, which may run ahead of `text`."""

    def add(self, chunk: Chunk) -> None:
        self.text += chunk.text
        self.tokens += len(chunk.token_ids)
        self.logprobs += chunk.logprobs
        self.spelled += sum(len(item.token) for item in chunk.logprobs)
        self.finish_reason = chunk.finish_reason


class Wire:
    """Builds the objects of one response, which share id, time and model."""

    def __init__(self, request: Common) -> None:
        self._chat = isinstance(request, ChatRequest)
        self._n = request.n
        self._logprobs = request.sampling.logprobs is not None
        self._include_usage = request.include_usage
        self._head = {
            "id": f"{'chatcmpl' if self._chat else 'cmpl'}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": request.model,
        }

    def whole(self, answers: Sequence[Answer], usage: Usage) -> Json:
        choices = [self._choice(index, answer) for index, answer in enumerate(answers)]
        kind = "chat.completion" if self._chat else "text_completion"
        return {**self._head, "object": kind, "choices": choices, "usage": usage.body()}

    def opening(self, index: int) -> Json | None:
        """The first event of a choice, which tells the role."""
        if not self._chat:
            return None
        return self._event([_delta(index, {"role": "assistant", "content": ""}, None, None)])

    def delta(self, index: int, chunk: Chunk, offset: int) -> Json:
        """`offset`: characters of the tokens reported before."""
        reason = chunk.finish_reason
        logprobs = self._logprobs_of(chunk.logprobs, offset) if chunk.logprobs else None
        if self._chat:
            content = {"content": chunk.text} if chunk.text or logprobs else {}
            return self._event([_delta(index, content, logprobs, reason)])
        return self._event([_text_choice(index, chunk.text, logprobs, reason)])

    def closing(self, usage: Usage) -> Json | None:
        if not self._include_usage:
            return None
        return {**self._event([]), "usage": usage.body()}

    def _event(self, choices: list[Json]) -> Json:
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        event = {**self._head, "object": kind, "choices": choices}
        return {**event, "usage": None} if self._include_usage else event

    def _choice(self, index: int, answer: Answer) -> Json:
        logprobs = self._logprobs_of(answer.logprobs, 0) if self._logprobs else None
        if not self._chat:
            return _text_choice(index, answer.text, logprobs, answer.finish_reason)
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        return {
            "index": index,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": answer.finish_reason,
        }

    def _logprobs_of(self, tokens: Sequence[TokenLogprob], offset: int) -> Json:
        return _chat_logprobs(tokens) if self._chat else _text_logprobs(tokens, offset)


def _delta(index: int, delta: Json, logprobs: Json | None, reason: str | None) -> Json:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}


def _text_choice(index: int, text: str, logprobs: Json | None, reason: str | None) -> Json:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


def _chat_logprobs(tokens: Sequence[TokenLogprob]) -> Json:
    content = [
        {
            **_token(item.token, item.logprob),
            "top_logprobs": [_token(token, logprob) for token, _, logprob in item.top],
        }
        for item in tokens
    ]
    return {"content": content, "refusal": None}


def _token(token: str, logprob: float) -> Json:
    # A token that is part of a character has no text of its own, so its bytes are unknown here.
    known = "\ufffd" not in token
    text = list(token.encode()) if known else None
    return {"token": token, "logprob": _finite(logprob), "bytes": text}


def _finite(logprob: float) -> float:
    return logprob if logprob > LEAST_LOGPROB else LEAST_LOGPROB


def _text_logprobs(tokens: Sequence[TokenLogprob], offset: int) -> Json:
    offsets = []
    for item in tokens:
        offsets.append(offset)
        offset += len(item.token)
    return {
        "tokens": [item.token for item in tokens],
        "token_logprobs": [_finite(item.logprob) for item in tokens],
        "top_logprobs": [{t: _finite(lp) for t, _, lp in i.top} for i in tokens],
        "text_offset": offsets,
    }
