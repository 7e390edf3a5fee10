"""One meaning for every name of the shipped presets, however it is spelled."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kt_cli.catalog.names import key, kin, lookup, not_found
from kt_cli.catalog.presets import Preset, load_presets, preset_model

PRESETS = load_presets()


def written(preset: Preset) -> Iterator[tuple[str, str]]:
    """Every name the preset states, with the variant it means."""
    yield from ((name, "") for name in (preset.name, *preset.aliases, *preset.repos.values()))
    for variant in preset.variants:
        yield f"{preset.name}:{variant.name}", variant.name
        yield f"{preset.name}-{variant.name}", variant.name


NAMES = [(name, preset.name, variant) for preset in PRESETS for name, variant in written(preset)]


def meaning(name: str) -> tuple[str, str] | None:
    found = lookup(name, PRESETS)
    return found and (found[0].name, found[1].name if found[1] else "")


def test_no_name_means_two_models() -> None:
    owners: dict[str, set[tuple[str, str]]] = {}
    for name, preset, variant in NAMES:
        owners.setdefault(key(name), set()).add((preset, variant))
    assert {k: v for k, v in owners.items() if len(v) > 1} == {}


def test_every_name_means_its_own_model_in_every_plain_spelling() -> None:
    spell = (
        *(str.lower, str.upper, str.title, lambda n: f" {n} "),
        *(lambda n, other=other: n.replace("-", other) for other in ("_", " ", "")),
    )
    wrong = [
        (form(name), meaning(form(name)), preset)
        for name, preset, variant in NAMES
        for form in spell
        if meaning(form(name)) != (preset, variant)
    ]
    assert wrong == []


@given(st.sampled_from(NAMES), st.data())
def test_any_mixture_of_case_and_separators_means_the_same(
    known: tuple[str, str, str], data: st.DataObject
) -> None:
    name, preset, variant = known
    parts = [
        data.draw(st.sampled_from(["-", "_", " ", "", "--"]))
        if letter in "-_"
        else data.draw(st.sampled_from([letter.lower(), letter.upper()]))
        for letter in name
    ]
    assert meaning("".join(parts)) == (preset, variant)


@pytest.mark.parametrize("family", ["deepseek", "qwen3", "glm", "minimax", "DeepSeek-V3.", "llama"])
def test_a_family_lists_its_kin(family: str) -> None:
    known = kin(family, PRESETS)
    assert lookup(family, PRESETS) is None
    assert len(known) > 1 or family == "DeepSeek-V3."
    assert known[0].name in not_found(family, PRESETS).why
    assert all(key(family) in key(p.name) or key(family) == key(p.family) for p in known[:3])


def test_the_newest_of_a_family_stands_first() -> None:
    names = [preset.name for preset in kin("glm", PRESETS)]
    assert names.index("GLM-5.2") < names.index("GLM-5") < names.index("GLM-4.5")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("deepsek-v3", "DeepSeek-V3"), ("qwen3-30b-a4b", "Qwen3-30B-A3B"), ("mixtal", "mixtral"),
     ("someone/GLM-5.22", "GLM-5.2"), ("minimax-m22", "MiniMax-M2")],
)  # fmt: skip
def test_a_slip_gets_the_name_that_was_meant(typed: str, meant: str) -> None:
    assert meant in not_found(typed, PRESETS).why


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("DeepSeek-V2-Lite-Chat", "DeepSeek-V2-Lite"), ("DeepSeek-V2-Lite-14B", "DeepSeek-V2-Lite"),
     ("DeepSeek-V3-671B", "DeepSeek-V3"), ("GLM4-MoE", "GLM-4.5"),
     ("Qwen3-235B-A22B-Instruct-2507", "Qwen3-235B-A22B-Instruct-2507"),
     ("Qwen3-30B-A3B-Instruct-2507", "Qwen3-30B-A3B-Instruct-2507"),
     ("deepseek-v3", "DeepSeek-V3"), ("DeepSeek-V3", "DeepSeek-V3"), ("v3", "DeepSeek-V3-0324"),
     ("deepseek-ai/deepseek-r1", "DeepSeek-R1"), ("R1", "DeepSeek-R1-0528")],
)  # fmt: skip
def test_spellings_of_guides_and_papers(typed: str, meant: str) -> None:
    assert meaning(typed) == (meant, "")


def test_a_checkpoint_in_bf16_has_two_bytes_a_weight() -> None:
    found = lookup("DeepSeek-V3-bf16", PRESETS)
    assert found
    model = preset_model(*found)
    assert (model.quantization.method, model.quantization.bits) == ("bf16", 16)
    assert model.bytes["routed_experts"] == 2 * model.parameters["routed_experts"]
