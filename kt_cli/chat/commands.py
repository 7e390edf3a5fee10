"""The slash commands of a chat: one table, one small function each."""

from __future__ import annotations

import difflib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kt_cli.api_client.params import LIMITS
from kt_cli.chat.chat import Chat, Leave
from kt_cli.chat.files import read_text
from kt_cli.errors import KtError, UsageError
from kt_cli.ui import table

_COMMAND = re.compile(r"/([a-z]+)(?:\s+(.*))?", re.DOTALL)
Run = Callable[[Chat, str], None]
Words = Callable[[Chat], list[str]]


def nothing(_: Chat) -> list[str]:
    return []


@dataclass(frozen=True, slots=True)
class Command:
    usage: str
    help: str
    run: Run
    words: Words = nothing
    """What its argument can be."""


def parse(text: str) -> tuple[str, str] | None:
    """Name and argument; None for a message, such as one that begins with a path."""
    match = _COMMAND.fullmatch(text.strip())
    return (match[1], (match[2] or "").strip()) if match else None


def run(chat: Chat, name: str, argument: str) -> None:
    """Raises UsageError for a command that does not exist, and Leave."""
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        fix = f"did you mean `/{close[0]}`?" if close else "`/help` lists the commands"
        raise UsageError(f"there is no command `/{name}`", "", fix)
    COMMANDS[name].run(chat, argument)


def complete(chat: Chat, before: str) -> list[str]:
    """Words that can stand where the text before the cursor ends."""
    if not before.startswith("/"):
        return []
    name, space, argument = before[1:].partition(" ")
    if not space:
        fitting = (c for c in COMMANDS.values() if c.usage.startswith(before))
        return [c.usage.partition(" ")[0] + (" " if " " in c.usage else "") for c in fitting]
    if name == "file":
        return _paths(argument)
    try:
        known = COMMANDS[name].words(chat) if name in COMMANDS else []
    except KtError:
        # A key press is no moment to report that the server is gone; the command itself will.
        known = []
    return [word for word in known if word.startswith(argument)]


def _paths(start: str) -> list[str]:
    folder, _, stem = start.rpartition("/")
    base = Path(f"{folder}/" if folder or start.startswith("/") else ".").expanduser()
    try:
        found = sorted(base.iterdir())
    except OSError:
        return []
    prefix = start[: len(start) - len(stem)]
    fitting = [p for p in found if p.name.startswith(stem) and " " not in p.name]
    return [f"{prefix}{p.name}{'/' if p.is_dir() else ''}" for p in fitting]


def _help(chat: Chat, _: str) -> None:
    width = max(len(command.usage) for command in COMMANDS.values())
    for command in COMMANDS.values():
        chat.out.note(f"{command.usage:<{width}}  {command.help}")
    chat.out.note('Alt-Enter begins a new line, """ begins and ends a text of several lines')
    chat.out.note("Ctrl-C stops an answer, Ctrl-D leaves")


def _system(chat: Chat, text: str) -> None:
    if text:
        chat.session.change(system="" if text == "off" else text)
    chat.out.note(chat.session.conversation.system or "there is no system prompt")


def _clear(chat: Chat, _: str) -> None:
    chat.clear()
    kept = ", the system prompt stays" if chat.session.conversation.system else ""
    chat.out.note(f"a new conversation begins{kept}")


def _retry(chat: Chat, _: str) -> None:
    if not chat.session.retry():
        raise UsageError("there is nothing to answer again")
    chat.answer()


def _undo(chat: Chat, _: str) -> None:
    question = chat.session.undo()
    if not question:
        raise UsageError("there is nothing to take back")
    chat.save()
    chat.out.note(f"taken back: {' '.join(question.split())[:60]}")


def _save(chat: Chat, name: str) -> None:
    if not chat.session.messages:
        raise UsageError("there is nothing to save")
    chat.rename(name or chat.name or chat.store.free_name())
    chat.out.note(f"saved as {chat.name}; later answers are saved there too")


