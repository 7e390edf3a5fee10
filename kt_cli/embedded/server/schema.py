"""Requests as frozen dataclasses, parsed and checked field by field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kt_cli.embedded.api import Sampling
from kt_cli.embedded.server.errors import bad_request, unsupported
from kt_cli.embedded.server.fields import (
    Fields,
    check_text,
    invalid_value,
    is_integer,
    is_number,
    wrong_type,
)
from kt_cli.embedded.server.messages import parse_messages

MAX_CHOICES = 128
MAX_STOPS = 16
MAX_TOP_LOGPROBS = 20
MAX_TOKEN_DIGITS = 10
LEAST_TOP_P = 1e-9
"""What 0 means: the likeliest token alone."""
COMPLETION_MAX_TOKENS = 16
"""What `/v1/completions` of OpenAI answers when `max_tokens` is absent."""

Prompt = str | tuple[int, ...]

DEFAULTS = Sampling()
HINTS = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")
"""They say something about the caller, nothing about the answer."""


@dataclass(frozen=True, slots=True)
class Common:
    model: str
    sampling: Sampling
    """Its `max_tokens` is 0 when the request leaves the length to the context."""
    n: int
    stream: bool
    include_usage: bool
    max_tokens_param: str = "max_tokens"


@dataclass(frozen=True, slots=True)
class ChatRequest(Common):
    messages: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class CompletionRequest(Common):
    prompts: tuple[Prompt, ...] = ()


def parse_chat(body: Mapping[str, Any], defaults: Sampling = DEFAULTS) -> ChatRequest:
    fields = Fields(body)
    model = fields.text("model") or fields.required("model")
    messages = parse_messages(fields.required("messages"))
    _refuse_tools(fields)
    _refuse_formats(fields)
    fields.ignore((*HINTS, "parallel_tool_calls", "prediction"))
    param = "max_completion_tokens"
    limit = fields.integer(param, None, 1, 2**31)
    if limit is None:
        param = "max_tokens"
        limit = fields.integer(param, 0, 1, 2**31)
    fields.ignore(("max_tokens",))
    sampling = _sampling(fields, defaults, limit, _chat_logprobs(fields))
    stream, usage = _streaming(fields)
    n = fields.integer("n", 1, 1, MAX_CHOICES)
    fields.finish()
    return ChatRequest(model, sampling, n, stream, usage, param, messages)


def parse_completion(body: Mapping[str, Any], defaults: Sampling = DEFAULTS) -> CompletionRequest:
    fields = Fields(body)
    model = fields.text("model") or fields.required("model")
    prompts = _prompts(fields.required("prompt"))
    n = fields.integer("n", 1, 1, MAX_CHOICES)
    _refuse_completion_extras(fields, n)
    fields.ignore(HINTS)
    limit = fields.integer("max_tokens", COMPLETION_MAX_TOKENS, 1, 2**31)
    logprobs = fields.integer("logprobs", None, 0, MAX_TOP_LOGPROBS)
    sampling = _sampling(fields, defaults, limit, logprobs)
    stream, usage = _streaming(fields)
    fields.finish()
    return CompletionRequest(model, sampling, n, stream, usage, prompts=prompts)


def _sampling(
    fields: Fields, defaults: Sampling, max_tokens: int, logprobs: int | None
) -> Sampling:
    penalty = fields.number("repetition_penalty", defaults.repetition_penalty, 0.01, 100.0)
    return Sampling(
        temperature=fields.number("temperature", defaults.temperature, 0.0, 2.0),
        top_p=max(LEAST_TOP_P, fields.number("top_p", defaults.top_p, 0.0, 1.0)),
        top_k=max(0, fields.integer("top_k", defaults.top_k, -1, 2**31)),
        min_p=fields.number("min_p", defaults.min_p, 0.0, 1.0),
        repetition_penalty=penalty,
        presence_penalty=fields.number("presence_penalty", 0.0, -2.0, 2.0),
        frequency_penalty=fields.number("frequency_penalty", 0.0, -2.0, 2.0),
        seed=fields.integer("seed", None, -(2**63), 2**63 - 1),
        max_tokens=max_tokens,
        stop=_stop(fields),
        logprobs=logprobs,
        ignore_eos=fields.boolean("ignore_eos"),
        logit_bias=_logit_bias(fields),
    )


def _streaming(fields: Fields) -> tuple[bool, bool]:
    stream = fields.boolean("stream")
    raw = fields.mapping("stream_options")
    if raw is None:
        return stream, False
    if not stream:
        raise bad_request(
            "The 'stream_options' parameter is only allowed when 'stream' is true",
            "stream_options",
            "invalid_value",
        )
    options = Fields(raw, "stream_options.")
    include = options.boolean("include_usage")
    options.ignore(("include_obfuscation",))
    options.finish()
    return stream, include


def _chat_logprobs(fields: Fields) -> int | None:
    wanted = fields.boolean("logprobs")
    top = fields.integer("top_logprobs", None, 0, MAX_TOP_LOGPROBS)
    if top is not None and not wanted:
        message = "'logprobs' must be true when 'top_logprobs' is given"
        raise bad_request(message, "top_logprobs", "invalid_value")
    return (top or 0) if wanted else None


def _stop(fields: Fields) -> tuple[str, ...]:
    raw = fields.raw("stop")
    stops = [raw] if isinstance(raw, str) else raw or []
    if not isinstance(stops, list):
        raise wrong_type(raw, "stop", "a string or an array of strings")
    if len(stops) > MAX_STOPS:
        message = f"Invalid 'stop': at most {MAX_STOPS} strings, but got {len(stops)}"
        raise bad_request(message, "stop", "array_above_max_length")
    for index, stop in enumerate(stops):
        if not isinstance(stop, str):
            raise wrong_type(stop, f"stop[{index}]", "a string")
        if not check_text(stop, "stop"):
            message = f"Invalid 'stop[{index}]': an empty string would stop every answer"
            raise bad_request(message, f"stop[{index}]", "string_below_min_length")
    return tuple(stops)


def _logit_bias(fields: Fields) -> tuple[tuple[int, float], ...]:
    bias: list[tuple[int, float]] = []
    for key, value in (fields.mapping("logit_bias") or {}).items():
        param = f"logit_bias.{key}"
        if not (key.isascii() and key.isdigit() and len(key) <= MAX_TOKEN_DIGITS):
            message = f"Invalid key in 'logit_bias': '{key}' is not a token id"
            raise bad_request(message, "logit_bias", "invalid_value")
        if not is_number(value):
            raise wrong_type(value, param, "a number")
        if not -100 <= value <= 100:
            message = f"Invalid '{param}': expected a value from -100 to 100, but got {value}"
            raise bad_request(message, param, "invalid_value")
        bias.append((int(key), float(value)))
    return tuple(bias)


def _prompts(raw: Any) -> tuple[Prompt, ...]:
    """A string, strings, token ids, or several lists of token ids."""
    wanted = "a string, an array of strings or an array of token ids"
    if isinstance(raw, str):
        return (check_text(raw, "prompt"),)
    if not isinstance(raw, list):
        raise wrong_type(raw, "prompt", wanted)
    if not raw:
        raise bad_request("Invalid 'prompt': the array is empty", "prompt", "empty_array")
    if all(is_integer(item) for item in raw):
        return (_token_ids(raw, "prompt"),)
    return tuple(_prompt(item, f"prompt[{index}]", wanted) for index, item in enumerate(raw))


def _prompt(item: Any, param: str, wanted: str) -> Prompt:
    if isinstance(item, str):
        return check_text(item, param)
    if isinstance(item, list) and item and all(is_integer(token) for token in item):
        return _token_ids(item, param)
    raise wrong_type(item, param, wanted)


def _token_ids(raw: list[int], param: str) -> tuple[int, ...]:
    if any(not 0 <= token < 2**31 for token in raw):
        message = f"Invalid '{param}': token ids are integers from 0 on"
        raise bad_request(message, param, "invalid_value")
    return tuple(raw)


def _refuse_tools(fields: Fields) -> None:
    tools, choice = fields.raw("tools"), fields.raw("tool_choice")
    if tools is not None and not isinstance(tools, list):
        raise wrong_type(tools, "tools", "an array")
    if choice is not None and not isinstance(choice, str | dict):
        raise wrong_type(choice, "tool_choice", "a string or an object")
    if isinstance(choice, str) and choice not in ("none", "auto", "required"):
        raise invalid_value(choice, "tool_choice", ("none", "auto", "required"))
    if isinstance(choice, dict) or choice == "required":
        raise unsupported("Forcing a tool call", "tool_choice")
    if tools and choice != "none":
        raise unsupported("Tool calling", "tools")
    if fields.raw("functions"):
        raise unsupported("Function calling", "functions")
    if fields.raw("function_call") not in (None, "none", "auto"):
        raise unsupported("Function calling", "function_call")


def _refuse_formats(fields: Fields) -> None:
    response_format = fields.mapping("response_format") or {"type": "text"}
    wanted = Fields(response_format, "response_format.")
    wanted.required("type")
    kind = wanted.text("type")
    if kind in ("json_object", "json_schema"):
        raise unsupported(f"Constrained output (response_format '{kind}')", "response_format.type")
    wanted.choice("type", "text", ("text", "json_object", "json_schema"))
    if (fields.raw("modalities") or ["text"]) != ["text"]:
        raise unsupported("An output other than text", "modalities")
    for name in ("audio", "web_search_options", "reasoning_effort", "verbosity"):
        if fields.raw(name) is not None:
            raise unsupported(f"The parameter '{name}'", name)


def _refuse_completion_extras(fields: Fields, n: int) -> None:
    if fields.boolean("echo"):
        raise unsupported("Echoing the prompt", "echo")
    if fields.text("suffix"):
        raise unsupported("Filling in the middle (suffix)", "suffix")
    if fields.integer("best_of", n, 1, MAX_CHOICES) != n:
        raise unsupported("A 'best_of' other than 'n'", "best_of")
