"""From a checked request to running handles."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from kt_cli.embedded.api import Engine, Handle, Sampling
from kt_cli.embedded.server.errors import bad_request, context_exceeded, model_not_found
from kt_cli.embedded.server.generation import Generation
from kt_cli.embedded.server.schema import ChatRequest, Common, CompletionRequest
from kt_cli.embedded.server.state import State


@dataclass(frozen=True, slots=True)
class Job:
    """One prompt of a request, `sampling` fitted to the context; answered `n` times."""

    prompt: Sequence[int]
    sampling: Sampling


async def submit(state: State, request: ChatRequest | CompletionRequest) -> Generation:
    """Handles in the order of the choices: every answer to the first prompt, then the next."""
    engine = state.engine
    if request.model != state.model_name:
        raise model_not_found(request.model)
    count = len(request.prompts) if isinstance(request, CompletionRequest) else 1
    state.room_for(count * request.n)
    prompts = await asyncio.to_thread(_prompts, engine, request)
    param = "messages" if isinstance(request, ChatRequest) else "prompt"
    jobs = [Job(p, _fit(p, request, _room(engine), param)) for p in prompts]
    state.room_for(count * request.n)
    return state.start(_submit_all(state.engine, jobs, request.n, param))


def _prompts(engine: Engine, request: ChatRequest | CompletionRequest) -> list[Sequence[int]]:
    if isinstance(request, CompletionRequest):
        return [engine.encode(p) if isinstance(p, str) else p for p in request.prompts]
    return [_render(engine.render, request)]


def _render(render: Callable[..., list[int]], request: ChatRequest) -> list[int]:
    try:
        return render(request.messages)
    except ValueError as error:
        message = f"The chat template of this model refuses the messages: {error}"
        raise bad_request(message, "messages", "invalid_value") from None


def _room(engine: Engine) -> int:
    """Tokens one request may have; the KV cache can be smaller than the context."""
    return min(engine.context, engine.stats().kv_total)


def _fit(prompt: Sequence[int], request: Common, context: int, param: str) -> Sampling:
    wanted = request.sampling.max_tokens
    room = context - len(prompt)
    if not prompt:
        raise bad_request(f"Invalid '{param}': the prompt has no tokens", param, "empty_prompt")
    if room < max(1, wanted):
        asked = f" and {wanted} for the answer" if wanted else ""
        raise context_exceeded(
            f"This model's maximum context length is {context} tokens, "
            f"but the request has {len(prompt)} in the {param}{asked}",
            param if room < 1 else request.max_tokens_param,
        )
    return replace(request.sampling, max_tokens=wanted or room)


def _submit_all(engine: Engine, jobs: Sequence[Job], n: int, param: str) -> list[Handle]:
    handles: list[Handle] = []
    try:
        for job in jobs:
            handles += [engine.submit(job.prompt, _numbered(job.sampling, i)) for i in range(n)]
    except ValueError as error:
        for handle in handles:
            handle.cancel()
        wrong = "logit_bias" if "logit_bias" in str(error) else param
        raise bad_request(f"Invalid '{wrong}': {error}", wrong, "invalid_value") from None
    return handles


def _numbered(sampling: Sampling, index: int) -> Sampling:
    """Choices of one request differ, and a seed makes all of them repeatable."""
    if sampling.seed is None or index == 0:
        return sampling
    return replace(sampling, seed=(sampling.seed + index) % 2**63)
