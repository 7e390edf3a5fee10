"""The small files of a model that the engine reads, checked before a library believes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from kt_cli.documents import Record, read_json, shown
from kt_cli.errors import KtError, TransferError, UsageError

CONFIG, GENERATION = "config.json", "generation_config.json"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
TEMPLATE_JSON = "chat_template.json"
_SMALL = (TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json", TEMPLATE_JSON)
_LAST_TOKEN = 2**31 - 1
_LONGEST = 300
T = TypeVar("T")


def read(model: Path, name: str) -> Record | None:
    """None where the model has no such file. Raises a KtError that names it."""
    file = model / name
    return read_json(file) if file.exists() else None


def check_tokenizer_files(model: Path) -> None:
    for name in _SMALL:
        record = read(model, name)
        if record is not None:
            _check_template(record)
            for key in ("tokenizer_class", "bos_token", "eos_token", "pad_token"):
                _check_word(record, key)


def _check_template(record: Record) -> None:
    """A text, texts by name, or a list of objects with `name` and `template`."""
    found = record.raw("chat_template")
    if isinstance(found, list):
        named = (isinstance(x, dict) and (x.get("name"), x.get("template")) for x in found)
        fine = all(pair and all(isinstance(part, str) for part in pair) for pair in named)
    elif isinstance(found, dict):
        fine = all(isinstance(text, str) for text in found.values())
    else:
        fine = found is None or isinstance(found, str)
    if not fine:
        raise record.wrong("chat_template", found, "a text, or texts by name")


def _check_word(record: Record, key: str) -> None:
    """A text, or an object that has it as `content`."""
    found = record.raw(key)
    text = found.get("content") if isinstance(found, dict) else found
    if found is not None and not isinstance(text, str):
        raise record.wrong(key, found, "a text")


def end_tokens(record: Record, number_of: Callable[[str], int | None]) -> frozenset[int]:
    """`eos_token_id`: a number, a word of the vocabulary, or a list of them; -1 stands for none."""
    found = record.raw("eos_token_id")
    entries = found if isinstance(found, list) else [found]
    numbers = [_number(record, entry, number_of) for entry in entries if entry is not None]
    return frozenset(number for number in numbers if number >= 0)


def _number(record: Record, entry: Any, number_of: Callable[[str], int | None]) -> int:
    number = number_of(entry) if isinstance(entry, str) else entry
    if type(number) is not int or not -1 <= number <= _LAST_TOKEN:
        raise record.wrong("eos_token_id", entry, "the number of a token, or a list of them")
    return number


def by_library(
    what: str, model: Path, name: str, call: Callable[[], T], damaged: type[KtError] = TransferError
) -> T:
    """What a library makes of a file that was checked as far as it can be.

    Anything may come out of it, a panic of Rust too, which is no `Exception`.
    """
    try:
        return call()
    except (KtError, KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except BaseException as error:
        raise _explained(what, model, name, error, damaged) from error


def _explained(
    what: str, model: Path, name: str, error: BaseException, damaged: type[KtError]
) -> KtError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    why = (lines[0] if lines else type(error).__name__)[:_LONGEST]
    if (model / name).exists() and not isinstance(error, OSError):
        return damaged(f"{what}: {model / name}", why, "download it again")
    return UsageError(f"{what}: {model}", why, f"it needs a {shown(name)} of a known kind")
