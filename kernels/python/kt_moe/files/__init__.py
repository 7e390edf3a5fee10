"""Weight files, memory-mapped: safetensors and GGUF. Needs numpy only."""

from kt_moe.files.errors import FileError, MissingTensor, NotWhole
from kt_moe.files.gguf import GgufFile, GgufTensor
from kt_moe.files.safetensors import Tensors

__all__ = ["FileError", "GgufFile", "GgufTensor", "MissingTensor", "NotWhole", "Tensors"]
