"""Which layers have routed experts, how many and how wide: from a configuration."""

from __future__ import annotations

from kt_cli.catalog.config import Config
from kt_cli.catalog.families import Family, family_name
from kt_cli.core.model import Experts

COUNT = (
    "num_local_experts",
    "num_experts",
    "n_routed_experts",
    "moe_num_primary_experts",
    "moe_num_experts",
)
LISTS = {
    "mlp_layer_types": ("sparse", "moe", "hash_moe"),
    "moe_layer_layout": (1,),
    "layers_block_type": ("moe",),
}
TOP_K = (
    "num_experts_per_tok",
    "moe_num_active_primary_experts",
    "num_experts_per_token",
    "top_k_experts",
    "moe_top_k",
)
LATENT = ("routed_expert_hidden_size", "moe_latent_size")
"""Width of what experts work on where it is less than the model's (LatentMoE, arXiv 2601.18089)."""
ACTIVATION = ("hidden_act", "hidden_activation", "mlp_hidden_act")
UNGATED = ("relu2",)
DENSE_FIRST = {"hy_v3": 1, "glm5_next_text": 3, "kimi_linear": 1, "step3p5": 3}
"""Layers without experts at the beginning, where the configuration leaves them to the code."""


def read_experts(config: Config, family: Family) -> Experts | None:
    """None for a dense model."""
    if config.number(*COUNT, default=0) == 0:
        return None
    count, top_k = config.number(*COUNT), config.number(*TOP_K)
    layers = expert_layers(config)
    if not layers:
        raise config.wrong(f"it has {count} experts, and no layer has them")
    if top_k > count:
        raise config.wrong(f"a token is sent to {top_k} experts, and there are {count}")
    return Experts(
        count=count,
        top_k=top_k,
        hidden=config.number(*LATENT, "hidden_size"),
        intermediate=config.number(family.width),
        layers=layers,
        shared=shared_experts(config, family),
        activation=family.activation or config.text(*ACTIVATION, default="silu"),
        gated=config.text(*ACTIVATION) not in UNGATED,
    )


def expert_layers(config: Config) -> tuple[int, ...]:
    """From a list in the configuration, else by the family's rule."""
    layers = range(config.number("num_hidden_layers"))
    for key, sparse in LISTS.items():
        listed = config.items(key, len(layers))
        if listed:
            return tuple(i for i in layers if listed[i] in sparse)
    pattern, numbered = config.text("hybrid_override_pattern"), config.text("moe_layers_enum")
    if pattern:
        return tuple(i for i, letter in enumerate(pattern[: len(layers)]) if letter == "E")
    if numbered:
        listed_layers = {part.strip() for part in numbered.split(",")}
        return tuple(i for i in layers if str(i) in listed_layers)
    if config.has("moe_layers"):
        return tuple(sorted({*config.record.integers("moe_layers", high=layers[-1])}))
    if config.has("interleave_moe_layer_step"):
        step = config.number("interleave_moe_layer_step")
        return tuple(layers[step - 1 :: step]) if step else ()
    return _by_frequency(config, layers)


def _by_frequency(config: Config, layers: range) -> tuple[int, ...]:
    dense = set(config.record.integers("mlp_only_layers"))
    first = config.number("first_k_dense_replace", default=DENSE_FIRST.get(config.model_type, 0))
    sparse = [i for i in layers if i >= first and i not in dense]
    if isinstance(config.values.get("moe_layer_freq"), list):
        listed = config.record.integers("moe_layer_freq", high=1, least=len(layers))
        return tuple(i for i in sparse if listed[i])
    if config.has("decoder_sparse_step"):
        step = config.number("decoder_sparse_step")
        return tuple(i for i in sparse if (i + 1) % step == 0)
    step = config.number("moe_layer_freq", default=1) or 1
    return tuple(i for i in sparse if i % step == 0)


def shared_experts(config: Config, family: Family) -> int:
    if family.shared == "count":
        default = 1 if family_name(config) == "minimax_m3_vl" else 0
        return config.number("n_shared_experts", default=default)
    if family.shared == "width":
        return 1 if config.number(family.shared_width, default=0) else 0
    return 1 if family.shared == "one" else 0


def shared_width(config: Config, family: Family) -> int:
    """Width of all shared experts of a layer together."""
    count = shared_experts(config, family)
    return count * config.number(family.shared_width) if count else 0
