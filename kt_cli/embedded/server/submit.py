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
    with state.room_for(_choices(request), "n" if request.n > 1 else "prompt"):
        prompts = await _prompts(state, engine, request)
        handles = await asyncio.to_thread(_submit_all, engine, request, prompts)
        return state.start(handles)


def _choices(request: ChatRequest | CompletionRequest) -> int:
    prompts = len(request.prompts) if isinstance(request, CompletionRequest) else 1
    return prompts * request.n


async def _prompts(
    state: State, engine: Engine, request: ChatRequest | CompletionRequest
) -> list[Sequence[int]]:
    if isinstance(request, ChatRequest):
        loop = asyncio.get_running_loop()
        return [await loop.run_in_executor(state.renderers, _render, engine.render, request)]
    return await asyncio.to_thread(_encode, engine, request)


def _encode(engine: Engine, request: CompletionRequest) -> list[Sequence[int]]:
    return [engine.encode(p) if isinstance(p, str) else p for p in request.prompts]


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


def _submit_all(
    engine: Engine, request: ChatRequest | CompletionRequest, prompts: Sequence[Sequence[int]]
) -> list[Handle]:
    param = "messages" if isinstance(request, ChatRequest) else "prompt"
    room = _room(engine)
    jobs = [Job(prompt, _fit(prompt, request, room, param)) for prompt in prompts]
    handles: list[Handle] = []
    try:
        for job in jobs:
            for index in range(request.n):
                handles.append(engine.submit(job.prompt, _numbered(job.sampling, index)))
    except BaseException as error:
        for handle in handles:
            handle.cancel()
        if not isinstance(error, ValueError):
            raise
        wrong = "logit_bias" if "logit_bias" in str(error) else param
        raise bad_request(f"Invalid '{wrong}': {error}", wrong, "invalid_value") from None
    return handles


def _numbered(sampling: Sampling, index: int) -> Sampling:
    """Choices of one request differ, and a seed makes all of them repeatable."""
    if sampling.seed is None or index == 0:
        return sampling
    return replace(sampling, seed=(sampling.seed + index) % 2**63)
