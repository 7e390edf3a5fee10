"""Text and tokens, by the tokenizer that comes with the model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from kt_cli.embedded.chat_template import ChatTemplate
from kt_cli.errors import UsageError


class Tokenizer:
    def __init__(self, path: Path, trust_remote_code: bool = False) -> None:
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(
                path, trust_remote_code=trust_remote_code
            )
        except (OSError, ValueError, KeyError) as error:
            first = str(error).strip().splitlines()[0]
            raise UsageError(f"{path} has no tokenizer that can be read", first) from error

    @property
    def eos(self) -> int | None:
        found: int | None = self._tokenizer.eos_token_id
        return found

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text)["input_ids"]
        return list(ids)

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def render(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        """Raises ValueError when the model has no chat template or it refuses the messages."""
        text = (
            self._by_its_own_code(messages) if self._has_code else self._template.render(messages)
        )
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return list(ids)

    def close(self) -> None:
        if "_template" in self.__dict__:
            self._template.close()

    @property
    def _has_code(self) -> bool:
        """Whether the tokenizer's class brings another way to render, which was consented to."""
        own = type(self._tokenizer).apply_chat_template
        return own is not PreTrainedTokenizerBase.apply_chat_template

    @cached_property
    def _template(self) -> ChatTemplate:
        if not getattr(self._tokenizer, "chat_template", None):
            raise ValueError("the model has no chat template")
        return ChatTemplate(self._tokenizer.get_chat_template(), self._special_tokens())

    def _special_tokens(self) -> dict[str, Any]:
        """Names such as `bos_token`, which templates read."""
        tokens = self._tokenizer.special_tokens_map.items()
        return {
            name: [str(t) for t in token] if isinstance(token, list | tuple) else str(token)
            for name, token in tokens
        }

    def _by_its_own_code(self, messages: Sequence[dict[str, Any]]) -> str:
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    list(messages), tokenize=False, add_generation_prompt=True
                )
            )
        except Exception as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error


def end_tokens(path: Path, config: Any, tokenizer: Tokenizer) -> frozenset[int]:
    """Every token that ends an answer, from the generation config, the config, the tokenizer."""
    found: list[Any] = [getattr(config, "eos_token_id", None), tokenizer.eos]
    file = path / "generation_config.json"
    if file.is_file():
        try:
            found.append(json.loads(file.read_text(encoding="utf-8")).get("eos_token_id"))
        except ValueError as error:
            raise UsageError(f"{file} is not valid JSON", str(error)) from error
    flat = (t for entry in found for t in (entry if isinstance(entry, list) else [entry]))
    return frozenset(int(token) for token in flat if token is not None)
