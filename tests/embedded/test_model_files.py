"""Tokenizers, chat templates and generation configs of every odd kind: an error names the file."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kt_cli.embedded.loading import read_config
from kt_cli.embedded.tokenizer import Tokenizer, end_tokens
from kt_cli.errors import KtError
from tests.embedded.models import save_model

ODD: tuple[Any, ...] = (None, True, 0, -5, 1e400, 10**30, 1.5, "", "x", "\x00", [], [[]], [None])
ODD += ({}, {"a": {}}, [2, [3]], ["x", 1], [{"name": 1, "template": "x"}])
JSON_FILES = ("config.json", "generation_config.json", "tokenizer_config.json")
USER = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import Tokenizer as Words
    from tokenizers import decoders, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("whole")
    save_model("qwen3_moe", folder)
    for file in folder.glob("*"):
        if file.name != "config.json":
            file.unlink()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(letters)} | {"hi": 256}
    words = Words(models.BPE(vocab=vocabulary, merges=[("h", "i")]))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    words.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    words.save(str(folder / "tokenizer.json"))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    template = "{{ messages[0].content }}"
    write(folder, "tokenizer_config.json", {**about, "chat_template": template})
    write(folder, "generation_config.json", {"eos_token_id": [1, 258]})
    return folder


def write(folder: Path, name: str, body: Any) -> None:
    (folder / name).write_text(json.dumps(body))


@pytest.fixture
def model(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "m"))


def use(model: Path) -> frozenset[int]:
    """All that loading reads of these files, and a first text."""
    read_config(model, False)
    tokenizer = Tokenizer(model)
    try:
        tokenizer.decode(tokenizer.encode("hi"))
        with contextlib.suppress(ValueError):  # a request is answered with its reason
            tokenizer.render(USER)
        return end_tokens(model, tokenizer)
    finally:
        tokenizer.close()


def refused(model: Path, *names: str) -> None:
    with pytest.raises(KtError) as caught:
        use(model)
    said = caught.value
    assert said.why and said.fix
    assert any(name in said.what for name in names), said.what


def changed(model: Path, name: str, **fields: Any) -> Path:
    write(model, name, json.loads((model / name).read_text()) | fields)
    return model


@pytest.mark.parametrize(
    ("eos", "found"),
    [
        (7, {1, 7}),
        ([7, 8], {1, 7, 8}),
        ("<|im_end|>", {1}),
        (["<|im_end|>", 9, None], {1, 9}),
        (-1, {1}),
        (None, {1}),
    ],
)
def test_an_end_is_a_number_or_a_word_or_several(model: Path, eos: Any, found: set[int]) -> None:
    ends = use(changed(model, "generation_config.json", eos_token_id=eos))
    assert ends == found | {258}


@pytest.mark.parametrize("eos", ["<|nobody|>", [2, [3]], {"a": 1}, 1.5, True, 10**30, -7])
def test_another_end_is_refused_by_name(model: Path, eos: Any) -> None:
    refused(changed(model, "generation_config.json", eos_token_id=eos), "generation_config.json")


def damages(file: Path) -> list[Callable[[], object]]:
    body = file.read_bytes()
    deep = b"[" * 100_000 + b"]" * 100_000
    written = (
        body[: len(body) // 2],
        b"",
        b"[]",
        b"null",
        b"\xff\xfe" + body,
        body.replace(b"t", b"\xe9", 1),
        b'{"a":' + deep + b"}",
        b"7" * 10_000,
    )
    return [
        *(lambda text=text: file.write_bytes(text) for text in written),
        lambda: (file.unlink(), file.mkdir()),
        lambda: (file.unlink(), file.symlink_to("/dev/zero")),
    ]


@pytest.mark.parametrize("name", [*JSON_FILES, "tokenizer.json", "chat_template.json"])
def test_a_damaged_file_is_named(model: Path, tmp_path: Path, name: str) -> None:
    kept = tmp_path / "kept"
    if not (model / name).exists():
        write(model, name, {"chat_template": "a"})
    shutil.copytree(model, kept)
    for number in range(len(damages(model / name))):
        shutil.rmtree(model)
        shutil.copytree(kept, model)
        damages(model / name)[number]()
        refused(model, name, "the tokenizer cannot be read")


def test_any_value_in_any_place_is_taken_or_refused_by_name(model: Path, whole: Path) -> None:
    keys = {
        "config.json": ("quantization_config", "auto_map", "model_type", "num_hidden_layers"),
        "generation_config.json": ("eos_token_id",),
        "tokenizer_config.json": (
            *("tokenizer_class", "chat_template", "eos_token", "auto_map", "added_tokens_decoder"),
            *("extra_special_tokens", "model_max_length"),
        ),
    }
    tried = 0
    for name, fields in keys.items():
        for field in fields:
            for value in ODD:
                changed(model, name, **{field: value})
                try:
                    use(model)
                except KtError as error:
                    assert error.what and error.why
                tried += 1
                shutil.copy(whole / name, model / name)
    assert tried == sum(map(len, keys.values())) * len(ODD)


def test_one_flipped_bit_of_a_tokenizer_is_taken_or_refused_by_name(model: Path) -> None:
    file = model / "tokenizer.json"
    body, chance, refusals = file.read_bytes(), random.Random(11), 0
    for _ in range(60):
        flipped = bytearray(body)
        flipped[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
        file.write_bytes(flipped)
        try:
            Tokenizer(model)
        except KtError as error:
            refusals += 1
            assert "tokenizer" in error.what and error.why and error.fix
    assert refusals > 5


def test_kinds_that_are_not_known_say_what_they_need(model: Path) -> None:
    words = json.loads((model / "tokenizer.json").read_text())
    for part in ("model", "pre_tokenizer", "decoder"):
        write(model, "tokenizer.json", words | {part: {"type": "Tomorrow"}})
        refused(model, "tokenizer.json")
    (model / "tokenizer.json").unlink()
    for kind in ("LlamaTokenizer", "TikTokenTokenizer", "Nobody"):
        changed(model, "tokenizer_config.json", tokenizer_class=kind)
        refused(model, str(model))
    code = {"AutoTokenizer": ["tokenization_kimi.TikTokenTokenizer", None]}
    changed(model, "tokenizer_config.json", auto_map=code)
    with pytest.raises(KtError) as caught:
        use(model)
    assert "--trust-remote-code" in caught.value.fix


def test_a_template_beside_the_tokenizer_is_found(model: Path) -> None:
    changed(model, "tokenizer_config.json", chat_template=None)
    write(model, "chat_template.json", {"chat_template": "J{{ messages[0].content }}"})
    tokenizer = Tokenizer(model)
    assert tokenizer.decode(tokenizer.render(USER)) == "Jhi"
    tokenizer.close()
