"""A small layer behind `KTMoEWrapper`, its inputs and what it should compute."""

import numpy as np
import torch
from kt_moe import KTMoEWrapper, reference

from . import checkpoint_files as files

E, K, H, I, LAYER = 4, 2, 256, 256, 3  # noqa: E741
EXPERTS = files.matrices(E, H, I)


def wrapper(path, method, **changes):
    settings = {
        "layer_idx": LAYER,
        "num_experts": E,
        "num_experts_per_tok": K,
        "hidden_size": H,
        "moe_intermediate_size": I,
        "gpu_experts_mask": None,
        "cpuinfer_threads": 2,
        "threadpool_count": 1,
        "weight_path": str(path),
        "chunked_prefill_size": 512,
        "method": method,
    }
    return KTMoEWrapper(**settings | changes)


def inputs(tokens=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, H, generator=generator).bfloat16()
    ids = torch.stack([torch.randperm(E, generator=generator)[:K] for _ in range(tokens)])
    return x, ids, torch.rand(tokens, K, generator=generator)


def expected(held, x, ids, weights, mask=None, order=None):
    stacks = [np.stack(m).astype(np.float64) for m in zip(*held, strict=True)]
    if order is not None:
        stacks = [m[order] for m in stacks]
    layer = reference.layer(*stacks, mask=mask)
    arrays = (x.double().numpy(), ids.numpy(), weights.double().numpy())
    return reference.forward(layer, *arrays)


def off(ours, wanted):
    return np.linalg.norm(ours.double().numpy() - wanted) / np.linalg.norm(wanted)
