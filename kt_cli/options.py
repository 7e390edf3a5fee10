"""What a user can ask for: one definition for flags, wizard, settings and Python callers.

Each options dataclass is frozen; a field left at None is undecided and the planner settles it.
"""

from __future__ import annotations

from dataclasses import dataclass

from kt_cli.discovery import engine_names
from kt_cli.opts import (
    opt,
    parse_bytes,
    parse_count,
    parse_ids,
    parse_model,
    parse_named_path,
    parse_path,
)

SERVER, MEMORY, CPU, GPU, OUTPUT = "Server", "Memory", "CPU", "GPU", "What to do"
_SGLANG, _EMBEDDED = ("sglang",), ("embedded",)


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What `kt run` and `kt plan` can be told; every value given is a constraint for the plan."""

    model: str | None = opt(
        help="Name, alias, local folder or repository of the model",
        ask="Which model?",
        parse=parse_model,
        metavar="MODEL",
    )
    engine: str | None = opt(
        "--engine",
        help="Engine that runs the model",
        choices=lambda: ("auto", *engine_names()),
        setting="run.engine",
        panel=SERVER,
    )
    host: str | None = opt(
        "-H", "--host", help="Address to listen on", setting="server.host", panel=SERVER
    )
    port: int | None = opt(
        "-p", "--port", help="Port", low=1, high=65535, setting="server.port", panel=SERVER
    )
    served_model_name: str | None = opt(
        "--served-model-name", help="Model name in the API", panel=SERVER
    )
    name: str | None = opt("--name", help="Name of this server in `kt ps`", panel=SERVER)
    api_key: str | None = opt(
        "--api-key",
        help="Key that clients must send; `auto` makes one",
        secret=True,
        public=("auto",),
        panel=SERVER,
    )
    lora: str | None = opt(
        "--lora",
        "--lora-paths",
        help="LoRA adapter served beside the model",
        parse=parse_named_path,
        metavar="NAME=FOLDER",
        panel=SERVER,
        engines=_SGLANG,
    )
    ctx_size: int | None = opt(
        "-c",
        "--ctx-size",
        "--max-model-len",
        "--context-length",
        help="Longest context of a request, tokens (32k is 32768)",
        parse=parse_count,
        low=1,
        ask="How long may a conversation be (tokens)?",
        setting="run.ctx_size",
        metavar="TOKENS",
        panel=MEMORY,
    )
    max_running_requests: int | None = opt(
        "--max-running-requests",
        "--parallel",
        help="Requests answered at once",
        low=1,
        ask="How many requests at once?",
        setting="run.max_running_requests",
        panel=MEMORY,
    )
    max_total_tokens: int | None = opt(
        "--max-total-tokens",
        help="Tokens the KV cache holds over all requests",
        parse=parse_count,
        low=1,
        metavar="TOKENS",
        panel=MEMORY,
    )
    kv_cache_dtype: str | None = opt(
        "--kv-cache-dtype",
        help="Type of the KV cache",
        choices=("auto", "bf16", "fp8", "fp32"),
        panel=MEMORY,
    )
    dtype: str | None = opt(
        "--dtype",
        help="Compute type of the embedded engine",
        choices=("auto", "fp32", "bf16"),
        panel=CPU,
        engines=_EMBEDDED,
    )
    kt_method: str | None = opt(
        "--kt-method",
        help="Format and kernel of the experts on the CPU",
        choices=(
            "BF16",
            "INT8",
            "INT4",
            "AMXINT8",
            "AMXINT4",
            "FP8",
            "FP8_PERCHANNEL",
            "RAWINT4",
            "GPTQ_INT4",
            "MXFP4",
            "MXFP8",
            "NVFP4",
            "LLAMAFILE",
        ),
        panel=CPU,
        ask="Which format for the experts on the CPU?",
    )
    weights_path: str | None = opt(
        "--weights-path",
        "--kt-weight-path",
        help="Folder of converted CPU expert weights",
        parse=parse_path,
        metavar="PATH",
        panel=CPU,
        engines=_SGLANG,
    )
    cpu_threads: int | None = opt(
        "--cpu-threads",
        "--kt-cpuinfer",
        help="CPU threads for the experts",
        low=1,
        setting="run.cpu_threads",
        panel=CPU,
        ask="How many CPU threads?",
    )
    numa_nodes: tuple[int, ...] | None = opt(
        "--numa-nodes",
        "--kt-numa-nodes",
        help="NUMA nodes to use, such as 0,1",
        parse=parse_ids,
        metavar="NODES",
        panel=CPU,
        engines=_SGLANG,
    )
    gpu_experts: int | None = opt(
        "--gpu-experts",
        "--kt-num-gpu-experts",
        help="Experts per layer kept on the GPU",
        low=0,
        panel=GPU,
        ask="How many experts of a layer on the GPU?",
        engines=_SGLANG,
    )
    tp: int | None = opt(
        "--tp",
        "--tensor-parallel-size",
        help="GPUs to split the model over",
        low=1,
        panel=GPU,
        engines=_SGLANG,
    )
    mem_fraction: float | None = opt(
        "--mem-fraction-static",
        help="Share of free GPU memory for weights and KV cache",
        low=0.05,
        high=0.99,
        panel=GPU,
        engines=_SGLANG,
    )
    chunked_prefill_size: int | None = opt(
        "--chunked-prefill-size",
        help="Tokens of a prompt computed at once",
        parse=parse_count,
        low=1,
        metavar="TOKENS",
        panel=GPU,
        engines=_SGLANG,
    )
    gpu_prefill_threshold: int | None = opt(
        "--kt-gpu-prefill-threshold",
        "--kt-gpu-prefill-token-threshold",
        help="Prompt length from which a layer's experts are computed on the GPU",
        parse=parse_count,
        low=0,
        metavar="TOKENS",
        panel=GPU,
        engines=_SGLANG,
    )
    deferred_experts: int | None = opt(
        "--kt-max-deferred-experts-per-token",
        help="Experts per token computed one layer late (changes results a little)",
        low=0,
        panel=GPU,
        engines=_SGLANG,
    )
    attention_backend: str | None = opt(
        "--attention-backend",
        help="Attention kernels of SGLang",
        panel=GPU,
        engines=_SGLANG,
    )
    speculative_algorithm: str | None = opt(
        "--speculative-algorithm",
        help="Draft tokens in SGLang with the model's own drafter (NEXTN) or another",
        metavar="NAME",
        panel=GPU,
        engines=_SGLANG,
    )
    device: str | None = opt(
        "--device", help="Device of all but the experts: cpu, cuda, cuda:1", panel=GPU
    )
    rules: str | None = opt(
        "--rules",
        help="Injection rules (YAML) of the embedded engine",
        parse=parse_path,
        metavar="FILE",
        panel=CPU,
        engines=_EMBEDDED,
    )
    experts_backend: str | None = opt(
        "--experts-backend",
        help="Expert operator of the embedded engine",
        choices=("auto", "kt_moe", "torch"),
        panel=CPU,
        engines=_EMBEDDED,
    )
    pack_cache: str | None = opt(
        "--pack-cache",
        help="Keep the embedded engine's packed experts on disk, so that later starts are quick",
        choices=("auto", "on", "off"),
        setting="packs.keep",
        panel=MEMORY,
        engines=_EMBEDDED,
    )
    pack_cache_size: int | None = opt(
        "--pack-cache-size",
        help="Disk that packed experts of all models may take",
        parse=parse_bytes,
        low=0,
        setting="packs.size",
        metavar="SIZE",
        panel=MEMORY,
        engines=_EMBEDDED,
    )
    trust_remote_code: bool = opt(
        "--trust-remote-code",
        help="Allow Python code that the model's repository brings",
        default=False,
        panel=SERVER,
    )
    force: bool = opt(
        "--force", help="Start although the plan does not fit", default=False, panel=OUTPUT
    )


@dataclass(frozen=True, slots=True)
class HubOptions:
    """Where models are pulled from."""

    hub: str | None = opt(
        "--hub",
        help="Hub to pull models from",
        choices=("huggingface", "modelscope"),
        setting="hub.name",
    )


@dataclass(frozen=True, slots=True)
class CommonOptions:
    """Options that every command understands, before or after its name."""

    json: bool = opt("--json", help="Print data as JSON", default=False)
    quiet: bool = opt("-q", "--quiet", help="Print results and errors only", default=False)
    yes: bool = opt("-y", "--yes", help="Answer yes to every question", default=False)
    no_input: bool = opt("--no-input", help="Never ask; fail instead", default=False)
    debug: bool = opt("--debug", help="Show tracebacks and details", default=False)
