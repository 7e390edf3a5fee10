"""What the environment says, cleaned in one place. Errors name the variable, never its value."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from kt_cli.errors import UsageError

Environ = Mapping[str, str]

API_KEY = "KT_API_KEY"
KEY_FLAG = "--api-key"
_ON = ("1", "true", "yes", "on", "y")
_SECRET_NAME = re.compile(r"(?:^|_)(?:API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD)(?:_|\Z)", re.I)
_SHORTEST_HIDDEN = 8
"""A shorter secret would blank out ordinary words wherever they stand."""
_INVISIBLE = "\ufeff\u200b\u200c\u200d\u2060\u00a0"
"""What copying from a web page or a document leaves around a word."""


def text(name: str, environ: Environ = os.environ) -> str:
    """The variable without white space around it, empty where it is not set."""
    return environ.get(name, "").strip()


def flag(name: str, environ: Environ = os.environ) -> bool:
    return text(name, environ).lower() in _ON


def secret(name: str, environ: Environ = os.environ) -> str:
    """A key or token that fits into an HTTP header; raises UsageError that does not show it."""
    return clean_secret(environ.get(name, ""), name)


def api_key(given: str | None, environ: Environ = os.environ) -> str:
    """The key of a server: the flag's, else the variable's."""
    return clean_secret(given, KEY_FLAG) if given else secret(API_KEY, environ)


def clean_secret(value: str, origin: str) -> str:
    """`value` without what copying left around it: white space, quotes, invisible characters."""
    key = value.strip().strip(_INVISIBLE).strip()
    if len(key) > 1 and key[0] == key[-1] and key[0] in "\"'":
        key = key[1:-1].strip()
    for position, character in enumerate(key, 1):
        if not "!" <= character <= "~":
            kind = "white space" if character.isspace() else "a character that is not plain ASCII"
            raise UsageError(
                f"{origin} is not a key that can be sent",
                f"it has {kind} at position {position} of {len(key)}",
                f"give {origin} anew, copied from where the key was made",
            )
    return key


def url(name: str, default: str, environ: Environ = os.environ) -> str:
    """An http(s) address without a slash at its end; raises UsageError that names the variable."""
    value = text(name, environ)
    if not value:
        return default
    address = value if "://" in value else f"https://{value}"
    try:
        parts = urlsplit(address)
        valid = parts.scheme.lower() in ("http", "https") and bool(parts.hostname)
        valid = valid and parts.port != 0 and address.isprintable() and " " not in address
    except ValueError:
        valid = False
    if not valid:
        raise UsageError(f"{name} is not an address", "", f"write it as {default}, or unset it")
    return address.rstrip("/")


def path(name: str, default: str, environ: Environ = os.environ) -> Path:
    """A folder, absolute, `~` expanded; raises UsageError that names the variable."""
    value = text(name, environ) or default
    try:
        return Path(_expanded(value, environ)).absolute()
    except (RuntimeError, ValueError, OSError) as error:
        raise UsageError(f"{name} names no folder", str(error), f"set {name} to one") from error


def _expanded(value: str, environ: Environ) -> str:
    """`~` is HOME of `environ`; `~name` and a missing HOME are looked up among the users."""
    if "\0" in value:
        raise ValueError("it contains a zero byte")
    home = text("HOME", environ)
    if home and (value == "~" or value.startswith("~/")):
        return home + value[1:]
    return str(Path(value).expanduser())


def user_home(environ: Environ = os.environ) -> Path:
    """The user's folder; one that does not exist where the system names none."""
    try:
        return path("HOME", "~", environ)
    except UsageError:
        return Path("/nonexistent")


def kt_home(environ: Environ = os.environ) -> Path:
    """The folder that holds everything `kt` writes: KT_HOME, else ~/.kt."""
    home = path("KT_HOME", "~/.kt", environ)
    if file := next((str(p) for p in (home, *home.parents) if p.is_file() or _is_device(p)), ""):
        raise UsageError("KT_HOME names no folder", f"{file} is a file", "set KT_HOME to a folder")
    return home


def _is_device(place: Path) -> bool:
    return place.is_char_device() or place.is_block_device()


def hub_cache(environ: Environ = os.environ) -> Path:
    """The user's Hugging Face cache, by huggingface_hub's own rules."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if text(name, environ):
            return path(name, "", environ)
    if text("HF_HOME", environ):
        return path("HF_HOME", "", environ) / "hub"
    return path("XDG_CACHE_HOME", "~/.cache", environ) / "huggingface" / "hub"


def tidy(environ: MutableMapping[str, str] = os.environ) -> None:
    """Removes sizes of the terminal that are no sizes: libraries read them as they are."""
    for name, least in (("COLUMNS", 20), ("LINES", 5)):
        value = environ.get(name, "").strip()
        if name in environ and not (value.isascii() and value.isdigit() and int(value) >= least):
            del environ[name]


def secrets(environ: Environ = os.environ, argv: Sequence[str] = ()) -> frozenset[str]:
    """Keys and passwords that the environment or the command line brought: never to be shown."""
    found = [value for name, value in environ.items() if _SECRET_NAME.search(name)]
    found += [password for value in environ.values() if (password := _password(value))]
    found += [given for word, following in zip(argv, [*argv[1:], ""], strict=True)
              if (given := _given(word, following))]  # fmt: skip
    return frozenset(key for f in found if len(key := f.strip()) >= _SHORTEST_HIDDEN)


def _password(value: str) -> str:
    """The one inside `http://user:password@host`."""
    if "@" not in value or "://" not in value:
        return ""
    try:
        return urlsplit(value.strip()).password or ""
    except ValueError:
        return ""


def _given(word: str, following: str) -> str:
    if word == KEY_FLAG:
        return following
    return word.partition("=")[2] if word.startswith(f"{KEY_FLAG}=") else ""
