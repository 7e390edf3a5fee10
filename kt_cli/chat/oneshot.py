"""One prompt, one answer: text on stdout and nothing else."""

from __future__ import annotations

from typing import Any

from kt_cli.api_client.client import Client
from kt_cli.chat.answer import Answer, get_answer
from kt_cli.chat.render import Plain
from kt_cli.chat.session import Session
from kt_cli.ui import Out


def ask_once(client: Client, session: Session, out: Out) -> Answer:
    """Raises the KtError of a failing server, and KeyboardInterrupt, after the part that came."""
    answer = get_answer(client, session.conversation, _renderer(out))
    session.answer(answer.text, answer.reasoning, stopped=answer.stopped)
    if answer.interrupted:
        raise KeyboardInterrupt
    if answer.error is not None:
        raise answer.error
    if out.json_mode:
        out.result("chat", _data(client, session, answer))
    elif answer.finish_reason == "length":
        out.warn("the answer was cut at the token limit")
    return answer


def _renderer(out: Out) -> Plain:
    if out.json_mode:
        return Plain(lambda _: None)
    return Plain(out.stream, terminal=out.on_terminal)


def _data(client: Client, session: Session, answer: Answer) -> dict[str, Any]:
    speed = answer.speed
    return {
        "url": client.url,
        "model": session.conversation.model,
        "answer": answer.text,
        "reasoning": answer.reasoning or None,
        "finish_reason": answer.finish_reason,
        "prompt_tokens": speed.prompt_tokens,
        "completion_tokens": speed.tokens,
        "tokens_from": "usage" if speed.from_usage else "chunks",
        "ttft_s": speed.ttft_s,
        "tokens_per_s": speed.tokens_per_s,
    }
