"""Models that are known before they are downloaded: `presets/models/*.yaml`, one file per family.

`presets/models/README.md` describes the form of these files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from kt_cli.catalog.describe import from_config
from kt_cli.catalog.names import index
from kt_cli.core.hints import Hints, Variant
from kt_cli.core.model import Model, Quantization
from kt_cli.core.serial import ShapeError, from_plain
from kt_cli.documents import Record, Source, read_yaml
from kt_cli.errors import KtError, NotFoundError

# What a variant's config.json says beside the geometry, as far as sizes depend on it.
VARIANT_CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "bf16": {},
    "fp8": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    "fp8_channel": {"quant_method": "fp8"},
    "mxfp4": {"quant_method": "mxfp4"},
    "mxfp8": {"quant_method": "mxfp8"},
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 128},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 128},
    "nvfp4": {"quant_method": "modelopt", "quant_algo": "NVFP4"},
}

GGUF_BITS: Mapping[str, float] = {"Q4_K_M": 4.85}
"""Bits a weight, the mean of llama.cpp's mixture: DeepSeek-R1's files are 404 GB."""


@dataclass(frozen=True, slots=True)
class Preset:
    name: str
    family: str
    config: Mapping[str, Any]
    source: str
    aliases: tuple[str, ...] = ()
    repos: Mapping[str, str] = field(default_factory=dict)
    variants: tuple[Variant, ...] = ()
    hints: Hints = field(default_factory=Hints)
    notes: tuple[str, ...] = ()
    ambiguous: Mapping[str, str] = field(default_factory=dict)
    """Aliases that could mean another model, and a sentence on what they mean here."""
    missing: str = ""
    """What of the geometry is not known; then `config` is empty and nothing is computed."""

    @property
    def repo(self) -> str:
        return self.repos.get("huggingface") or next(iter(self.repos.values()), "")


def presets_folder() -> Path:
    """`kt_cli/presets` where installed, `presets` beside `kt_cli` in a source tree."""
    package = Path(__file__).parents[1]
    inside = package / "presets" / "models"
    return inside if inside.is_dir() else package.parent / "presets" / "models"


def load_presets(folder: Path | None = None) -> tuple[Preset, ...]:
    """Raises KtError that names the file and the entry that is malformed, or a name used twice."""
    found = tuple(preset for file in _files(folder) for preset in _read(file))
    index(found)
    return found


def _files(folder: Path | None) -> list[Path]:
    return sorted((folder or presets_folder()).glob("*.yaml"))


def planned_presets(folder: Path | None = None) -> tuple[Preset, ...]:
    """Those whose geometry is known."""
    return tuple(preset for preset in load_presets(folder) if not preset.missing)


def preset_model(preset: Preset, variant: Variant | None = None) -> Model:
    """Sizes computed from the geometry.

    Raises NotFoundError for a preset without one, KtError for a variant whose size is not known.
    """
    if preset.missing:
        raise NotFoundError(
            f"the geometry of {preset.name} is not known here",
            f"{preset.missing} ({preset.source})",
            f"give its folder, or {preset.repo or 'OWNER/NAME'}, the headers of whose files tell",
        )
    config, repo = dict(preset.config), preset.repo
    if variant and variant.method == "gguf":
        return _as_gguf(preset, variant)
    if variant:
        if variant.method not in VARIANT_CONFIGS:
            raise _unknown_size(preset, variant)
        config = {**_unquantised(config), **_quantised(variant.method)}
        repo = variant.repo
    name = f"{preset.name}-{variant.name}" if variant else preset.name
    model = from_config(config, name)
    return replace(model, repo=repo, notes=(*model.notes, *preset.notes))


def _as_gguf(preset: Preset, variant: Variant) -> Model:
    """Every weight at the mean width of the mixture; drafts and towers are files of their own."""
    bits = GGUF_BITS.get(variant.name)
    if bits is None:
        raise _unknown_size(preset, variant)
    model = from_config(_unquantised(preset.config), f"{preset.name}-{variant.name}")
    counts = {k: n for k, n in model.parameters.items() if k not in ("draft", "vision")}
    return replace(
        model,
        repo=variant.repo,
        bytes={k: int(n * bits / 8) for k, n in counts.items()},
        parameters=counts,
        quantization=Quantization("gguf", round(bits), 0, variant.name),
        notes=(*model.notes, *preset.notes),
    )


def _unquantised(config: Mapping[str, Any]) -> dict[str, Any]:
    plain = {k: v for k, v in config.items() if k not in ("quantization_config", "expert_dtype")}
    text = plain.get("text_config")
    return {**plain, "text_config": _unquantised(text)} if text else plain


def _quantised(method: str) -> dict[str, Any]:
    config = VARIANT_CONFIGS[method]
    return {"quantization_config": dict(config)} if config else {}


def _unknown_size(preset: Preset, variant: Variant) -> KtError:
    return KtError(
        f"the size of {preset.name} as {variant.name} is not known",
        f"it depends on the files of {variant.repo}",
        f"fetch it with `kt model pull {variant.repo}` and give its folder",
    )


def _read(file: Path) -> tuple[Preset, ...]:
    return _parsed(file, file.stat().st_mtime_ns)


@cache
def _parsed(file: Path, changed_ns: int) -> tuple[Preset, ...]:
    source = Source(f"the presets in {file}", "see presets/models/README.md for the form", KtError)
    content = read_yaml(file, source)
    if not isinstance(content, dict):
        raise source.wrong("it is no mapping")
    whole = Record(source, content)
    family, entries = whole.text("family", default=file.stem), whole.sequence("models", least=1)
    if not entries or not all(isinstance(entry, dict) for entry in entries):
        raise whole.wrong("models", entries, "a list of mappings")
    return tuple(_preset(entry, family, file) for entry in entries)


def _preset(entry: Mapping[str, Any], family: str, file: Path) -> Preset:
    hints = {"variants": entry.get("variants", ()), "notes": entry.get("notes", ())}
    try:
        known = from_plain(Hints, {**entry.get("hints", {}), **hints})
        return Preset(
            name=entry["name"],
            family=family,
            config=entry.get("config", {}) if entry.get("missing") else entry["config"],
            source=entry["source"],
            aliases=tuple(entry.get("aliases", ())),
            repos=entry.get("repos", {}),
            variants=known.variants,
            hints=known,
            notes=known.notes,
            ambiguous=entry.get("ambiguous", {}),
            missing=entry.get("missing", ""),
        )
    except (KeyError, TypeError, ShapeError) as error:
        name = entry.get("name", "an entry without a name")
        raise KtError(f"cannot read the preset {name} in {file}", str(error)) from error
