"""What the server asks of an engine, and what an engine answers. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from kt_cli.core.engine_report import EngineReport

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen and when to end. `temperature` 0 is greedy."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    """Alternatives to report per token, 0 for the chosen token alone, None for none."""
    ignore_eos: bool = False
    logit_bias: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    token: str
    token_id: int
    logprob: float
    top: tuple[tuple[str, int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """A step of an answer: `text` may be empty while a character or stop string is incomplete."""

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class Stats:
    """Gauges and counters since the start. KV sizes are tokens."""

    running: int
    waiting: int
    kv_used: int
    kv_total: int
    prompt_tokens: int
    generated_tokens: int
    requests_finished: int
    requests_cancelled: int
    cached_prompt_tokens: int = 0


class Handle(Protocol):
    """One request in flight. Iterating blocks until the next chunk; the last has a finish reason.

    Raises the engine's exception when the request failed.
    """

    prompt_tokens: int
    cached_tokens: int

    def __iter__(self) -> Iterator[Chunk]: ...

    def cancel(self) -> None:
        """Frees the slot; safe from any thread and after the end."""


class Engine(Protocol):
    """Thread-safe: `submit` returns at once, requests beyond the batch wait in order."""

    model_name: str
    context: int
    notes: tuple[str, ...]
    """Sentences about how the model was loaded."""
    report: EngineReport

    def encode(self, text: str) -> list[int]: ...

    def render(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        """Token ids of the chat template with the generation prompt; raises ValueError."""

    def submit(self, prompt: Sequence[int], sampling: Sampling) -> Handle:
        """Raises ValueError when prompt and answer cannot fit the context."""

    def stats(self) -> Stats: ...

    def close(self) -> None: ...
