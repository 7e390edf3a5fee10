"""How fast an answer came, and how sure we are of that."""

from __future__ import annotations

import time
from dataclasses import dataclass

from kt_cli.api_client.client import Delta


@dataclass(frozen=True, slots=True)
class Speed:
    """`tokens` come from the server's usage, or from counting chunks where it sends none."""

    ttft_s: float | None
    tokens: int
    tokens_per_s: float | None
    from_usage: bool
    prompt_tokens: int | None = None

    def describe(self) -> str:
        if self.ttft_s is None:
            return "no tokens"
        parts = [f"first token {self.ttft_s:.2f} s"]
        if self.tokens_per_s is not None:
            parts.append(f"{self.tokens_per_s:.1f} tokens/s")
        parts.append(f"{self.tokens} {'token' if self.tokens == 1 else 'tokens'}")
        return " · ".join(parts) + ("" if self.from_usage else " (counted chunks)")


class Meter:
    """Watches the deltas of one answer; `start` is the moment the request is sent."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._first: float | None = None
        self._last = self._start
        self._chunks = 0
        self._usage: int | None = None
        self._prompt: int | None = None

    def see(self, delta: Delta) -> None:
        if delta.completion_tokens is not None:
            self._usage, self._prompt = delta.completion_tokens, delta.prompt_tokens
        if not (delta.text or delta.reasoning):
            return
        self._last = time.perf_counter()
        self._first = self._first or self._last
        self._chunks += 1

    def speed(self) -> Speed:
        tokens = self._chunks if self._usage is None else self._usage
        ttft = None if self._first is None else self._first - self._start
        spent = self._last - (self._first or self._last)
        rate = (tokens - 1) / spent if spent > 0 and tokens > 1 else None
        return Speed(ttft, tokens, rate, self._usage is not None, self._prompt)
