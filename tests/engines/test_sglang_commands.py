"""Every SGLang command of every plan, against sglang-kt 0.7.2's parser and the checks after it.

The parser's flags were captured by `scripts/check_sglang_commands.py`, which runs the same commands
through an installed SGLang itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tests.engines.commands import Command, commands

CAPTURED = Path(__file__).parent / "data" / "sglang-0.7.2.json"
ATTENTION = {
    "GptOssForCausalLM": {"triton", "trtllm_mha", "fa3", "fa4"},  # server_args.py:2062
    "Llama4ForConditionalGeneration": {"triton", "trtllm_mha", "fa3"},  # server_args.py:2197
}
HYBRID = ("GptOssForCausalLM", "Llama4ForConditionalGeneration")
"""configs/model_config.py:1479, of those that are presets."""


@cache
def parser() -> Mapping[str, Any]:
    return {flag: x for x in json.loads(CAPTURED.read_text()) for flag in x["flags"]}


@cache
def every() -> tuple[Command, ...]:
    return tuple(commands())


def test_there_are_commands_to_check() -> None:
    assert len(every()) > 200
    assert len({c.machine for c in every()}) > 4


def test_the_parser_takes_every_command() -> None:
    for c in every():
        for flag, values in c.flags().items():
            known = parser().get(flag)
            assert known, f"{c.machine}, {c.model}: {flag}"
            count = {"+": len(values) or -1, "*": len(values)}.get(known["values"], known["values"])
            assert len(values) == count, f"{c.machine}, {c.model}: {flag} {values}"
            if known["choices"]:
                assert set(values) <= set(known["choices"]), f"{c.model}: {flag} {values}"
            if known["type"] in ("int", "float"):
                assert all(map(_number, values)), c.model


def test_the_checks_after_the_parser_let_every_command_pass() -> None:
    for c in every():
        flags, where = c.flags(), f"{c.machine}, {c.model}"
        architecture = c.config["architectures"][0]
        kernels = flags.get("--attention-backend", [""])[0]
        if architecture in ATTENTION:
            assert kernels in ATTENTION[architecture], where
        if kernels.startswith("trtllm"):
            assert c.capability[0] in (10, 12), where
        assert ":" not in flags["--served-model-name"][0], where
        sparse = bool(c.config.get("index_head_dim"))
        page = 256 if architecture == "DeepseekV4ForCausalLM" else 64 if sparse else 1
        assert int(flags["--chunked-prefill-size"][0]) % page == 0, where
        dtype = flags["--kv-cache-dtype"][0]
        if architecture == "DeepseekV4ForCausalLM":
            assert dtype in ("auto", "fp8_e4m3"), where
        elif sparse:
            assert dtype in ("bf16", "fp8_e4m3"), f"{where}: auto is fp8 on Blackwell"


def test_the_pools_hold_the_tokens_and_requests_that_the_plan_promises() -> None:
    """As `model_runner_kv_cache_mixin.py` sizes them from the flags."""
    seen = set()
    for c in every():
        flags, where = c.flags(), f"{c.machine}, {c.model}"
        told = int(flags["--max-total-tokens"][0])
        architecture, text = c.config["architectures"][0], c.config.get("text_config") or c.config
        full = told
        if architecture in HYBRID:
            windows = _windows(text)
            layers = text["num_hidden_layers"]
            full = int(told * layers / (layers - windows + 0.8 * windows))
            seen.add("windows")
        page = 256 if architecture == "DeepseekV4ForCausalLM" else 1
        page = 64 if page == 1 and text.get("index_head_dim") else page
        assert full // page * page >= c.plan.value("kv_tokens"), where
        assert c.plan.value("kv_tokens") >= c.plan.value("context"), where
        if text.get("linear_num_value_heads"):
            states = int(flags["--max-mamba-cache-size"][0])
            assert states // 3 >= int(flags["--max-running-requests"][0]), where
            seen.add("states")
    assert seen == {"windows", "states"}


def _number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()


def _windows(text: Mapping[str, Any]) -> int:
    layers = text["num_hidden_layers"]
    kinds = text.get("layer_types")
    if kinds:
        return sum(kind in ("sliding_attention", "chunked_attention") for kind in kinds)
    if "no_rope_layers" in text or "attention_chunk_size" in text:
        return layers - layers // 4
    return -(-layers // 2)
