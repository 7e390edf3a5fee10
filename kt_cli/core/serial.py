"""Frozen dataclasses to and from plain data (the shape that JSON and TOML hold).

`to_plain` drops what is None (TOML has no null) and turns tuples into lists; `from_plain` reads the
field types, so a value round-trips: `from_plain(type(x), to_plain(x)) == x`.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Mapping
from enum import Enum
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from kt_cli.documents.source import shown

T = TypeVar("T")


class ShapeError(ValueError):
    """Plain data does not have the shape of the class; the message names the field."""


def to_plain(value: object) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        pairs = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {name: to_plain(item) for name, item in pairs if item is not None}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return value.value if isinstance(value, Enum) else value


def from_plain(cls: type[T], data: Mapping[str, Any], where: str = "") -> T:
    """Raises ShapeError for an unknown, missing or mistyped field."""
    hints = _hints(cls)  # type: ignore[arg-type]
    path = where or cls.__name__
    _expect(data, Mapping, path)
    unknown = sorted(set(data) - set(hints), key=str)
    if unknown:
        raise ShapeError(f"{path} has no field {shown(unknown[0])}")
    values = {k: _value(hints[k], v, f"{path}.{k}") for k, v in data.items()}
    try:
        return cls(**values)
    except TypeError as error:
        raise ShapeError(f"{path}: {error}") from error


@functools.cache
def _hints(cls: type[Any]) -> Mapping[str, Any]:
    """Field → type; resolving the annotations is what reading costs most."""
    types_ = get_type_hints(cls)
    return {f.name: types_[f.name] for f in dataclasses.fields(cls)}


def _value(hint: Any, data: Any, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return None if data is None else _value(_not_none(args), data, where)
    if dataclasses.is_dataclass(hint):
        return from_plain(hint, _expect(data, Mapping, where), where)  # type: ignore[arg-type]
    if origin is tuple:
        return _tuple(args, _expect(data, (list, tuple), where), where)
    if origin is not None and issubclass(origin if origin is not Literal else str, Mapping):
        items = _expect(data, Mapping, where).items()
        return {_key(args[0], k, where): _value(args[1], v, f"{where}.{k}") for k, v in items}
    if origin is Literal:
        if data not in args:
            raise ShapeError(f"{where} is {shown(data)}, not one of {', '.join(map(str, args))}")
        return data
    return _scalar(hint, data, where)


def _tuple(args: tuple[Any, ...], data: Any, where: str) -> tuple[Any, ...]:
    hints = [args[0]] * len(data) if len(args) == 2 and args[1] is Ellipsis else list(args)
    if len(hints) != len(data):
        raise ShapeError(f"{where} has {len(data)} items, not {len(hints)}")
    return tuple(
        _value(h, d, f"{where}[{i}]") for i, (h, d) in enumerate(zip(hints, data, strict=True))
    )


def _scalar(hint: Any, data: Any, where: str) -> Any:
    if hint is Any or hint is object:
        return data
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _member(hint, data, where)
    if hint is float and type(data) is int:
        return float(data)
    if type(data) is not hint:
        raise ShapeError(f"{where} is {shown(data)}, not of type {hint.__name__}")
    return data


def _member(hint: type[Enum], data: Any, where: str) -> Enum:
    try:
        return hint(data)
    except ValueError as error:
        raise ShapeError(f"{where}: {error}") from error


def _key(hint: Any, key: Any, where: str) -> Any:
    try:
        return int(key) if hint is int else key
    except ValueError as error:
        raise ShapeError(f"{where} has the key {shown(key)}, which is no number") from error


def _not_none(args: tuple[Any, ...]) -> Any:
    return next(a for a in args if a is not type(None))


def _expect(data: Any, kind: Any, where: str) -> Any:
    if not isinstance(data, kind):
        raise ShapeError(f"{where} is {shown(data)}, which has the wrong shape")
    return data
