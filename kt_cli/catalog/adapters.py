"""A folder with a LoRA adapter → `Adapter`, from its configuration and tensor headers."""

from __future__ import annotations

import re
from pathlib import Path

from kt_cli.core.adapter import Adapter
from kt_cli.documents import read_json
from kt_cli.errors import KtError, NotFoundError
from kt_cli.weights.headers import read_header

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MAX_RANK = 1 << 16
FUSED = "fused_expert_lora.safetensors"
"""What training with kt-kernel writes beside the adapter, before it is converted for serving."""
_EXPERT = re.compile(r"\.experts\.\d+\.")
_NAMED = re.compile(r"([\w.-]+)=(.+)")


def read_adapter(text: str) -> Adapter:
    """From `NAME=FOLDER`, or a folder that names itself. Raises NotFoundError or KtError."""
    match = _NAMED.fullmatch(text)
    folder = Path(match[2] if match else text).expanduser().absolute()
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        why = f"{CONFIG} and {WEIGHTS} make an adapter"
        raise NotFoundError(f"{folder} holds no LoRA adapter", why, "give NAME=FOLDER")
    rank = read_json(folder / CONFIG).integer("r", low=1, high=MAX_RANK)
    experts = others = 0
    for info in read_header(folder / WEIGHTS).values():
        if _EXPERT.search(info.name):
            experts += info.nbytes
        else:
            others += info.nbytes
    if not experts and (folder / FUSED).is_file():
        why = f"the experts' part is still in {FUSED}, which SGLang does not read"
        fix = "convert it with `python -m kt_kernel.sft.convert_kt_to_sglang_adapter` first"
        raise KtError(f"the adapter in {folder} is not ready to be served", why, fix)
    return Adapter(match[1] if match else folder.name, str(folder), rank, experts, others)
