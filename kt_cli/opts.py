"""How a dataclass of options becomes flags, settings and questions, and argv again.

`opt` attaches what the command line needs to a field; `to_argv` is its inverse: parsing it gives
the same options again.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, get_args, get_type_hints

from kt_cli.modelfiles import CONFIG, models_at

T = TypeVar("T")

_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)(i?)(b?)\s*", re.IGNORECASE)
_INT = re.compile(r"\s*[+-]?[0-9]{1,18}\s*")
_ID = re.compile(r"[0-9]{1,4}")
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_bytes(text: str) -> int:
    """`24GB` is 24·10⁹, `24GiB` and `24G` are 24·2³⁰; raises ValueError."""
    number, prefix, binary, unit = size_parts(text)
    decimal = bool(unit) and not binary
    return int(number * (1000 if decimal else 1024) ** _POWER[prefix])


def parse_count(text: str) -> int:
    """`32k` is 32·1024 (a context length), `4096` itself; raises ValueError."""
    number, prefix, _, unit = size_parts(text)
    if unit:
        raise ValueError(f"{text!r} is a number of bytes, not of tokens")
    return int(number * 1024 ** _POWER[prefix])


def size_parts(text: str) -> tuple[float, str, str, str]:
    match = _SIZE.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is not a size such as 4096, 32k or 24GB")
    number, prefix, binary, unit = match.groups()
    return float(number), prefix.lower(), binary, unit


def parse_int(text: str) -> int:
    """Decimal digits with a sign at most; raises ValueError."""
    if not _INT.fullmatch(text):
        raise ValueError(f"{text!r} is not a whole number")
    return int(text)


def parse_ids(text: str) -> tuple[int, ...]:
    """`0,2-3` → (0, 2, 3); raises ValueError."""
    ids: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.strip().partition("-")
        if not (_ID.fullmatch(first) and _ID.fullmatch(last or first)):
            raise ValueError(f"{text!r} is not a list of numbers such as 0,2-3")
        ids += range(int(first), int(last or first) + 1)
    return tuple(dict.fromkeys(ids))


# Paths become absolute where they enter, so that no later process depends on the working folder.

_NAMED_PATH = re.compile(r"([\w.-]+)=(.+)", re.DOTALL)


def parse_path(text: str) -> str:
    """`~` and the working folder filled in; `..` is followed, other links are kept."""
    path = Path(text).expanduser()
    return str(path.resolve() if ".." in path.parts else path.absolute())


def parse_output(text: str) -> str:
    """A file to write; `-` stays, it means standard output."""
    return text if text == "-" else parse_path(text)


def parse_model(text: str) -> str:
    """A path where the text is one: written as one, or a model that lies in the working folder.

    Anything else is a name or a repository.
    """
    written = text.startswith(("/", "./", "../", "~")) or text in (".", "..")
    return parse_path(text) if written or _is_model(Path(text)) else text


def _is_model(path: Path) -> bool:
    try:
        if path.is_dir():
            return os.sep in str(path) or (path / CONFIG).is_file() or bool(models_at(path))
        return path.is_file()
    except (OSError, ValueError):
        return False


def parse_named_path(text: str) -> str:
    """`NAME=FOLDER`, or a folder alone."""
    match = _NAMED_PATH.fullmatch(text)
    return f"{match[1]}={parse_path(match[2])}" if match else parse_path(text)


def parse_preset_or_path(text: str) -> str:
    """A preset's name, or a path: with a separator or the ending `.toml`."""
    return parse_path(text) if os.sep in text or text.endswith(".toml") else text


PATHS = (parse_path, parse_output, parse_model, parse_named_path, parse_preset_or_path)
"""Parsers of options that may hold a path."""