def _load(chat: Chat, name: str) -> None:
    if not name:
        raise UsageError("the name is missing", "", "`/list` shows the saved conversations")
    chat.take(chat.store.load(name))


def _list(chat: Chat, _: str) -> None:
    saved = chat.store.list()
    if not saved:
        chat.out.note("no conversation is saved")
        return
    rows = [
        [
            s.name,
            str(len(s.conversation.messages)),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(s.conversation.updated)),
            s.conversation.title,
        ]
        for s in saved
    ]
    chat.out.print(table(["name", "messages>", "changed", "begins with"], rows))


def _model(chat: Chat, name: str) -> None:
    if name:
        chat.check_model(name)
        chat.session.change(model=name)
    for model in chat.client.models():
        mark = "*" if model == chat.session.conversation.model else " "
        chat.out.note(f"{mark} {model}")


def _params(chat: Chat, text: str) -> None:
    params = chat.session.conversation.params
    if text:
        name, _, value = text.replace("=", " ").partition(" ")
        if not value.strip():
            raise UsageError(f"the value of {name} is missing", "", "`/params temperature 0.7`")
        params = params.change(name, value.strip())
        chat.session.change(params=params)
    for name, held in params.all().items():
        chat.out.note(f"{name:<19} {'server default' if held is None else held}")


def _file(chat: Chat, path: str) -> None:
    if not path:
        raise UsageError("the path is missing", "", "`/file notes.txt`")
    file = Path(path.strip("'\""))
    chat.session.attach(file.name, read_text(file))
    chat.out.note(f"{file.name} goes with your next message")


def _stats(chat: Chat, _: str) -> None:
    speeds = [s for s in chat.speeds if s.tokens]
    if not speeds:
        chat.out.note("no answer yet")
        return
    rates = [s.tokens_per_s for s in speeds if s.tokens_per_s is not None]
    waits = [s.ttft_s for s in speeds if s.ttft_s is not None]
    chat.out.note(f"answers          {len(speeds)}")
    chat.out.note(f"tokens written   {sum(s.tokens for s in speeds)}")
    chat.out.note(f"first token      {sum(waits) / len(waits):.2f} s on average")
    if rates:
        chat.out.note(f"speed            {sum(rates) / len(rates):.1f} tokens/s on average")
    if speeds[-1].prompt_tokens is not None:
        chat.out.note(f"last prompt      {speeds[-1].prompt_tokens} tokens")
    if not all(s.from_usage for s in speeds):
        chat.out.note("tokens of some answers are counted chunks: the server sent no usage")


def _exit(_: Chat, __: str) -> None:
    raise Leave


def _saved_names(chat: Chat) -> list[str]:
    return chat.store.names()


def _model_names(chat: Chat) -> list[str]:
    return chat.client.models()


def _param_names(_: Chat) -> list[str]:
    return list(LIMITS)


COMMANDS: dict[str, Command] = {
    "help": Command("/help", "this list", _help),
    "system": Command("/system [TEXT|off]", "show or set the system prompt", _system),
    "clear": Command("/clear", "begin a new conversation", _clear),
    "retry": Command("/retry", "answer the last message again", _retry),
    "undo": Command("/undo", "take back the last message and its answer", _undo),
    "save": Command("/save [NAME]", "save the conversation under a name", _save),
    "load": Command("/load NAME", "go on with a saved conversation", _load, _saved_names),
    "list": Command("/list", "saved conversations", _list),
    "model": Command("/model [NAME]", "show or choose the model", _model, _model_names),
    "params": Command("/params [NAME VALUE]", "show or set parameters", _params, _param_names),
    "file": Command("/file PATH", "send a text file with the next message", _file),
    "stats": Command("/stats", "speed and tokens of this session", _stats),
    "exit": Command("/exit", "leave", _exit),
}
