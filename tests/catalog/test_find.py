"""Names → models: the demo, paths, the models folder, presets."""

import json

import pytest
from tiny_models import BASE, write_checkpoint

from kt_cli import catalog
from kt_cli.catalog import demo
from kt_cli.catalog.presets import planned_presets
from kt_cli.errors import KtError, NotFoundError

CONFIG = {**BASE, "model_type": "mixtral", "num_local_experts": 4, "num_hidden_layers": 1}
CONFIG |= {"num_experts_per_tok": 2}
PRESETS = """
family: Test
models:
- name: Big-V3
  aliases: [big-v3-first]
  repos: {huggingface: org/Big-V3, modelscope: other/Big-V3}
  source: a card
  config: %(config)s
  variants:
  - {name: FP8, method: fp8, repo: org/Big-V3-FP8, source: a card}
  - {name: IQ2_XXS, method: gguf, repo: org/Big-V3-GGUF, source: a card}
  notes: [a caveat]
- name: Big-V3-Next
  aliases: [big]
  ambiguous: {big: Big-V3-Next; the first is `big-v3-first`}
  repos: {huggingface: org/Big-V3-Next}
  source: a card
  config: %(config)s
  hints: {tp_max: 4, flags: {tool_call_parser: x}, source: a card}
"""


@pytest.fixture
def presets(tmp_path):
    folder = tmp_path / "presets"
    folder.mkdir()
    (folder / "test.yaml").write_text(PRESETS % {"config": json.dumps(CONFIG)})
    return folder


@pytest.fixture
def home(tmp_path):
    (tmp_path / "models").mkdir()
    return tmp_path


def put(home, name):
    """A checkpoint that is smaller than the preset says, so that they are told apart."""
    experts = {
        f"model.layers.0.block_sparse_moe.experts.{e}.{part}.weight": ("BF16", shape)
        for e in range(4)
        for part, shape in (("w1", (96, 64)), ("w2", (64, 96)), ("w3", (96, 64)))
    }
    return write_checkpoint(home / "models" / name, CONFIG, experts)


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("Big-V3", "Big-V3"),
        ("big-v3", "Big-V3"),
        ("BIG_v3 next", "Big-V3-Next"),
        ("Big-V3-FP8", "Big-V3-FP8"),
        ("BIG", "Big-V3-Next"),
        ("org/big-v3", "Big-V3"),
        ("other/Big-V3", "Big-V3"),
        ("big-v3-first:fp8", "Big-V3-FP8"),
        ("org/Big-V3-FP8", "Big-V3-FP8"),
    ],
)
def test_names_aliases_and_repositories(home, presets, typed, name):
    model = catalog.find(typed, home, presets)
    assert (model.name, model.exact) == (name, False)


def test_a_variant_has_its_own_size_and_repository(home, presets):
    plain, small = (catalog.find(n, home, presets) for n in ("Big-V3", "org/Big-V3-FP8"))
    assert small.total_bytes < plain.total_bytes
    assert small.quantization.method == "fp8"
    assert small.repo == "org/Big-V3-FP8"
    assert plain.notes == ("a caveat",)


def test_an_alias_that_could_mean_two_models_says_what_it_means(home, presets):
    assert "the first is" in catalog.find("big", home, presets).notes[0]


def test_a_variant_of_unknown_size_names_its_repository(home, presets):
    with pytest.raises(KtError, match="is not known") as caught:
        catalog.find("Big-V3:iq2_xxs", home, presets)
    assert "org/Big-V3-GGUF" in caught.value.fix


def test_a_downloaded_model_goes_before_its_preset(home, presets):
    put(home, "Big-V3-Next")
    model = catalog.find("big", home, presets)
    assert model.exact
    assert model.repo == "org/Big-V3-Next"


def test_a_model_of_the_models_folder_has_the_name_of_its_entry(home, presets):
    target = put(home, "elsewhere")
    (home / "models" / "mine").symlink_to(target)
    model = catalog.find("mine", home, presets)
    assert (model.name, model.exact) == ("mine", True)


def test_a_path_is_read(home, presets):
    assert catalog.find(str(put(home, "x")), home, presets).exact


def test_an_unknown_name_gets_close_ones(home, presets):
    with pytest.raises(NotFoundError, match="'bug-v3'") as caught:
        catalog.find("bug-v3", home, presets)
    assert "did you mean Big-V3" in caught.value.why


def test_a_part_of_several_names_lists_them(home, presets):
    with pytest.raises(NotFoundError, match="2 models") as caught:
        catalog.find("big-v", home, presets)
    assert caught.value.why == "known are Big-V3-Next, Big-V3"


def test_a_variant_that_is_not_known_lists_those_that_are(home, presets):
    with pytest.raises(NotFoundError, match="no variant 'fp9'") as caught:
        catalog.find("big-v3:fp9", home, presets)
    assert caught.value.why == "known are FP8, IQ2_XXS"


def test_the_demo_is_known_before_it_is_made(tmp_path):
    model = catalog.find("demo", tmp_path)
    assert (model.name, model.exact, model.experts.count) == ("demo", False, 8)


def test_what_is_known_of_the_demo_is_what_it_becomes(demo_home):
    folder = demo.folder_of(demo_home)
    assert json.loads((folder / "config.json").read_text()) == demo.CONFIG
    made = catalog.find("demo", demo_home)
    assert made.exact
    assert made.bytes == catalog.from_config(demo.CONFIG, "demo").bytes


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("family: Test", "family: [", "test.yaml"),
        ("  source: a card\n", "", "Big-V3"),
        ("tp_max: 4", "tp_most: 4", "Big-V3-Next"),
        ("aliases: [big]", "aliases: [Big_V3]", "two presets"),
    ],
)
def test_a_malformed_preset_is_named(presets, old, new, what):
    file = presets / "test.yaml"
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(KtError, match=what):
        catalog.load_presets(presets)


def test_a_beginning_that_only_one_model_has_means_it(home, presets):
    assert catalog.find("big-v3-n", home, presets).name == "Big-V3-Next"


@pytest.mark.parametrize("preset", planned_presets(), ids=lambda preset: preset.name)
def test_every_shipped_preset_becomes_a_model(preset):
    model = catalog.preset_model(preset)
    assert model.experts
    assert model.attention.heads
    assert model.total_parameters > 1e9