Choices: TypeAlias = tuple[str, ...] | Callable[[], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Opt:
    """How a field looks on the command line, in settings and in the wizard."""

    flags: tuple[str, ...]
    """Empty for a positional argument."""
    help: str
    parse: Callable[[str], Any] | None = None
    offers: Choices = ()
    """Its only values, or what tells them; empty for any."""
    low: float | None = None
    high: float | None = None
    ask: str = ""
    """The wizard's question; empty for what is never asked."""
    metavar: str = ""
    setting: str = ""
    """Key in `kt config` that supplies it, such as server.port."""
    panel: str = ""
    hidden: bool = False
    secret: bool = False
    """Never shown and never stored."""
    public: tuple[str, ...] = ()
    """Values that are no secret all the same."""
    engines: tuple[str, ...] = ()
    """Those that it means something for; empty for all."""

    @property
    def choices(self) -> tuple[str, ...]:
        return self.offers() if callable(self.offers) else self.offers

    def serves(self, engine: str) -> bool:
        return not self.engines or engine in self.engines


def opt(*flags: str, help: str, default: Any = None, choices: Choices = (), **details: Any) -> Any:
    return field(default=default, metadata={"opt": Opt(flags, help, offers=choices, **details)})


def specs(cls: type[Any] | Any) -> dict[str, Opt]:
    """Field name → Opt, in the order of definition."""
    return {f.name: f.metadata["opt"] for f in dataclasses.fields(cls) if "opt" in f.metadata}


def given(options: Any) -> dict[str, Any]:
    """The fields the user decided."""
    defaults = {f.name: f.default for f in dataclasses.fields(options)}
    values = {name: getattr(options, name) for name in specs(options)}
    return {name: value for name, value in values.items() if value != defaults[name]}


def to_argv(options: Any) -> list[str]:
    """The command-line arguments that would give these options; positionals first."""
    known = specs(options)
    positional: list[str] = []
    flags: list[str] = []
    for name, value in given(options).items():
        spec = known[name]
        if not spec.flags:
            positional += [str(v) for v in value] if isinstance(value, tuple) else [str(value)]
        elif isinstance(value, bool):
            flags.append(_switch(spec, value))
        else:
            flags += [_long(spec), render(value)]
    return positional + flags


def parse_flags(cls: type[Any], words: Sequence[str]) -> dict[str, Any]:
    """`["--ctx-size", "8k"]` → {"ctx_size": 8192}. Raises ValueError for any other word."""
    by_flag = {flag: (name, spec) for name, spec in specs(cls).items() for flag in spec.flags}
    hints = get_type_hints(cls)
    found: dict[str, Any] = {}
    rest = list(words)
    while rest:
        flag = rest.pop(0)
        if flag not in by_flag:
            raise ValueError(f"{flag} is no option")
        name, spec = by_flag[flag]
        kind = next(t for t in (*get_args(hints[name]), hints[name]) if isinstance(t, type))
        if kind is bool:
            found[name] = True
        else:
            found[name] = (spec.parse or kind)(rest.pop(0))
    return found


def shown_argv(options: Any) -> list[str]:
    """`to_argv` for people and files: without what is secret, which KT_API_KEY brings as well."""
    found = {name: getattr(options, name) for name, spec in specs(options).items() if spec.secret}
    known = specs(options)
    hidden = {name: None for name, value in found.items() if value not in known[name].public}
    return to_argv(dataclasses.replace(options, **hidden))


def render(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _long(spec: Opt) -> str:
    return next(f for f in spec.flags if f.startswith("--"))


def _switch(spec: Opt, value: bool) -> str:
    on, _, off = _long(spec).partition("/")
    return on if value else off


def with_flags(options: T, words: Sequence[str]) -> T:
    """`options` with long flags and their values, as `--ctx-size 4096 --tp 2`."""
    return dataclasses.replace(options, **parse_flags(type(options), words))  # type: ignore[type-var]


def replace_undecided(options: Any, values: Mapping[str, Any]) -> Any:
    """`options` with `values` where a field is still undecided."""
    taken = given(options)
    known = specs(options)
    fresh = {k: v for k, v in values.items() if k in known and k not in taken}
    return dataclasses.replace(options, **fresh)
