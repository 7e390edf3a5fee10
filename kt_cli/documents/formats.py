"""Bytes → plain data. Depth and size are limited before anything is built from them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

from kt_cli.documents.record import Record
from kt_cli.documents.source import Source, shown

MAX_DEPTH = 64
MAX_CONTAINERS = 4_000_000
"""Objects and lists of one file: a header of a million tensors has three million."""
_LONGEST = 200
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_LONG_KEY = re.compile(
    rf"""(?<![\w-])(?:(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){{{MAX_DEPTH}}}"""
)
"""A dotted TOML key: tomllib takes quadratic time to read it."""
_NO_BRACKETS = bytes(set(range(256)) - _STEPS.keys())


def parse_json(content: bytes, source: Source) -> Record:
    """A JSON object. NaN and infinities pass here; the getters of `Record` refuse them."""
    text = text_of(content, source, mark=False)
    _require_flat(content, source)
    try:
        values = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise source.wrong(f"it is no JSON: {_sentence(error)}") from error
    if not isinstance(values, dict):
        raise source.wrong(f"it is no JSON object but {shown(values)}")
    if _SURROGATE.search(content):
        _require_whole_characters(values, source)
    return Record(source, values)


def parse_toml(content: bytes, source: Source) -> Record:
    try:
        import tomllib
    except ImportError:
        import tomli as tomllib
    text = text_of(content, source, mark=True)
    if _LONG_KEY.search(text):
        raise source.wrong(_too_deep())
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise source.wrong(f"it is no TOML: {_sentence(error)}") from error
    _require_plain(values, source)
    return Record(source, values)


def parse_yaml(content: bytes, source: Source) -> Any:
    """Any YAML value; few aliases can stand for a huge tree, so what they stand for is counted."""
    import yaml

    from kt_cli.documents import yaml_events

    text = text_of(content, source, mark=True)
    try:
        yaml_events.require_small(text, MAX_DEPTH)
        values = yaml.load(text, Loader=yaml_events.loader())
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise source.wrong(f"it is no YAML: {_sentence(error)}") from error
    _require_plain(values, source)
    return values


def text_of(content: bytes, source: Source, *, mark: bool) -> str:
    """UTF-8, with a byte order mark at its start only where `mark` allows it.

    JSON must not have one (RFC 8259), and transformers refuses it.
    """
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise source.wrong("it is UTF-16; it must be saved as UTF-8")
    if content.startswith(b"\xef\xbb\xbf") and not mark:
        raise source.wrong("it starts with a byte order mark, which JSON must be saved without")
    try:
        return content.decode("utf-8-sig" if mark else "utf-8")
    except UnicodeDecodeError as error:
        raise source.wrong(f"byte {error.start} is not UTF-8") from error


def _require_flat(content: bytes, source: Source) -> None:
    """Strings are left out where they matter: most files have fewer brackets than the limit."""
    if content.count(b"[") + content.count(b"{") <= MAX_DEPTH:
        return
    brackets = _STRING.sub(b"", content).translate(None, _NO_BRACKETS)
    if brackets.count(b"[") + brackets.count(b"{") > MAX_CONTAINERS:
        raise source.wrong(f"it has more than {MAX_CONTAINERS} lists and objects")
    if max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > MAX_DEPTH:
        raise source.wrong(_too_deep())


def _require_plain(values: Any, source: Source) -> None:
    for depth, value in _nodes(values):
        if depth > MAX_DEPTH:
            raise source.wrong(_too_deep())
        if type(value) is int and value.bit_length() > 64:
            raise source.wrong(f"{shown(value)} stands there, where 64 bits are the most")


def _too_deep() -> str:
    return f"it is nested more than {MAX_DEPTH} levels deep"


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Readers differ in which of two values they take, so two that differ are refused."""
    values = dict(pairs)
    if len(values) != len(pairs):
        first: dict[str, Any] = {}
        for key, value in pairs:
            if key in first and first[key] != value:
                raise ValueError(f"the key {shown(key)} stands there twice")
            first[key] = value
    return values


def _require_whole_characters(values: Mapping[str, Any], source: Source) -> None:
    for _, value in _nodes(values):
        if isinstance(value, str) and not _encodable(value):
            raise source.wrong(f"the text {shown(value)} has half of a character")


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _nodes(tree: Any) -> Iterator[tuple[int, Any]]:
    """(depth, value) of every key and value below."""
    pending = [(0, tree)]
    while pending:
        depth, value = pending.pop()
        yield depth, value
        if isinstance(value, Mapping):
            pending += ((depth, key) for key in value)
            pending += ((depth + 1, item) for item in value.values())
        elif isinstance(value, list):
            pending += ((depth + 1, item) for item in value)


def _sentence(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return _too_deep()
    if "integer string conversion" in str(error):  # Python's own limit, in Python's own words
        return "it has a number of thousands of digits"
    return " ".join(str(error).split())[:_LONGEST]
