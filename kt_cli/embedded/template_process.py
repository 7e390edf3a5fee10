"""A separate process for chat templates, which are programs written by the model's makers.

Started by `chat_template`, with limits on memory and CPU time that the system enforces: a power
such as `9**9**9`, a repeated string or nested lists end this process and nothing else. It knows
neither models nor keys. A request is a line of JSON on stdin, an answer a line of JSON on stdout;
it ends with its stdin. The environment of templates is that of transformers.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

Messages = Sequence[dict[str, Any]]
Render = Callable[[Messages], str]
PROBE = "kt-probe-1f0c"


class Generation(Extension):
    """`{% generation %}` marks what a model is trained on; the text stays as it is."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class PlainNamespace(Namespace):
    """Stores no names of Python's own objects."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise TemplateError(f"a namespace cannot have {name!r}")
        super().__setitem__(name, value)


def environment() -> ImmutableSandboxedEnvironment:
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    made.filters["tojson"] = _to_json
    made.globals["raise_exception"] = _raise_exception
    made.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    made.globals["namespace"] = PlainNamespace
    return made


def renderer(template: str, values: dict[str, Any]) -> Render:
    """Renders messages, their content typed where the template reads it in no other way."""
    compiled = environment().from_string(template)

    def render(messages: Messages) -> str:
        chat = [_with_reasoning(message) for message in messages]
        return compiled.render(
            **values, messages=chat, tools=None, documents=None, add_generation_prompt=True
        )

    if not _wants_parts(render):
        return render
    return lambda messages: render([_typed(message) for message in messages])


def _wants_parts(render: Render) -> bool:
    """Whether text gets through as a list of parts only; a template may refuse either."""
    probe = {"role": "user", "content": PROBE}
    return not _shows_probe(render, probe) and _shows_probe(render, _typed(probe))


def _shows_probe(render: Render, message: dict[str, Any]) -> bool:
    try:
        return PROBE in render([message])
    except Exception:
        return False


def _typed(message: dict[str, Any]) -> dict[str, Any]:
    return {**message, "content": [{"type": "text", "text": message["content"]}]}


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """Templates of gpt-oss read the reasoning under another name."""
    if "reasoning_content" not in message:
        return message
    return {"thinking": message["reasoning_content"], **message}


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def reason(error: BaseException) -> str:
    """In a sentence; the class tells what Python's own errors leave out."""
    if isinstance(error, MemoryError):
        return "it needs too much memory"
    if isinstance(error, RecursionError):
        return "it is nested too deeply or calls itself without an end"
    text = str(error)
    return text if isinstance(error, TemplateError) else f"{type(error).__name__}: {text}"


def limit(memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def budget(cpu_s: float) -> None:
    """The kernel ends this process after so much CPU time, even inside one long operation."""
    signal.setitimer(signal.ITIMER_PROF, cpu_s)


def serve() -> None:
    """The first line has the template, its values and the limits; each other one messages."""
    start = json.loads(sys.stdin.readline())
    limit(start["memory_bytes"])
    render: Render | None = None
    for line in sys.stdin:
        budget(start["cpu_s"])
        try:
            render = render or renderer(start["template"], start["values"])
            text = render(json.loads(line))
            if len(text) > start["most_characters"]:
                raise TemplateError(f"it makes more than {start['most_characters']} characters")
            answer = {"text": text}
        except BaseException as error:
            answer = {"error": reason(error)[:1000]}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
        budget(0)


if __name__ == "__main__":
    serve()
