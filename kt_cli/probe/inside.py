"""Runs inside an engine's interpreter and says what really loads. Imports nothing of kt.

Arguments are import names; each gives a line {"begin": name} and, if the process survives it, one
{"name", "version", "problem", "details"}. Whatever the packages print goes to stderr.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
from typing import Any

# What has to be imported for a package to be truly loaded; several are lazy at the top.
DEEPEST = {
    "sglang": "sglang.srt.server_args",
    "llamafactory": "llamafactory.hparams",
    "transformers": "transformers.modeling_utils",
}


def main(names: list[str]) -> None:
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120
    sys.path[:] = [p for p in sys.path if os.path.abspath(p or ".") != here]  # noqa: PTH100
    os.environ["HF_HUB_OFFLINE"] = "1"
    with os.fdopen(os.dup(1), "w") as stream:
        os.dup2(2, 1)
        for name in names:
            say(stream, {"begin": name})
            say(stream, examine(name))


def say(stream: Any, data: dict[str, Any]) -> None:
    stream.write(json.dumps(data) + "\n")
    stream.flush()


def examine(name: str) -> dict[str, Any]:
    try:
        module = importlib.import_module(name)
        importlib.import_module(DEEPEST.get(name, name))
        details = DETAILS[name](module) if name in DETAILS else {}
    except BaseException as error:
        return {"name": name, "version": "", "problem": reason(error), "details": {}}
    version = str(getattr(module, "__version__", ""))
    return {"name": name, "version": version, "problem": "", "details": details}


def reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def torch_details(torch: Any) -> dict[str, str]:
    found = {"cuda": torch.version.cuda, "hip": getattr(torch.version, "hip", None)}
    flags = getattr(torch._C, "_cuda_getArchFlags", lambda: None)()
    found["architectures"] = flags if found["cuda"] else None
    if found["cuda"] or found["hip"]:
        found["gpus"] = str(torch.cuda.device_count())
    return {key: str(value) for key, value in found.items() if value}


def kt_kernel_details(kt_kernel: Any) -> dict[str, str]:
    variant = getattr(kt_kernel, "__cpu_variant__", "")
    return {"variant": str(variant)} if variant else {}


def sglang_details(_: Any) -> dict[str, str]:
    wrapper = importlib.util.find_spec("sglang.srt.layers.moe.kt_ep_wrapper")
    details = {"kt": "yes" if wrapper else "no"}
    if importlib.util.find_spec("sgl_kernel"):
        try:
            importlib.import_module("sgl_kernel")
        except BaseException as error:
            details["sgl_kernel"] = reason(error)
    return details


def kt_moe_details(kt_moe: Any) -> dict[str, str]:
    """Without a compiler the package is there and says why its kernels are not."""
    info = kt_moe.cpu_info()
    found = {"available": str(kt_moe.available), "why": kt_moe.why, "variant": info["variant"]}
    return {**{k: v for k, v in found.items() if v}, "amx": info["amx_reason"] or "usable"}


DETAILS = {
    "torch": torch_details,
    "kt_kernel": kt_kernel_details,
    "sglang": sglang_details,
    "kt_moe": kt_moe_details,
}

if __name__ == "__main__":
    main(sys.argv[1:])
