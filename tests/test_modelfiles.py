"""One definition of a model: list, add, scan, find and plan agree on every folder."""

import json
import os

import pytest
from gguf_bytes import moe, write
from tiny_models import BASE, write_checkpoint

from kt_cli import catalog
from kt_cli.errors import AuthError, KtError, NotFoundError
from kt_cli.hub.store import Store, scan
from kt_cli.modelfiles import model_at, models_at

CONFIG = {**BASE, "model_type": "mixtral", "num_local_experts": 1, "num_hidden_layers": 1}
CONFIG |= {"num_experts_per_tok": 1}
EXPERT = "model.layers.0.block_sparse_moe.experts.0."
TENSORS = {
    "model.embed_tokens.weight": ("BF16", (96, 64)),
    f"{EXPERT}w1.weight": ("BF16", (96, 64)),
    f"{EXPERT}w2.weight": ("BF16", (64, 96)),
    f"{EXPERT}w3.weight": ("BF16", (96, 64)),
}


def gguf(folder, *names, change=None):
    folder.mkdir(parents=True, exist_ok=True)
    metadata, tensors = moe()
    for name in names:
        write(folder / name, metadata | (change or {}), tensors)


def checkpoint(folder):
    write_checkpoint(folder, CONFIG, TENSORS)


def config_alone(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))


def both(*makers):
    return lambda folder: [make(folder) for make in makers]


def series(folder, *numbers, of=2, ending="gguf"):
    """The first file holds every tensor, the others none."""
    metadata, tensors = moe()
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        path = folder / f"m-{number:05d}-of-{of:05d}.{ending}"
        write(path, {**metadata, "split.count": of}, tensors if number == 1 else {})


ASIDE = ("mmproj-F16.gguf", "m-mmproj-BF16.gguf", "imatrix.gguf", "M.imatrix.GGUF")
MODELS = {
    "safetensors": checkpoint,
    "a GGUF": lambda f: gguf(f, "m.gguf"),
    "capital letters": lambda f: gguf(f, "M.GGUF"),
    "beside a config.json": both(config_alone, lambda f: gguf(f, "m.gguf")),
    "beside safetensors": both(checkpoint, lambda f: gguf(f, "m.gguf")),
    "beside projectors and matrices": lambda f: gguf(f, "m.gguf", *ASIDE),
    "a series": lambda f: series(f, 1, 2),
    "a series in capital letters": lambda f: series(f, 1, 2, ending="GGUF"),
    "one folder below": lambda f: gguf(f / "Q4_K_M", "m.gguf"),
    "one folder below a config.json": both(config_alone, lambda f: series(f / "Q4_K_M", 1, 2)),
    "hidden files": lambda f: gguf(f, "m.gguf", ".m.gguf"),
}
NONE = {
    "nothing": lambda f: f.mkdir(),
    "a config.json alone": config_alone,
    "safetensors alone": both(checkpoint, lambda f: (f / "config.json").unlink()),
    "projectors and matrices alone": lambda f: gguf(f, *ASIDE),
    "a folder called so": lambda f: (f / "x.gguf").mkdir(parents=True),
    "a pipe": lambda f: (f.mkdir(), os.mkfifo(f / "x.gguf")),
    "two folders below": lambda f: gguf(f / "a" / "b", "m.gguf"),
    "an adapter": lambda f: (f.mkdir(), (f / "adapter_config.json").write_text("{}")),
}
UNCLEAR = {
    "two GGUFs": lambda f: gguf(f, "a.gguf", "b.gguf"),
    "two series": both(lambda f: series(f, 1, 2), lambda f: gguf(f, "m.gguf")),
    "two folders below": both(lambda f: gguf(f / "a", "m.gguf"), lambda f: gguf(f / "b", "m.gguf")),
}
CUT = {
    "a series without its end": lambda f: series(f, 1),
    "a series without its start": lambda f: series(f, 2),
    "shards": both(
        checkpoint,
        lambda f: (f / "model.safetensors").rename(f / "model-00001-of-00002.safetensors"),
    ),
}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "home" / "models")


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_is_one_for_all(tmp_path, store, kind):
    place = tmp_path / "disk" / "m"
    place.parent.mkdir()
    MODELS[kind](place)
    below = place / "Q4_K_M" if "below" in kind else place
    assert list(scan(tmp_path / "disk")) == [below]
    entry = store.add(place, "mine")
    assert (entry.state, entry.why) == ("ready", "")
    home = store.folder.parent
    model = catalog.find("mine", home)
    assert model.exact
    assert catalog.find(str(place), home).bytes == model.bytes
    assert model.dtype == ("bf16" if "safetensors" in kind else "gguf")


@pytest.mark.parametrize("kind", NONE)
def test_what_is_none_is_none_for_all(tmp_path, store, kind):
    place = tmp_path / "m"
    NONE[kind](place)
    assert models_at(place) == ()
    for read in (model_at, catalog.read, lambda p: store.add(p, "mine")):
        with pytest.raises(NotFoundError) as caught:
            read(place)
        assert str(place) in caught.value.what
        assert "a model is" in caught.value.fix
    store.folder.mkdir(parents=True)
    (store.folder / "mine").symlink_to(place)
    assert store.entry("mine").state == "damaged"


@pytest.mark.parametrize("kind", UNCLEAR)
def test_several_models_are_named_by_all(tmp_path, store, kind):
    place = store.folder / "m"
    UNCLEAR[kind](place)
    for read in (model_at, catalog.read, lambda p: store.add(p, "mine")):
        with pytest.raises(NotFoundError, match="several models") as caught:
            read(place)
        named = caught.value.fix.rpartition("such as ")[2]
        assert catalog.read(place.__class__(named)).exact
    assert "2 models" in store.entry("m").why
    assert sorted(scan(store.folder)) == sorted(found.path for found in models_at(place))


@pytest.mark.parametrize("kind", CUT)
def test_what_lacks_a_file_is_incomplete_for_all(tmp_path, store, kind):
    place = store.folder / "m"
    CUT[kind](place)
    for read in (model_at, catalog.read, lambda p: catalog.find("m", store.folder.parent)):
        with pytest.raises(NotFoundError, match="not complete") as caught:
            read(place)
        assert "1 of 2 files" in caught.value.why
    assert store.entry("m").state == "incomplete"


def test_a_file_is_known_by_its_ending_or_by_its_first_bytes(tmp_path):
    gguf(tmp_path, "m.GgUf", "sha256-0123")
    for name in ("m.GgUf", "sha256-0123"):
        assert catalog.read(tmp_path / name).experts.count == 4
    (tmp_path / "x.safetensors").write_bytes(b"")
    with pytest.raises(NotFoundError, match=r"x\.safetensors"):
        catalog.read(tmp_path / "x.safetensors")
    with pytest.raises(NotFoundError) as caught:
        catalog.read(tmp_path / "none")
    assert caught.value.why == "it does not exist"


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(tmp_path), "iterdir", refuse)
    with pytest.raises(AuthError, match=str(tmp_path)):
        model_at(tmp_path)
    assert models_at(tmp_path) == ()


@pytest.mark.parametrize("name", ["mmproj-F16.gguf", "imatrix.gguf"])
def test_a_file_that_is_named_itself_is_looked_into(tmp_path, name):
    gguf(tmp_path, name, change={"general.type": "mmproj"})
    with pytest.raises(KtError, match="is no model"):
        catalog.read(tmp_path / name)
