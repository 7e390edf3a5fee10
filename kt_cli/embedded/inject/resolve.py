"""The operator class that a rule names: one of ours, an older name, a dotted class, or a file."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from kt_cli.embedded.inject.names import OLD_NAMES, OPERATORS, REFUSED, short
from kt_cli.embedded.inject.rules import Rule
from kt_cli.errors import UsageError

if TYPE_CHECKING:
    from kt_cli.embedded.operators.base import BaseInjectedModule

_OPS = ("generate_op", "prefill_op")


def refuse_missing_backends(rule: Rule) -> None:
    """Raises `UsageError` for a backend that does not exist here, naming one that does."""
    for name in (short(rule.replace), *(str(rule.kwargs[op]) for op in _OPS if op in rule.kwargs)):
        if name in REFUSED:
            backend, instead = REFUSED[name]
            raise UsageError(
                f"{rule.where}: `{name}` needs the {backend} backend",
                "this engine has none",
                f"write `{instead}` instead",
            )


def operator_class(rule: Rule) -> type[BaseInjectedModule]:
    refuse_missing_backends(rule)
    path, _, name = rule.replace.rpartition(":")
    if path:
        return _checked(rule, _from_file(rule, path), name)
    dotted = _dotted(rule.replace)
    package, _, name = dotted.rpartition(".")
    if not package:
        known = ", ".join(sorted(OPERATORS))
        raise UsageError(f"{rule.where}: unknown operator `{rule.replace}`", f"known are {known}")
    try:
        module = importlib.import_module(package)
    except ImportError as error:
        fix = "give an importable module or `path/to/file.py:ClassName`"
        raise UsageError(f"{rule.where}: cannot import `{package}`", str(error), fix) from error
    return _checked(rule, module, name)


def _dotted(replace: str) -> str:
    """Our own dotted name for a short or an older name; anything else as it is."""
    package, _, name = replace.rpartition(".")
    if package and package.partition(".")[0] != "ktransformers":
        return replace
    ours = OLD_NAMES.get(name, name) if package or name not in OPERATORS else name
    return OPERATORS.get(ours, replace)


def _from_file(rule: Rule, path: str) -> ModuleType:
    """A path is relative to the file that holds the rule."""
    file = (Path(rule.source).parent / Path(path).expanduser()).resolve()
    if not file.is_file():
        raise UsageError(f"{rule.where}: no operator file at {file}")
    name = f"kt_operator_{hashlib.sha256(str(file).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UsageError(f"{rule.where}: {file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"{rule.where}: {file} fails on import", reason) from error
    return module


def _checked(rule: Rule, module: ModuleType, name: str) -> type[BaseInjectedModule]:
    from kt_cli.embedded.operators.base import BaseInjectedModule

    found: Any = getattr(module, name, None)
    if found is None:
        raise UsageError(f"{rule.where}: `{module.__name__}` has no class `{name}`")
    if not isinstance(found, type) or not issubclass(found, BaseInjectedModule):
        why = "an operator inherits from kt_cli.embedded.operators.BaseInjectedModule"
        raise UsageError(f"{rule.where}: `{name}` is not an operator", why)
    return found
