"""Conversations as JSON files below KT_HOME/conversations, each written whole or not at all."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path

from kt_cli import unfinished
from kt_cli.chat.session import Conversation
from kt_cli.core.serial import ShapeError, from_plain, to_plain
from kt_cli.documents import Source, read_json
from kt_cli.errors import KtError, NotFoundError, UsageError

MAX_BYTES = 64_000_000
SCHEMA = "kt.conversation/1"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class Saved:
    name: str
    conversation: Conversation


class Store:
    def __init__(self, home: Path) -> None:
        self.folder = home / "conversations"

    def names(self) -> list[str]:
        """Latest first."""
        try:
            files = [p for p in self.folder.iterdir() if p.suffix == ".json"]
        except (FileNotFoundError, NotADirectoryError):
            return []
        dated = [(p.stat().st_mtime_ns, p.stem) for p in files if _NAME.fullmatch(p.stem)]
        return [name for _, name in sorted(dated, reverse=True)]

    def list(self) -> list[Saved]:
        """The conversations that can be read, latest first."""
        found = []
        for name in self.names():
            try:
                found.append(Saved(name, self._read(name)))
            except KtError:
                continue
        return found

    def load(self, wanted: str) -> Saved:
        """By its name or by the only name that starts so."""
        names = self.names()
        matches = [wanted] if wanted in names else [n for n in names if n.startswith(wanted)]
        if len(matches) > 1:
            raise UsageError(f"{wanted!r} fits several conversations", "", ", ".join(matches[:5]))
        if not matches:
            raise NotFoundError(
                f"no conversation is called {wanted!r}", "", "`/list` in `kt chat` shows them"
            )
        return Saved(matches[0], self._read(matches[0]))

    def latest(self) -> Saved:
        names = self.names()
        if not names:
            raise NotFoundError("there is no conversation to continue", "", "start with `kt chat`")
        return Saved(names[0], self._read(names[0]))

    def save(self, name: str, conversation: Conversation) -> Path:
        """Raises KtError when the disk refuses; what was saved before stays."""
        check_name(name)
        path = self.folder / f"{name}.json"
        body = {"schema": SCHEMA, **to_plain(conversation)}
        text = json.dumps(body, indent=2, ensure_ascii=False) + "\n"
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            unfinished.write(path, text, private=True)
        except OSError as error:
            why = f"{error.strerror or error}: {path}"
            raise KtError(f"the conversation {name} could not be saved", why) from error
        return path

    def remove(self, name: str) -> None:
        check_name(name)
        (self.folder / f"{name}.json").unlink(missing_ok=True)

    def free_name(self) -> str:
        """A name for a new conversation: the local time, and a number where that is taken."""
        stem = time.strftime("%Y-%m-%d-%H%M%S")
        taken = set(self.names())
        candidates = (stem if k == 0 else f"{stem}-{k}" for k in range(len(taken) + 1))
        return next(name for name in candidates if name not in taken)

    def _read(self, name: str) -> Conversation:
        path = self.folder / f"{name}.json"
        fix = f"look at {path}"
        try:
            body = dict(read_json(path, Source(str(path), fix, KtError), MAX_BYTES).values)
            if (schema := body.pop("schema", None)) != SCHEMA:
                raise ShapeError(f"its schema is {schema!r}, not {SCHEMA!r}")
            return from_plain(Conversation, body)
        except ShapeError as error:
            raise KtError(f"the conversation {name} cannot be read", str(error), fix) from error


def check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        fix = "use letters, digits, dots, hyphens and underscores, 100 at most"
        raise UsageError(f"{name!r} cannot be the name of a conversation", "", fix)
