"""Thousands of damaged files, the same in each run: a model or an error of `kt`, nothing else.

KT_FUZZ_FILES=200000 for the long run, KT_FUZZ_SEED for other files.
"""

import json
import os
import random
import struct
import sys

import gguf_bytes
import pytest
from odd import damaged, mutated, odd, written
from tiny_models import mixtral_headers

from kt_cli import catalog
from kt_cli.catalog.describe import from_config, from_tensors
from kt_cli.catalog.gguf import read_gguf
from kt_cli.core.model import Model
from kt_cli.core.plan_run import plan_run
from kt_cli.core.serial import to_plain
from kt_cli.core.what_if import completed
from kt_cli.documents import Source, parse_json, parse_toml, parse_yaml
from kt_cli.engines.facts import presets_folder, read_facts, read_gpus
from kt_cli.errors import KtError
from kt_cli.options import RunOptions
from kt_cli.probe import toml
from kt_cli.weights.headers import header_length, parse_header, read_header
from kt_cli.weights.index import index_of

FILES = int(os.environ.get("KT_FUZZ_FILES", "3000"))
SEED = int(os.environ.get("KT_FUZZ_SEED", "7"))
QUANTISED = (
    {"quant_method": "gptq", "bits": 4, "group_size": 128, "dynamic": {"+:.*up.*": {"bits": 8}}},
    {"quant_method": "awq", "bits": 4, "group_size": 128, "modules_to_not_convert": ["lm_head"]},
    {"quant_method": "fp8", "weight_block_size": [128, 128], "ignored_layers": ["re:.*gate"]},
    {"quant_method": "compressed-tensors", "config_groups": {"g": {"targets": ["Linear"],
        "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}}}},
    {"quant_method": "modelopt", "quant_algo": "NVFP4", "exclude_modules": ["lm_head"]},
)  # fmt: skip
PLANNED = 100
"""One model in so many is planned too."""


@pytest.fixture
def count(request):
    """How many files came to what, told where they are counted (`pytest -s`)."""
    tally = {"models": 0, "errors": 0}
    yield tally
    print(f"{request.node.name}: {tally}", file=sys.stderr)
    assert all(tally.values()), "all files came to the same"


def tried(read, what, count):
    """Runs `read`; what it raises must be an error of `kt` that says all three things."""
    try:
        found = read()
    except KtError as error:
        count["errors"] += 1
        text = "".join((error.what, error.why, error.fix))
        assert error.what and (error.why or error.fix), repr(error)
        assert len(text) < 3000, text[:200]
        text.encode()
        return None
    except BaseException as error:
        raise AssertionError(f"{type(error).__name__} {error} for {what()!r}"[:4000]) from error
    count["models"] += 1
    return found


def check(model):
    """A model that can be counted with, written down and planned."""
    assert isinstance(model, Model)
    json.dumps(to_plain(model), allow_nan=False)
    assert all(type(n) is int and n >= 0 for n in (*model.bytes.values(), model.total_parameters))
    assert 1 <= model.layers <= 10_000
    kept = model.attention
    assert kept.full_layers + kept.window_layers + kept.linear_layers <= model.layers
    if model.experts:
        assert set(model.experts.layers) <= set(range(model.layers))
        assert 1 <= model.experts.top_k <= model.experts.count


def either(rng, tree):
    return damaged(rng, written(tree)) if rng.random() < 0.5 else written(mutated(rng, tree))


@pytest.fixture(scope="module")
def planned():
    machine = toml.load(presets_folder() / "machines" / "4090+2x6454s.toml")
    facts, whole = read_facts(), completed(machine, read_gpus())
    return lambda model: plan_run(whole, model, RunOptions(model=model.name), facts)


def test_configurations(count, planned):
    rng = random.Random(SEED)
    known = [dict(preset.config) for preset in catalog.load_presets() if preset.config]
    for n in range(FILES):
        base = rng.choice(known)
        if rng.random() < 0.3:
            base = {**base, "quantization_config": rng.choice(QUANTISED)}
        values = mutated(rng, base)

        def read(values=values):
            return from_config(parse_json(written(values), Source("config.json")).values, "m")

        model = tried(read, lambda values=values: values, count)
        if model:
            check(model)
            if n % PLANNED == 0:
                tried(lambda model=model: planned(model), lambda values=values: values, count)


def test_configurations_beside_tensors(count, tmp_path):
    rng = random.Random(SEED + 1)
    folder = mixtral_headers(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    tensors = list(read_header(folder / "model.safetensors").values())
    for _ in range(FILES // 3):
        text = (
            damaged(rng, written(config)) if rng.random() < 0.5 else written(mutated(rng, config))
        )

        def read(text=text):
            return from_tensors(parse_json(text, Source("config.json")).values, tensors, "m", "m")

        model = tried(read, lambda text=text: text, count)
        if model:
            check(model)


def test_safetensors_headers(count, tmp_path):
    rng = random.Random(SEED + 2)
    content = (mixtral_headers(tmp_path / "m") / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    entries = json.loads(content[8 : 8 + length])
    for _ in range(FILES // 3):
        if rng.random() < 0.5:
            head = damaged(rng, content[: 8 + length])
        else:
            text = written(mutated(rng, entries))
            head = len(text).to_bytes(8, "little") + text
        size = len(head) + len(content) - 8 - length

        def read(head=head, size=size):
            return parse_header(head[8 : 8 + header_length(head[:8], size, "x")], size, "x")

        found = tried(read, lambda head=head: head, count)
        assert not found or sum(info.nbytes for info in found.values()) <= size


def test_indexes(count):
    rng = random.Random(SEED + 3)
    names = {f"t.{i}": "a.safetensors" for i in range(9)}
    index = {"metadata": {"total_size": 5}, "weight_map": names}
    for _ in range(FILES // 3):
        text = either(rng, index)
        found = tried(lambda text=text: index_of(text, "x"), lambda text=text: text, count)
        assert not found or all("/" not in file for file in found.values())


def odd_metadata(rng, metadata):
    metadata = dict(metadata)
    for key in rng.sample(sorted(metadata), rng.choice((1, 1, 2))):
        value = odd(rng)
        if isinstance(value, (dict, type(None))) or rng.random() < 0.2:
            metadata[key] = None
        elif isinstance(value, list):
            metadata[key] = [rng.choice((0, 1, 2, 2**31))] * rng.choice((0, 1, 2, 9))
        elif isinstance(value, int) and abs(value) >= 1 << 63:
            metadata[key] = rng.choice(("text", b"\xff\xfe", float("nan")))
        else:
            metadata[key] = value
    window = rng.choice((None, 0, 8, 5000, "8"))
    pattern = rng.choice((None, 0, 1, 2, 3, "LG", [1, 0], [True], 2.5))
    arch = metadata.get("general.architecture")
    extra = {"attention.sliding_window": window, "attention.sliding_window_pattern": pattern}
    return metadata | {f"{arch}.{key}": value for key, value in extra.items()}


def odd_tensors(rng, tensors):
    tensors = dict(tensors)
    for name in rng.sample(sorted(tensors), rng.choice((0, 1, 1, 3))):
        dims, kind = tensors.pop(name)
        dims = list(dims)
        dims[rng.randrange(len(dims))] = rng.choice((0, 1, 2, 256, 257, 4096))
        dims = dims[: rng.choice((1, 2, 3))]
        kind = rng.choice((kind, kind, 0, 1, 8, 12, 31, 77, 139))
        if rng.random() < 0.8:
            name = rng.choice((name, name, name + "x", name.replace("blk.1", "blk.9")))
            tensors[name] = (dims, kind)
    return tensors


def test_gguf(count, tmp_path):
    rng = random.Random(SEED + 4)
    path = tmp_path / "m.gguf"
    archs = ("qwen3moe", "gpt-oss", "llama", "smallthinker", "gemma3")
    whole = gguf_bytes.write(path, *gguf_bytes.moe()).read_bytes()
    header = whole[: whole.index(b"ffn_down_exps", whole.index(b"blk.1.")) + 80]
    for _ in range(FILES // 3):
        if rng.random() < 0.4:
            path.write_bytes(damaged(rng, header))
            os.truncate(path, len(whole) - rng.choice((0, 0, 0, 32)))
        else:
            metadata, tensors = gguf_bytes.moe(rng.choice(archs))
            try:
                gguf_bytes.write(path, odd_metadata(rng, metadata), odd_tensors(rng, tensors))
            except (struct.error, OverflowError, ValueError):
                continue  # a number that does not fit the format cannot be in a file
        model = tried(lambda: read_gguf([path]), lambda: path.read_bytes()[:3000], count)
        if model:
            check(model)


def test_toml_and_yaml(count):
    rng = random.Random(SEED + 5)
    texts = {
        parse_toml: (presets_folder() / "machines" / "4090+2x6454s.toml").read_bytes(),
        parse_yaml: (presets_folder() / "rules" / "mixtral.yaml").read_bytes(),
    }
    for n in range(FILES // 6):
        parse = (parse_toml, parse_yaml)[n % 2]
        text = damaged(rng, texts[parse])
        tried(lambda p=parse, t=text: p(t, Source("x")), lambda text=text: text, count)
