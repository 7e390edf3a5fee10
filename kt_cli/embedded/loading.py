"""Checkpoint directory → model in memory: skeleton, operators, weights, tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers import initialization as hf_init

import kt_cli
from kt_cli.embedded import model_files
from kt_cli.embedded.dtypes import DtypeChoice, choose_dtype
from kt_cli.embedded.inject import Injection, Rule, inject
from kt_cli.embedded.operators.base import child_name, load_module
from kt_cli.embedded.packed import Packing, open_packs
from kt_cli.embedded.parameters import Parameters
from kt_cli.embedded.placement import move_inputs
from kt_cli.errors import AuthError, NotFoundError, TransferError, UsageError
from kt_cli.weights.checkpoint import Checkpoint
from kt_cli.weights.packs import Shelf

Progress = Callable[[str, float], None]
_SHOWN = 5
_MOST_LAYERS = 4096


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """`experts_*` override what the rules say; `threads` are for the expert kernels.

    `packs`: where packed experts are kept for the next start.
    """

    device: str = "cpu"
    dtype: str | None = None
    experts_backend: str | None = None
    experts_format: str | None = None
    threads: int = 1
    trust_remote_code: bool = False
    packs: Shelf | None = None


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """`notes` are sentences about rules and tensors that went unused."""

    model: Any
    config: Any
    injection: Injection
    dtype: DtypeChoice
    notes: tuple[str, ...]
    packs: Packing


def load_model(
    path: Path, rules: Sequence[Rule], options: LoadOptions, progress: Progress
) -> LoadedModel:
    choice = choose_dtype(options.dtype, options.device)
    config = read_config(path, options.trust_remote_code)
    progress("building the model", 0.0)
    model = skeleton(config, choice.dtype, options.trust_remote_code)
    checkpoint = Checkpoint(path)
    parameters = Parameters(model, checkpoint)
    parameters.experts_backend = options.experts_backend
    parameters.experts_format = options.experts_format
    parameters.threads = options.threads
    parameters.exact = choice.asked and choice.dtype == torch.float32
    _complain_about_missing(parameters, path)
    injection = inject(model, rules, parameters, model.config, options.device)
    parameters.packs = _packs(path, options, parameters)
    parameters.devices = injection.devices
    parameters.on_read = lambda fraction: progress("loading weights", fraction)
    load_module(model, "", parameters, options.device)
    parameters.close()
    make_tables(model, parameters, options.device)
    move_inputs(model, injection.devices, options.device)
    model.eval()
    progress("loaded", 1.0)
    notes = _notes(injection, parameters)
    return LoadedModel(model, model.config, injection, choice, notes, parameters.packs)


def _packs(path: Path, options: LoadOptions, parameters: Parameters) -> Packing:
    layers = sum(name.endswith("experts.down_proj") for name in parameters.meta)
    made_by = f"kt {kt_cli.__version__}, transformers {transformers.__version__}"
    return open_packs(options.packs, path, made_by, layers)


def read_config(path: Path, trust_remote_code: bool) -> Any:
    """Raises a `KtError` when the directory holds no model that can be run here."""
    raw = model_files.read(path, model_files.CONFIG)
    if raw is None:
        raise NotFoundError(f"no config.json in {path}", fix="give the directory of a model")
    quantised = raw.part("quantization_config")
    if quantised.values:
        method = quantised.text("quant_method", default="an unknown method")
        fix = "give the checkpoint in BF16, or run it with SGLang"
        raise UsageError(f"{path} is quantised with {method}", "this engine reads none", fix)
    if raw.has("auto_map") and not trust_remote_code:
        why = "its repository asks for code of its own to be run"
        raise AuthError(f"{path} needs remote code", why, "add `--trust-remote-code` to allow it")
    kind = raw.text("model_type", default="no type")
    for part in (raw, raw.part("text_config")):
        part.integer("num_hidden_layers", low=1, high=_MOST_LAYERS, default=1)
    return model_files.by_library(
        f"transformers does not know the model type `{kind}`",
        path,
        model_files.CONFIG,
        lambda: AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code),
        UsageError,
    )


def skeleton(config: Any, dtype: torch.dtype, trust_remote_code: bool = False) -> Any:
    """The model of transformers without memory for its weights."""
    kind = getattr(config, "model_type", "?")
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                config, dtype=dtype, trust_remote_code=trust_remote_code
            )
    except ValueError as error:
        why = "transformers has no causal language model for it"
        raise UsageError(f"`{kind}` cannot generate text here", why) from error
    except Exception as error:
        why = f"transformers cannot build it from its config.json: {type(error).__name__}: {error}"
        raise UsageError(f"`{kind}` cannot be built", why, "check its config.json") from error
    model.requires_grad_(False)
    return model


def make_tables(model: Any, parameters: Parameters, device: str) -> None:
    """Computes the buffers that no checkpoint stores, such as those of rotary embeddings."""
    for owner, name, module in _with_empty_buffers(model, "", model):
        place = parameters.devices.get(name, device)
        for key, buffer in module._buffers.items():
            if buffer is not None and buffer.is_meta:
                module._buffers[key] = torch.empty_like(buffer, device=place)
        for parameter in module._parameters.values():
            if parameter is not None:
                parameter._is_hf_initialized = True
        with torch.no_grad(), hf_init.guard_torch_init_functions():
            owner._init_weights(module)


def _with_empty_buffers(
    module: nn.Module, name: str, owner: Any
) -> Iterator[tuple[Any, str, nn.Module]]:
    """(model whose code initialises it, name, module)."""
    if "_init_weights" in dir(type(module)):
        owner = module
    if any(b is not None and b.is_meta for b in module._buffers.values()):
        yield owner, name, module
    for child, below in module.named_children():
        yield from _with_empty_buffers(below, child_name(name, child), owner)


def _complain_about_missing(parameters: Parameters, path: Path) -> None:
    missing = parameters.missing
    if missing:
        what = f"{path} lacks {len(missing)} tensors of the model: {_some(missing)}"
        raise TransferError(what, "the model cannot run without them", "download it again")


def _notes(injection: Injection, parameters: Parameters) -> tuple[str, ...]:
    notes = [f"{rule.where} takes no module of this model" for rule in injection.unused]
    for name, reason in list(injection.declined.items())[:_SHOWN]:
        notes.append(f"{name} keeps its own code: {reason}")
    if parameters.unexpected:
        some = _some(parameters.unexpected)
        notes.append(f"{len(parameters.unexpected)} tensors have no place in the model: {some}")
    why = without_kernels()
    if (
        why
        and parameters.experts_backend != "torch"
        and any(".experts." in n for n in parameters.meta)
    ):
        notes.append(f"experts run through PyTorch, at a fraction of the tokens/s: {why}")
    return tuple(notes)


def without_kernels() -> str:
    """Why `kt_moe` cannot compute here, empty where it can."""
    try:
        import kt_moe
    except ImportError as error:
        return str(error)
    return str(kt_moe.why)


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + rest
