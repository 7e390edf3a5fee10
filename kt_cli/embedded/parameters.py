"""What every parameter of a transformers model is made of in its checkpoint.

transformers 5 renames checkpoint tensors and fuses some of them (the experts of a layer become one
tensor). Its own conversion mapping is used here, one parameter at a time, so that an operator reads
exactly what it needs and nothing is held twice.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from transformers import conversion_mapping, core_model_loading

from kt_cli.embedded.crossing import Crossing
from kt_cli.embedded.packed import NoPacks, Packing
from kt_cli.errors import TransferError
from kt_cli.weights.checkpoint import Checkpoint

_STACKING = ([("MergeModulelist", 0)], [("MergeModulelist", 0), ("Concatenate", 1)])
"""Operations of transformers that put matrices as they are into one tensor."""
Parts: TypeAlias = tuple[torch.Tensor, ...]


@dataclass(slots=True)
class _Recipe:
    """`parts` are (pattern of the converter, name in the checkpoint)."""

    renamed: str
    converter: Any | None
    parts: list[tuple[str, str]] = field(default_factory=list)

    def lacking(self, count: int) -> list[str]:
        """Names that a pattern with a `*` should have for 0 to `count`, and has not."""
        found = {key for _, key in self.parts}
        wanted = set()
        for pattern, key in self.parts:
            place = re.search(re.escape(pattern).replace(r"\*", r"\d+"), key)
            if place is not None and "*" in pattern:
                head, tail = key[: place.start()], key[place.end() :]
                wanted |= {f"{head}{pattern.replace('*', str(n))}{tail}" for n in range(count)}
        return sorted(wanted - found)

    def rows(self, count: int) -> list[tuple[str, ...]] | None:
        """For each of `count` matrices, the tensors that lie one below the other in it; None where
        more than stacking makes the parameter."""
        converter: Any = self.converter
        operations = [(type(op).__name__, getattr(op, "dim", None)) for op in converter.operations]
        if operations not in _STACKING:
            return None
        columns = [
            [k for p, k in self.parts if p == wanted] for wanted in converter.source_patterns
        ]
        return list(zip(*columns, strict=True)) if {*map(len, columns)} == {count} else None


@dataclass(frozen=True, slots=True)
class _Shapes:
    """Stands for the model where a conversion asks for the shape of a parameter."""

    meta: Mapping[str, torch.Tensor]
    config: Any

    def get_parameter(self, name: str) -> torch.Tensor:
        return self.meta[name]


class Parameters:
    """Made from the model before operators go in; `devices` is filled in by the injection."""

    def __init__(self, model: Any, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.devices: Mapping[str, str] = {}
        self.experts_backend: str | None = None
        self.experts_format: str | None = None
        self.threads = 1
        self.exact = False
        self.packs: Packing = NoPacks()
        self.on_read: Callable[[float], None] | None = None
        self.crossing = Crossing()
        self._seen: set[str] = set()
        self.meta: dict[str, torch.Tensor] = dict(model.state_dict(keep_vars=True))
        self._shapes = _Shapes(self.meta, model.config)
        self._tied: dict[str, str] = dict(getattr(model, "all_tied_weights_keys", None) or {})
        self._float32 = _pattern(_kept_in_float32(model))
        self._recipes: dict[str, _Recipe] = {}
        self._ready: dict[str, torch.Tensor] = {}
        self._shared: dict[tuple[str, torch.dtype | None, str], torch.Tensor] = {}
        unexpected = self._plan(model)
        self.unexpected = _without(unexpected, _ignored_unexpected(model))
        missing = (name for name in self.meta if not self.has(name))
        self.missing = _without(missing, getattr(model, "_keys_to_ignore_on_load_missing", None))

    def has(self, name: str) -> bool:
        return name in self._recipes or self._tied.get(name) in self._recipes

    def dtype(self, name: str) -> torch.dtype:
        return torch.float32 if self._float32.search(name) else self.meta[name].dtype

    def device(self, module: str) -> str:
        return self.devices.get(module, "cpu")

    def read(
        self, name: str, dtype: torch.dtype | None = None, device: str = "cpu"
    ) -> torch.Tensor:
        """The parameter `name` of the model, in `dtype` or the dtype the model was built with.

        Tied parameters share memory; none is left where the file is mapped, which would keep all
        of it resident, experts too. Raises `TransferError` when it is absent or of a wrong shape.
        """
        source = self._tied.get(name, name) if name not in self._recipes else name
        tied = source in self._tied.values()
        wanted = dtype or (self.dtype(name) if self.meta[name].is_floating_point() else None)
        key = (source, wanted, device)
        if tied and key in self._shared:
            return self._shared[key]
        self._tell(name)
        stored = self._checked(name, self._convert(source))
        tensor = stored.to(device=device, dtype=wanted).contiguous()
        if tensor.data_ptr() == stored.data_ptr() and self._recipes[source].converter is None:
            tensor = tensor.clone()
        if tied:
            self._shared[key] = tensor
        return tensor

    def matrices(self, name: str) -> list[Parts]:
        """The parameter along its first dimension, each matrix as what lies one below the other in
        it: in the files' dtype and where they are mapped, if nothing but stacking makes it.

        Raises what `read` raises.
        """
        recipe, shape = self._recipes.get(name), self.meta[name].shape
        if recipe is None or not self.meta[name].is_floating_point():
            return _each(self.read(name))
        self.checkpoint.expect(key for _, key in recipe.parts)
        if recipe.converter is None:
            return _each(self._checked(name, self.checkpoint.mapped(recipe.parts[0][1])))
        found = [tuple(map(self.checkpoint.mapped, keys)) for keys in recipe.rows(shape[0]) or ()]
        whole = all(_below(parts) == shape[1:] for parts in found)
        return found if found and whole else _each(self.read(name))

    def passed(self, names: Iterable[str]) -> None:
        """Parameters that are there without having been read."""
        for name in names:
            self._tell(name)

    def _tell(self, name: str) -> None:
        self._seen.add(name)
        if self.on_read is not None:
            self.on_read(len(self._seen) / len(self.meta))

    def close(self) -> None:
        self._ready.clear()
        self._shared.clear()
        self.checkpoint.close()

    def _plan(self, model: Any) -> list[str]:
        """Fills the recipes; returns names in the checkpoint that have no place in the model."""
        mapping = conversion_mapping.get_model_conversion_mapping(model)
        converters = [entry for entry in mapping if hasattr(entry, "operations")]
        renamings = [entry for entry in mapping if not hasattr(entry, "operations")]
        by_pattern = {p: converter for converter in converters for p in converter.source_patterns}
        prefix, unexpected = model.base_model_prefix, []
        rename = core_model_loading.rename_source_key
        for key in sorted(self.checkpoint.names(), key=core_model_loading.dot_natural_key):
            renamed, pattern = rename(key, renamings, converters, prefix, self.meta)
            if renamed not in self.meta and key in self.meta:
                renamed, pattern = rename(key, [], [], prefix, self.meta)
            if renamed not in self.meta:
                unexpected.append(key)
            elif pattern is None:
                self._recipes[renamed] = _Recipe(renamed, None, [("", key)])
            else:
                self._add(renamed, by_pattern[pattern], pattern, key)
        return unexpected

    def _add(self, renamed: str, converter: Any, pattern: str, key: str) -> None:
        recipe = self._recipes.get(renamed)
        if recipe is None:
            recipe = _Recipe(renamed, converter)
            first, *others = converter.target_patterns
            for target in (renamed, *(renamed.replace(first, other) for other in others)):
                self._recipes[target] = recipe
        recipe.parts.append((pattern, key))

    def _convert(self, name: str) -> torch.Tensor:
        recipe = self._recipes.get(name)
        if recipe is None:
            path = self.checkpoint.path
            raise TransferError(f"{path} lacks {name}", "the model needs it", "download it again")
        if recipe.converter is None:
            return self.checkpoint.mapped(recipe.parts[0][1])
        if name not in self._ready:
            self._ready.update(self._converted(recipe))
        return self._ready.pop(name)

    def _converted(self, recipe: _Recipe) -> dict[str, torch.Tensor]:
        converter: Any = copy.deepcopy(recipe.converter)
        for pattern, key in recipe.parts:
            read = _Deferred(self.checkpoint, key)
            converter.add_tensor(recipe.renamed, key, pattern, read)
        try:
            result = converter.convert(
                recipe.renamed, model=self._shapes, config=self._shapes.config
            )
        except (RuntimeError, ValueError, KeyError, IndexError) as error:
            lacking = recipe.lacking(self.meta[recipe.renamed].shape[0])
            why = f"the checkpoint lacks {', '.join(lacking[:3])}" if lacking else str(error)
            what = f"{recipe.renamed} cannot be put together from {self.checkpoint.path}"
            raise TransferError(what, why, "download the model again") from error
        return {name: v[0] if isinstance(v, list) else v for name, v in result.items()}

    def _checked(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        expected = self.meta[name].shape
        if tensor.shape != expected:
            what = f"{name} has the shape {list(tensor.shape)} in {self.checkpoint.path}"
            raise TransferError(what, f"config.json asks for {list(expected)}")
        return tensor


@dataclass(frozen=True, slots=True)
class _Deferred:
    """Read when the conversion asks for it, not before."""

    checkpoint: Checkpoint
    key: str

    def __call__(self) -> torch.Tensor:
        return self.checkpoint.mapped(self.key)


def _each(stack: torch.Tensor) -> list[Parts]:
    return [(matrix,) for matrix in stack]


def _below(parts: Parts) -> torch.Size | None:
    """Shape of the matrix that parts make, one below the other."""
    columns = {part.shape[1:] for part in parts}
    rows = sum(part.shape[0] for part in parts)
    return torch.Size((rows, *columns.pop())) if len(columns) == 1 else None


def _pattern(patterns: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{p})" for p in patterns) or r"(?!)")


def _without(names: Iterable[str], patterns: Iterable[str] | None) -> tuple[str, ...]:
    ignored = _pattern(patterns or ())
    return tuple(name for name in names if not ignored.search(name))


def _ignored_unexpected(model: Any) -> set[str]:
    """Buffers that old checkpoints store although they are computed are never unexpected."""
    given = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
    return {*given, r"rotary_emb\.inv_freq", r"(^|\.)position_ids$"}


def _kept_in_float32(model: Any) -> list[str]:
    """Modules transformers never computes in less than float32, as patterns of parameter names."""
    strict = getattr(model, "_keep_in_fp32_modules_strict", None) or ()
    return [rf"(^|\.){re.escape(name)}($|\.)" for name in strict]
