"""Structured files from outside, by one checked way in: JSON, TOML and YAML.

A file becomes a `Record`, or a `KtError` that names the file. Refused are files that are missing,
no regular file, not readable, too large, not UTF-8, nested too deeply, or that have a key twice.
The record's getters then check types and ranges.
"""

from __future__ import annotations

from kt_cli.documents.formats import parse_json, parse_toml, parse_yaml
from kt_cli.documents.reading import (
    MAX_BYTES,
    open_regular,
    read_bytes,
    read_json,
    read_toml,
    read_yaml,
)
from kt_cli.documents.record import Record
from kt_cli.documents.source import Source, shown

__all__ = [
    "MAX_BYTES",
    "Record",
    "Source",
    "open_regular",
    "parse_json",
    "parse_toml",
    "parse_yaml",
    "read_bytes",
    "read_json",
    "read_toml",
    "read_yaml",
    "shown",
]
