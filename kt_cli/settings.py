"""Settings with the origin of every value.

Precedence: flag > KT_* environment > wizard > profile > ./kt.toml > user file > upstream's file >
preset > derived. This module knows the middle: environment, project file, user file and the
configuration that the upstream tool left in ~/.ktransformers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kt_cli import environment, unfinished
from kt_cli.documents import Source, parse_yaml, read_bytes, read_toml
from kt_cli.errors import KtError, NotFoundError, UsageError
from kt_cli.options import HubOptions, RunOptions
from kt_cli.opts import Opt, parse_bytes, parse_count, parse_int, render, specs


@dataclass(frozen=True, slots=True)
class Key:
    """A setting: how its text is read, and what holds where nobody set it."""

    name: str
    help: str
    kind: type
    default: Any = None
    spec: Opt = field(default_factory=lambda: Opt((), ""))

    @property
    def variable(self) -> str:
        return "KT_" + self.name.upper().replace(".", "_")


@dataclass(frozen=True, slots=True)
class Value:
    value: Any
    origin: str
    """A variable's name, a file's path, or `default`."""


_DEFAULTS: Mapping[str, Any] = {
    "server.host": "127.0.0.1",
    "server.port": 30000,
    "hub.name": "huggingface",
    "packs.keep": "auto",
}
_KINDS: Mapping[str, type] = {
    "server.port": int,
    "run.ctx_size": int,
    "run.max_running_requests": int,
    "run.cpu_threads": int,
}
_UPSTREAM = ("server.host", "server.port")


def keys() -> dict[str, Key]:
    """Every setting there is, by name."""
    found = [s for c in (RunOptions, HubOptions) for s in specs(c).values() if s.setting]
    return {
        s.setting: Key(s.setting, s.help, _KINDS.get(s.setting, str), _DEFAULTS.get(s.setting), s)
        for s in found
    }


def read_value(key: Key, text: str) -> Any:
    """Text to a checked value; raises UsageError that names the key."""
    try:
        value = _convert(key, text)
    except ValueError as error:
        raise UsageError(f"{key.name} cannot be {text!r}", str(error), _help(key)) from error
    if key.spec.choices and value not in key.spec.choices:
        raise UsageError(
            f"{key.name} cannot be {text!r}", f"choices: {', '.join(key.spec.choices)}"
        )
    low, high = key.spec.low, key.spec.high
    if (low is not None and value < low) or (high is not None and value > high):
        bounds = f"allowed: {low:g}" + (f" to {high:g}" if high is not None else " or more")
        raise UsageError(f"{key.name} cannot be {text!r}", bounds)
    return value


def _help(key: Key) -> str:
    """What the value is for, and its bounds."""
    low, high = key.spec.low, key.spec.high
    if low is None:
        return f"expected: {key.help}"
    return f"expected: {key.help}, {low:g}" + (f" to {high:g}" if high is not None else " or more")


def _convert(key: Key, text: str) -> Any:
    if key.spec.parse in (parse_count, parse_bytes):
        return key.spec.parse(text)
    if key.kind is int:
        return parse_int(text)
    return text


@dataclass(frozen=True, slots=True)
class Settings:
    """Merged layers, strongest first; each layer is (origin, values)."""

    home: Path
    layers: tuple[tuple[str, Mapping[str, Any]], ...]

    @property
    def user_file(self) -> Path:
        return self.home / "config.toml"

    def get(self, name: str) -> Value:
        """Raises NotFoundError for a key that does not exist."""
        key = find_key(name)
        for origin, values in self.layers:
            if name in values:
                return Value(values[name], origin)
        return Value(key.default, "default")

    def all(self) -> dict[str, Value]:
        return {name: self.get(name) for name in keys()}

    def set(self, name: str, text: str) -> Any:
        value = read_value(find_key(name), text)
        self._write({**self._user_values(), name: value})
        return value

    def unset(self, name: str) -> bool:
        """True when the user file held the key."""
        find_key(name)
        values = self._user_values()
        held = values.pop(name, None) is not None
        if held:
            self._write(values)
        return held

    def reset(self) -> None:
        self.user_file.unlink(missing_ok=True)

    def _user_values(self) -> dict[str, Any]:
        return _read_toml(self.user_file)

    def _write(self, values: Mapping[str, Any]) -> None:
        import tomli_w

        tree: dict[str, dict[str, Any]] = {}
        for name, value in sorted(values.items()):
            section, _, leaf = name.partition(".")
            tree.setdefault(section, {})[leaf] = value
        write_atomic(self.user_file, tomli_w.dumps(tree))


def find_key(name: str) -> Key:
    known = keys()
    if name not in known:
        import difflib

        close = difflib.get_close_matches(name, known, n=1)
        fix = f"did you mean `{close[0]}`?" if close else "see `kt config list`"
        raise NotFoundError(f"no setting is called {name!r}", "", fix)
    return known[name]


def load(
    home: Path | None = None,
    cwd: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    user: Path | None = None,
) -> Settings:
    """Reads all layers; raises UsageError that names a bad file or variable."""
    base = home or environment.kt_home(environ)
    project = (cwd or Path.cwd()) / "kt.toml"
    upstream = (user or environment.user_home(environ)) / ".ktransformers" / "config.yaml"
    layers = (
        *_environment(environ),
        (str(project), _read_toml(project)),
        (str(base / "config.toml"), _read_toml(base / "config.toml")),
        (str(upstream), _read_upstream(upstream)),
    )
    return Settings(base, layers)


def _environment(environ: Mapping[str, str]) -> list[tuple[str, Mapping[str, Any]]]:
    present = [
        (key, given)
        for key in keys().values()
        if (given := environment.text(key.variable, environ))
    ]
    return [(key.variable, {key.name: _from_variable(key, given)}) for key, given in present]


def _from_variable(key: Key, given: str) -> Any:
    try:
        return read_value(key, given)
    except KtError as error:
        raise UsageError(f"{key.variable}: {error.what}", error.why, error.fix) from error


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        tree = read_toml(path, _source(path)).values
    except NotFoundError:
        return {}
    return {name: _checked(path, name, value) for name, value in _flatten(tree)}


def _checked(path: Path, name: str, value: Any) -> Any:
    try:
        return read_value(find_key(name), render(value))
    except KtError as error:
        raise UsageError(f"{path}: {error.what}", error.why, error.fix) from error


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for name, value in tree.items():
        path = f"{prefix}{name}"
        pairs += _flatten(value, path + ".") if isinstance(value, Mapping) else [(path, value)]
    return pairs


def _read_upstream(path: Path) -> dict[str, Any]:
    """Host and port of the upstream tool; a host that opens the server to the network is left."""
    try:
        tree = parse_yaml(read_bytes(path, _source(path)), Source(str(path), error=_Odd))
    except (NotFoundError, _Odd):
        return {}
    values = dict(_flatten(tree)) if isinstance(tree, Mapping) else {}
    known = {n: values[n] for n in _UPSTREAM if n in values}
    if known.get("server.host") in ("0.0.0.0", "::"):
        del known["server.host"]
    return {name: _checked(path, name, value) for name, value in known.items()}


class _Odd(KtError):
    """What another program left there is not for us to complain about."""


def _source(path: Path) -> Source:
    return Source(str(path), "mend or remove it", UsageError)


def write_atomic(path: Path, text: str) -> None:
    """Writes a whole file or nothing; raises KtError when the disk refuses."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write(path, text, private=True)
    except OSError as error:
        raise KtError(f"cannot write {path}", error.strerror or str(error)) from error
