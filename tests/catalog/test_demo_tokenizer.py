"""The rebuilt tokenizer against a plain byte-pair encoder over the GGUF's vocabulary and merges."""

import re
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from kt_cli.catalog import demo
from kt_cli.catalog.demo.fetch import GGUF
from kt_cli.catalog.demo.tokenizer import tokenizer_files
from kt_cli.errors import KtError
from kt_cli.weights.gguf import GgufFile

ENGLISH = [
    "What is the capital of France?",
    "It's 12:30, and I've paid $4,250.75 - haven't you?  Two  spaces.",
    "def f(x):\n    return x ** 2  # square\n",
    " Leading space, trailing space ",
    "Zürich, naïve café: 3½ € 日本語 🙂",
]
# GPT-2's word pattern, over ASCII and Latin letters.
WORD = re.compile(r"'(?:[sdmt]|ll|ve|re)| ?[^\W\d_]+| ?\d+| ?[^\s\w]+| ?_+|\s+(?!\S)|\s+")


@pytest.fixture(scope="module")
def metadata(demo_home):
    return GgufFile.open(demo_home / "cache" / "demo" / GGUF).metadata


@pytest.fixture(scope="module")
def tokenizer(demo_home):
    return AutoTokenizer.from_pretrained(demo.folder_of(demo_home))


@pytest.fixture(scope="module")
def known_bytes(metadata):
    """The vocabulary of SmolLM2 lacks 21 of the 256 bytes."""
    tokens = set(metadata["tokenizer.ggml.tokens"])
    return {byte for byte, letter in byte_letters().items() if letter in tokens}


def byte_letters():
    """The printable stand-in that GPT-2 has for every byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {b: chr(256 + i) for i, b in enumerate(rest)}


def encode(text, metadata):
    ids = {token: i for i, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    merges = metadata["tokenizer.ggml.merges"]
    ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(merges)}
    letters = byte_letters()
    pieces = [p for part in re.split(r"(\d)", text) for p in WORD.findall(part)]
    words = [[letters[b] for b in piece.encode()] for piece in pieces]
    return [ids[token] for word in words for token in merged(word, ranks)]


def merged(word, ranks):
    while len(word) > 1:
        pairs = list(pairwise(word))
        best = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            break
        at = pairs.index(best)
        word = [*word[:at], word[at] + word[at + 1], *word[at + 2 :]]
    return word


@pytest.mark.parametrize("text", ENGLISH)
def test_ids_equal_a_plain_byte_pair_encoder(text, tokenizer, metadata):
    assert tokenizer(text).input_ids == encode(text, metadata)


@settings(max_examples=200, deadline=None)
@given(text=st.text())
def test_text_survives_encoding_and_decoding(text, tokenizer, known_bytes):
    assume(known_bytes.issuperset(text.encode()))
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == text


def test_special_tokens_have_the_ids_of_the_file(tokenizer, metadata):
    tokens = metadata["tokenizer.ggml.tokens"]
    for token in ("<|im_start|>", "<|im_end|>", "<|endoftext|>"):
        assert tokenizer(token).input_ids == [tokens.index(token)]
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.decode([1, 9690, 2], skip_special_tokens=True) == "system"


def test_a_conversation_takes_the_models_own_form(tokenizer):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_a_tokenizer_of_another_kind_is_refused():
    with pytest.raises(KtError, match="cannot rebuild the tokenizer"):
        tokenizer_files({"tokenizer.ggml.model": "llama"})
