"""Which server a command means."""

from __future__ import annotations

from collections.abc import Sequence

from kt_cli import runtime
from kt_cli.errors import NotFoundError, UsageError
from kt_cli.runtime import Server
from kt_cli.ui.prompts import Choice
from kt_cli.workflow.context import Context


def chosen(ctx: Context, name: str | None, candidates: Sequence[Server]) -> Server:
    """The named server, else the only candidate, else the one a person picks."""
    if name is not None:
        return runtime.find(ctx.home, name)
    if not candidates:
        raise NotFoundError("no server is running", "", "`kt run MODEL` starts one")
    if len(candidates) == 1:
        return candidates[0]
    names = ", ".join(s.name for s in candidates)
    if not ctx.may_ask:
        raise UsageError("NAME is missing", f"there are: {names}", "name one of them")
    listed = [Choice(s.name, f"{s.model}  {s.url}") for s in candidates]
    return runtime.find(ctx.home, ctx.prompts.choose("Which server?", listed, listed[0].value))
