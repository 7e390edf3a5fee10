"""Every preset model on every preset machine: does SGLang accept the command that a plan becomes?

python scripts/check_sglang_commands.py --packages /path/to/site-packages
python scripts/check_sglang_commands.py --packages … --capture tests/engines/data/sglang-0.7.2.json

The folder must hold sglang-kt (`pip install --no-deps --target FOLDER sglang-kt==0.7.2` is enough,
beside torch and transformers of this interpreter). Its own parser reads each command, and the
checks that follow in `ServerArgs` run, with the plan's GPU in place of the real one. `--capture`
keeps the parser's flags for the tests, which run without SGLang.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.abc
import importlib.machinery
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, patch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.engines.commands import Command, commands

IMITATED = ("sglang.srt.layers", "sglang.srt.sampling")
"""Modules that need a GPU or compiled kernels; the parser takes constants of them."""


class Imitations(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Packages that are not installed become mocks, so that the parser's module can be imported."""

    def __init__(self) -> None:
        self.roots: set[str] = set()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.partition(".")[0] in self.roots or name.startswith(IMITATED):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> Any:
        made = MagicMock(name=spec.name)
        made.__path__, made.__spec__, made.__name__ = [], spec, spec.name
        return made

    def exec_module(self, module: Any) -> None:
        """A mock needs no code."""


def server_args(packages: str) -> Any:
    """The module `sglang.srt.server_args` from `packages`."""
    sys.path.insert(0, packages)
    imitations = Imitations()
    sys.meta_path.insert(0, imitations)
    while True:
        try:
            import sglang.srt.server_args as module  # type: ignore[import-not-found]

            return module
        except ModuleNotFoundError as error:
            root = (error.name or "").partition(".")[0]
            if root in imitations.roots or root in ("sglang", ""):
                raise
            imitations.roots.add(root)
            for name in [n for n in sys.modules if n.partition(".")[0] == "sglang"]:
                del sys.modules[name]


def parser_of(module: Any) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    module.ServerArgs.add_cli_args(parser)
    return parser


def capture(parser: argparse.ArgumentParser) -> list[dict[str, Any]]:
    """What a test needs to parse a command: names, values, choices."""
    return [
        {
            "flags": action.option_strings,
            "values": 0 if action.nargs == 0 else (action.nargs or 1),
            "choices": sorted(map(str, action.choices)) if action.choices else [],
            "type": getattr(action.type, "__name__", "str"),
        }
        for action in parser._actions
        if action.option_strings
    ]


def refusal(module: Any, parser: argparse.ArgumentParser, command: Command) -> str:
    """Why SGLang would not start, empty where it would."""
    try:
        with contextlib.redirect_stderr(None), _as_on(module, command):  # type: ignore[type-var]
            args = parser.parse_args(list(command.argv))
            made = module.ServerArgs.from_cli_args(args)
            made.check_server_args()
    except SystemExit:
        return "the parser refuses it"
    except (AssertionError, ValueError, RuntimeError) as error:
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    return ""


@contextlib.contextmanager
def _as_on(module: Any, command: Command) -> Iterator[None]:
    """The plan's GPU and the model's configuration, where the checks look for them."""
    major, minor = command.capability
    config = _Values(command.config)
    known = SimpleNamespace(
        hf_config=config, hf_text_config=config.get_text_config(), is_multimodal=False,
        is_encoder_decoder=False, quantization=None, context_len=command.context,
        attention_arch=None, is_glm5_next=False, is_hybrid_swa=False,
    )  # fmt: skip
    told = {
        "is_cuda": True, "is_hip": False, "is_npu": False, "is_flashinfer_available": True,
        "is_sm100_supported": major == 10, "is_sm90_supported": major == 9,
        "is_blackwell_supported": major in (10, 12), "is_hopper_with_cuda_12_3": major == 9,
        "get_device_sm": 10 * major + minor, "get_device_name": "GPU", "get_device": "cuda",
        "get_device_memory_capacity": command.memory / 2**20,
    }  # fmt: skip
    with contextlib.ExitStack() as stack:
        for name, value in told.items():
            if hasattr(module, name):
                stack.enter_context(patch.object(module, name, lambda *a, v=value, **k: v))
        stack.enter_context(patch("torch.cuda.get_device_capability", lambda *a: (major, minor)))
        cls = module.ServerArgs
        stack.enter_context(patch.object(cls, "get_model_config", lambda self: known))
        latent = config.get_text_config().kv_lora_rank is not None
        stack.enter_context(patch.object(cls, "use_mla_backend", lambda self: latent))
        stack.enter_context(patch.dict("os.environ"))
        yield


class _Values:
    """A configuration by attributes, None for what it does not say."""

    def __init__(self, values: Any) -> None:
        self._values = values

    def __getattr__(self, name: str) -> Any:
        value = self._values.get(name)
        return _Values(value) if isinstance(value, dict) and "config" in name[-7:-6] else value

    def get_text_config(self) -> _Values:
        return _Values(self._values.get("text_config") or self._values)


def main(argv: list[str]) -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--packages", required=True, help="folder that holds sglang-kt")
    options.add_argument("--capture", help="file for the parser's flags")
    told = options.parse_args(argv)
    logging.disable(logging.WARNING)
    module = server_args(told.packages)
    parser = parser_of(module)
    if told.capture:
        lines = ",\n".join(map(json.dumps, capture(parser)))
        Path(told.capture).write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    refused = count = 0
    for command in commands():
        count += 1
        why = refusal(module, parser, command)
        if why:
            refused += 1
            print(f"{command.machine}, {command.model}: {why}")
    print(f"{count} commands, {refused} refused")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
