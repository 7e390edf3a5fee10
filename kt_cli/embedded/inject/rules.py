"""The rules as written: YAML → `Rule`. Knows the syntax, nothing of operators or models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kt_cli.documents import Source, parse_yaml, read_bytes
from kt_cli.errors import NotFoundError, UsageError

DEVICE_KEYS = ("generate_device", "prefill_device", "out_device")
_DEVICE = re.compile(r"cpu|cuda(:\d+)?|meta")
_SYNTAX = "see the rules shipped in `presets/rules` for the form"


@dataclass(frozen=True, slots=True)
class Rule:
    """`recursive` False leaves the children of a matched module alone."""

    number: int
    source: str
    name: re.Pattern[str] | None
    class_name: str | None
    replace: str
    kwargs: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    recursive: bool = True

    @property
    def where(self) -> str:
        return f"{self.source}, rule {self.number}"

    @property
    def is_default(self) -> bool:
        return self.replace == "default"

    @property
    def device(self) -> str | None:
        device = self.kwargs.get("generate_device")
        return None if device is None else str(device)


def read_rules(path: Path) -> tuple[Rule, ...]:
    """Raises `NotFoundError` or `UsageError`, which names the file, the rule and the fact."""
    try:
        content = read_bytes(path, Source(str(path), _SYNTAX, UsageError))
    except NotFoundError as error:
        raise NotFoundError(f"no rules file at {path}") from error
    return parse_rules(content, str(path))


def parse_rules(text: str | bytes, source: str) -> tuple[Rule, ...]:
    content = text.encode() if isinstance(text, str) else text
    document = parse_yaml(content, Source(source, _SYNTAX, UsageError))
    if not isinstance(document, list) or not document:
        raise UsageError(f"{source} holds no list of rules", fix=_SYNTAX)
    return tuple(_rule(entry, source, number) for number, entry in enumerate(document, 1))


def _rule(entry: Any, source: str, number: int) -> Rule:
    where = f"{source}, rule {number}"
    fields = _mapping(entry, {"match", "replace", "recursive"}, where, "the rule")
    match = _mapping(fields.get("match"), {"name", "class"}, where, "`match`")
    if not match:
        raise UsageError(f"{where}: `match` needs `name`, `class` or both", fix=_SYNTAX)
    allowed = {"class", "kwargs", "recursive", *DEVICE_KEYS}
    replace = _mapping(fields.get("replace"), allowed, where, "`replace`")
    return Rule(
        number=number,
        source=source,
        name=_pattern(match.get("name"), where),
        class_name=_text(match.get("class"), where, "`match.class`"),
        replace=_text(replace.get("class"), where, "`replace.class`") or "default",
        kwargs=MappingProxyType(_kwargs(replace, where)),
        recursive=_flag(fields.get("recursive", replace.get("recursive", True)), where),
    )


def _mapping(value: Any, allowed: set[str], where: str, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{where}: {what} is not a mapping", fix=_SYNTAX)
    unknown = sorted(str(key) for key in value if key not in allowed)
    if unknown:
        keys = ", ".join(f"`{key}`" for key in sorted(allowed))
        raise UsageError(f"{where}: {what} has the unknown key `{unknown[0]}`", f"known are {keys}")
    return value


def _text(value: Any, where: str, what: str) -> str | None:
    if value is None or (isinstance(value, str) and value):
        return value
    raise UsageError(f"{where}: {what} is not a text")


def _pattern(value: Any, where: str) -> re.Pattern[str] | None:
    text = _text(value, where, "`match.name`")
    if text is None:
        return None
    try:
        return re.compile(text)
    except re.error as error:
        reason = f"{text!r}: {error}"
        raise UsageError(f"{where}: `match.name` is not a regular expression", reason) from error


def _flag(value: Any, where: str) -> bool:
    if isinstance(value, bool):
        return value
    raise UsageError(f"{where}: `recursive` is neither True nor False")


def _kwargs(replace: dict[str, Any], where: str) -> dict[str, Any]:
    given = replace.get("kwargs") or {}
    if not isinstance(given, dict) or not all(isinstance(key, str) for key in given):
        raise UsageError(f"{where}: `kwargs` is not a mapping of names")
    kwargs = {key: replace[key] for key in DEVICE_KEYS if key in replace} | given
    for key in DEVICE_KEYS:
        if key in kwargs:
            _device(kwargs[key], where, key)
    for device in _transfer_map(kwargs.get("transfer_map"), where).values():
        _device(device, where, "transfer_map")
    return kwargs


def _device(value: Any, where: str, key: str) -> None:
    if not isinstance(value, str) or not _DEVICE.fullmatch(value):
        raise UsageError(f"{where}: `{key}` is {value!r}", "a device is `cpu`, `cuda` or `cuda:N`")


def _transfer_map(value: Any, where: str) -> dict[int, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, int) for key in value):
        raise UsageError(f"{where}: `transfer_map` is not a mapping of layer numbers to devices")
    return value
