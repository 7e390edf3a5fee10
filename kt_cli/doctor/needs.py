"""What engines need, as data, each with its source."""

from __future__ import annotations

from collections.abc import Mapping

# Files of the wheels kt_kernel-0.7.2 (manylinux_2_35) and torch-2.9.1 (manylinux_2_28) on PyPI.
GLIBC: Mapping[str, tuple[int, int]] = {"kt_kernel": (2, 35), "torch": (2, 28)}

# kt-cli's own metadata: the extra `embedded`.
EMBEDDED: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "torch": ((2, 9), (2, 14)),
    "transformers": ((5, 6), (5, 24)),
}

# Ampere: kt-kernel's and SGLang's GPU kernels use bf16 and cp.async, which Volta and Turing lack.
CAPABILITY = (8, 0)
# Ada: Triton's fp8e4nv type, which FP8 checkpoints use (kvcache-ai/ktransformers issue 1930).
CAPABILITY_FP8 = (8, 9)

# The five wheels that carry parts of SGLang's kernels; all of one release.
CARRIERS = ("kt-kernel", "transformers-kt", "sglang-kt", "ktransformers", "accelerate-kt")

# Distributions that hold the same kernels in one piece.
KERNELS = ("sglang-kernel", "sgl-kernel")

# Distributions that others replaced: name → (first good version or "", arguments for pip).
# ktransformers held everything before 0.5 and only carries parts since; kt-kernel has CUDA's parts.
REPLACED: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "ktransformers": ("0.5", ("install --upgrade ktransformers",)),
    "kt-kernel-cuda": ("", ("uninstall kt-kernel-cuda", "install --force-reinstall kt-kernel")),
}

# Whose exact pins matter for loading.
PINNED = ("sglang-kt", "kt-kernel", "llamafactory-kt", "ktransformers")
# Pins of compiled code: another version does not load, or crashes.
BINARY = ("torch", "kt-kernel")
