"""Text and tokens, by the tokenizer that comes with the model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from kt_cli.embedded import model_files
from kt_cli.embedded.chat_template import ChatTemplate
from kt_cli.errors import AuthError


class Tokenizer:
    def __init__(self, path: Path, trust_remote_code: bool = False) -> None:
        """Raises a KtError that names the file which cannot be read."""
        model_files.check_tokenizer_files(path)
        _require_consent(path, trust_remote_code)
        what = "the tokenizer cannot be read"
        self._tokenizer: Any = model_files.by_library(
            what,
            path,
            model_files.TOKENIZER,
            lambda: _tried(
                AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
            ),
        )
        self._path = path

    @property
    def eos(self) -> int | None:
        found: int | None = self._tokenizer.eos_token_id
        return found

    def number_of(self, word: str) -> int | None:
        """Of a token, by its text."""
        found: int | None = self._tokenizer.get_vocab().get(word)
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
        return ChatTemplate(self._template_text(), self._special_tokens())

    def _template_text(self) -> str:
        if getattr(self._tokenizer, "chat_template", None):
            return str(self._tokenizer.get_chat_template())
        beside = model_files.read(self._path, model_files.TEMPLATE_JSON)
        if beside is None or not beside.has("chat_template"):
            raise ValueError("the model has no chat template")
        return beside.text("chat_template")

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


def _tried(tokenizer: Any) -> Any:
    """A tokenizer that loads may still fail at its first text."""
    ids = tokenizer("Hello, wörld 1\n", add_special_tokens=False)["input_ids"]
    if not set(ids) - {tokenizer.unk_token_id}:
        raise ValueError("it knows none of the words of a text: its vocabulary is missing")
    if not isinstance(tokenizer.decode(list(ids)), str):
        raise ValueError("it makes no text of its own tokens")
    return tokenizer


def _require_consent(path: Path, trust_remote_code: bool) -> None:
    config = model_files.read(path, model_files.TOKENIZER_CONFIG)
    own_code = config is not None and config.part("auto_map").has("AutoTokenizer")
    if own_code and not trust_remote_code and not (path / model_files.TOKENIZER).is_file():
        why = "its tokenizer is code of its own"
        raise AuthError(f"{path} needs remote code", why, "add `--trust-remote-code` to allow it")


def end_tokens(path: Path, tokenizer: Tokenizer) -> frozenset[int]:
    """Every token that ends an answer, from the generation config, the config, the tokenizer."""
    found = set() if tokenizer.eos is None else {tokenizer.eos}
    for name in (model_files.CONFIG, model_files.GENERATION):
        record = model_files.read(path, name)
        for part in () if record is None else (record, record.part("text_config")):
            found |= model_files.end_tokens(part, tokenizer.number_of)
    return frozenset(found)
