"""Text and tokens, by the tokenizer that comes with the model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

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
        if not getattr(self._tokenizer, "chat_template", None):
            raise ValueError("the model has no chat template")
        from jinja2 import TemplateError

        try:
            text: str = self._tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=True
            )
        except (TemplateError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"the chat template refuses these messages: {error}") from error
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return list(ids)


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
