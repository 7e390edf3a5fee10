"""What a loaded model computes with, in the words of plans: see `core.engine_report`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import torch
from torch import nn

from kt_cli.embedded.loading import LoadedModel
from kt_cli.embedded.operators.experts import Experts
from kt_cli.embedded.operators.experts_kt import KtMoeExperts

_DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


def uses(loaded: LoadedModel) -> dict[str, str]:
    dtype = _DTYPES[loaded.dtype.dtype]
    found = {"dtype": dtype, "threads": str(torch.get_num_threads())}
    layers = list(_layers(loaded, dtype))
    if layers:
        backends, formats = zip(*layers, strict=True)
        found |= {"experts": _counted(backends), "format": _counted(formats)}
    if any(backend == "kt_moe" for backend, _ in layers):
        import kt_moe

        found |= {"isa": kt_moe.cpu_info()["variant"], "threads": str(kt_moe.threads())}
    return found


def _layers(loaded: LoadedModel, dtype: str) -> Iterator[tuple[str, str]]:
    """Backend and format of each layer's experts; those that keep their own code run on torch."""
    for module in _expert_modules(loaded.model).values():
        compute = module.compute if isinstance(module, Experts) else None
        if isinstance(compute, KtMoeExperts):
            yield "kt_moe", compute.layer.format.upper()
        else:
            yield "torch", dtype.upper()


def _expert_modules(model: nn.Module) -> dict[str, nn.Module]:
    """By name in the model; an operator counts, not the module that it stands for."""
    found: dict[str, nn.Module] = {}
    for path, module in model.named_modules():
        name = ".".join(part for part in path.split(".") if part != "orig_module")
        if name.endswith(".experts") and not isinstance(found.get(name), Experts):
            found[name] = module
    return found


def _counted(names: tuple[str, ...]) -> str:
    """`kt_moe`, or `kt_moe (46 layers) and torch (1 layers)` where they are of several kinds."""
    counts = Counter(names)
    if len(counts) == 1:
        return names[0]
    return " and ".join(f"{name} ({count} layers)" for name, count in counts.most_common())
