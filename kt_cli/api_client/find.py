"""Which server to talk to, and with which key."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from kt_cli import environment
from kt_cli.errors import AuthError, KtError, NotReadyError
from kt_cli.runtime.register import Server, servers

DEFAULT_URL = "http://127.0.0.1:30000"


@dataclass(frozen=True, slots=True)
class Address:
    url: str
    api_key: str = ""
    note: str = ""
    """Why this one, where several were possible."""


def find(
    home: Path,
    *,
    url: str | None = None,
    api_key: str | None = None,
    model: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Address:
    """Flag, KT_URL, the register of running servers, OPENAI_BASE_URL, the default address."""
    key = environment.api_key(api_key, environ)
    if given := url or environment.text("KT_URL", environ):
        return Address(given, key or _registered_key(home, given))
    ready = [s for s in servers(home) if s.state == "ready"]
    if ready:
        return _registered(ready, key, model)
    if starting := [s for s in servers(home) if s.state == "starting"]:
        raise _still_starting(starting[0])
    if other := environment.text("OPENAI_BASE_URL", environ):
        # That key belongs to that address and goes to no other.
        return Address(other, key or environment.secret("OPENAI_API_KEY", environ))
    return Address(DEFAULT_URL, key)


def is_anybody_there(home: Path, url: str | None, environ: Mapping[str, str] = os.environ) -> bool:
    """False where no address was given, no server is registered and the default port is closed."""
    given = url or environ.get("KT_URL") or environ.get("OPENAI_BASE_URL")
    return bool(given) or any(s.live for s in servers(home)) or _answers(DEFAULT_URL)


def _answers(url: str) -> bool:
    place = urlsplit(url)
    try:
        socket.create_connection((place.hostname or "", place.port or 80), timeout=1).close()
    except OSError:
        return False
    return True


def _registered(ready: list[Server], key: str, model: str | None) -> Address:
    """The youngest server that has the model, else the youngest."""
    fitting = [s for s in ready if model in (s.model, s.name)] or ready
    chosen = fitting[-1]
    others = ", ".join(s.name for s in ready if s is not chosen)
    note = f"talking to {chosen.name}; also running: {others} (choose with --url)" if others else ""
    return Address(chosen.url, key or read_key(chosen), note)


def _registered_key(home: Path, url: str) -> str:
    """The key of a registered server at that address."""
    wanted = url.rstrip("/").removesuffix("/v1").removeprefix("http://")
    same = (s for s in servers(home) if s.live and s.url.removeprefix("http://") == wanted)
    server = next(same, None)
    return read_key(server) if server else ""


def read_key(server: Server) -> str:
    if not server.api_key_file:
        return ""
    try:
        key = Path(server.api_key_file).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise AuthError(
            f"the key of {server.name} cannot be read",
            error.strerror or str(error),
            "give it by --api-key or KT_API_KEY",
        ) from error
    return environment.clean_secret(key, server.api_key_file)


def _still_starting(server: Server) -> KtError:
    return NotReadyError(
        f"{server.name} is still starting", "", "wait until `kt ps` says ready, then try again"
    )
