"""A Hugging Face tokenizer from the vocabulary, merges and template in a GGUF's metadata.

Covers byte-level BPE with single digits, the `smollm` pre-tokenizer of llama.cpp.
File format: https://github.com/huggingface/tokenizers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kt_cli.errors import KtError

CONTROL, USER_DEFINED = 3, 4


def tokenizer_files(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Contents of tokenizer.json and tokenizer_config.json, by file name."""
    kind = (metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre"))
    if kind != ("gpt2", "smollm"):
        raise KtError("cannot rebuild the tokenizer", f"its kind is {kind}, not ('gpt2', 'smollm')")
    return {"tokenizer.json": _tokenizer(metadata), "tokenizer_config.json": _config(metadata)}


def _tokenizer(metadata: Mapping[str, Any]) -> dict[str, Any]:
    tokens = metadata["tokenizer.ggml.tokens"]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    splits = [{"type": "Digits", "individual_digits": True}, {**byte_level, "use_regex": True}]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(i, tokens[i]) for i in _special(metadata)],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": splits},
        "post_processor": None,
        "decoder": {**byte_level, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in metadata["tokenizer.ggml.merges"]],
        },
    }


def _special(metadata: Mapping[str, Any]) -> list[int]:
    types = metadata["tokenizer.ggml.token_type"]
    return [i for i, kind in enumerate(types) if kind in (CONTROL, USER_DEFINED)]


def _added(index: int, token: str) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": index, "content": token, **flags, "special": True}


def _config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    tokens = metadata["tokenizer.ggml.tokens"]

    def token(role: str) -> str:
        return str(tokens[metadata[f"tokenizer.ggml.{role}_token_id"]])

    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "bos_token": token("bos"),
        "eos_token": token("eos"),
        "unk_token": token("unknown"),
        "pad_token": token("padding"),
        "model_max_length": metadata["llama.context_length"],
        "chat_template": metadata["tokenizer.chat_template"],
    }
