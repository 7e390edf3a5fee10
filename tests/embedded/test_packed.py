"""Packed experts kept on disk: mapped at the next start, packed anew whenever in doubt."""

from __future__ import annotations

import json
import logging
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from kt_cli.embedded.inject import read_rules
from kt_cli.embedded.loading import LoadedModel, LoadOptions, load_model
from kt_cli.embedded.packed import NoPacks, PackCache, Packing, open_packs
from kt_cli.embedded.presets import rules_for
from kt_cli.weights.packs import Shelf, remove

kt_moe = pytest.importorskip("kt_moe")
pytestmark = pytest.mark.skipif(not kt_moe.available, reason="the kernels cannot run here")


@pytest.fixture
def model(tiny: Callable[[str], tuple[Path, Any]], tmp_path: Path) -> Path:
    shutil.copytree(tiny("qwen3_moe")[0], tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "packs", spare=0)


def load(model: Path, shelf: Shelf | None, format: str = "int4") -> LoadedModel:
    chosen = LoadOptions(dtype="bf16", experts_format=format, packs=shelf)
    loaded = load_model(model, read_rules(rules_for(None)), chosen, lambda *_: None)
    finish(loaded.packs)
    return loaded


def finish(packs: Packing) -> None:
    if isinstance(packs, PackCache):
        packs.wait()
        packs.close()


def mapped(loaded: LoadedModel) -> int:
    assert isinstance(loaded.packs, PackCache)
    return loaded.packs.mapped


def answer(loaded: LoadedModel) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = loaded.model(torch.arange(5, 20)[None], use_cache=False).logits
    return logits


@pytest.mark.parametrize("format", ["bf16", "int8", "int4"])
def test_the_second_start_maps_what_the_first_one_packed(
    model: Path, shelf: Shelf, format: str
) -> None:
    first, second = load(model, shelf, format), load(model, shelf, format)
    assert (mapped(first), mapped(second)) == (0, 2)
    assert torch.equal(answer(first), answer(second))
    assert torch.equal(answer(second), answer(load(model, None, format)))


def test_a_second_format_has_files_of_its_own(model: Path, shelf: Shelf) -> None:
    load(model, shelf, "int4")
    assert mapped(load(model, shelf, "int8")) == 0
    assert mapped(load(model, shelf, "int4")) == 2
    (pack,) = shelf.packs()
    assert (pack.layers("int8")[0], pack.layers("int4")[0]) == (2, 2)


def test_a_changed_checkpoint_is_packed_anew_and_its_old_pack_goes(
    model: Path, shelf: Shelf
) -> None:
    load(model, shelf)
    (before,) = shelf.packs()
    file = model / "model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    assert mapped(load(model, shelf)) == 0
    (after,) = shelf.packs()
    assert after.identity != before.identity
    assert mapped(load(model, shelf)) == 2


def test_a_changed_configuration_is_packed_anew(model: Path, shelf: Shelf) -> None:
    load(model, shelf)
    config = model / "config.json"
    text = json.loads(config.read_text()) | {"num_experts_per_tok": 1}
    config.write_text(json.dumps(text))
    assert mapped(load(model, shelf)) == 0


def test_nothing_is_kept_without_a_shelf_or_experts(model: Path, shelf: Shelf) -> None:
    assert isinstance(load(model, None).packs, NoPacks)
    assert isinstance(open_packs(shelf, model, "test", 0), NoPacks)


# One layer after another, without a model


WHAT = {"format": "int8", "num_experts": 4, "hidden": 256, "intermediate": 128, "top_k": 2}


def layer() -> Any:
    sizes = (WHAT["num_experts"], WHAT["hidden"], WHAT["intermediate"])
    made = kt_moe.Experts(*sizes, format="int8", top_k=2)
    matrix = torch.randn(128, 256, generator=torch.Generator().manual_seed(1))
    made.set_expert(1, matrix, matrix, matrix.T.contiguous())
    return made


def opened(shelf: Shelf, model: Path, layers: int = 1) -> PackCache:
    packs = open_packs(shelf, model, "test", layers)
    assert isinstance(packs, PackCache)
    return packs


def through(packs: PackCache, module: str = "a") -> Any:
    from kt_cli.embedded.packed import Wanted

    return packs.experts(module, Wanted(**WHAT, act="silu"), layer)  # type: ignore[arg-type]


@pytest.fixture
def file(shelf: Shelf, model: Path) -> Path:
    """One layer as an earlier start left it."""
    packs = opened(shelf, model)
    through(packs)
    finish(packs)
    (found,) = shelf.folder.rglob("*.ktmoe")
    return found


def damages(path: Path) -> Iterator[Callable[[], object]]:
    raw = path.read_bytes()
    yield lambda: path.write_bytes(raw[:5000])
    yield lambda: path.write_bytes(b"")
    yield lambda: path.write_bytes(raw[:4096] + bytes(len(raw) - 4096))
    yield lambda: path.write_bytes(b"kt" + raw)
    yield lambda: path.write_bytes(raw.replace(b'"top_k": 2', b'"top_k": 1', 1))
    for at in (4095, 4096 + 12345, len(raw) - 1):  # padding, a weight, the last byte
        flipped = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
        yield lambda flipped=flipped: path.write_bytes(flipped)


@pytest.mark.parametrize("kind", range(8))
def test_a_damaged_file_is_packed_and_written_again(
    kind: int, file: Path, shelf: Shelf, model: Path
) -> None:
    whole = file.read_bytes()
    list(damages(file))[kind]()
    packs = opened(shelf, model)
    through(packs)
    assert packs.mapped == 0
    finish(packs)
    assert file.read_bytes() == whole


def test_a_process_killed_while_writing_leaves_nothing_that_is_believed(
    shelf: Shelf, model: Path
) -> None:
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from embedded.test_packed import opened, through\n"
        "from kt_cli.weights.packs import Shelf\n"
        "os.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)\n"
        "packs = opened(Shelf(Path(sys.argv[2]), spare=0), Path(sys.argv[3]))\n"
        "through(packs)\n"
        "packs.wait()\n"
    )
    tests = str(Path(__file__).parent.parent)
    done = subprocess.run([sys.executable, "-c", code, tests, str(shelf.folder), str(model)])
    assert done.returncode == -signal.SIGKILL
    assert [p.suffix for p in shelf.folder.rglob("*ktmoe*")] == [".part"]
    packs = opened(shelf, model)
    through(packs)
    assert packs.mapped == 0
    finish(packs)
    assert [p.suffix for p in shelf.folder.rglob("*ktmoe*")] == [".ktmoe"]


def test_a_full_disk_is_survived_with_a_warning(
    shelf: Shelf, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    packs = opened(shelf, model, layers=2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        made = [through(packs, name) for name in "ab"]
        packs.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert made[0].nbytes == layer().nbytes
    assert list(shelf.folder.rglob("*ktmoe*")) == []
    assert len(caplog.records) == 1
    assert "File too large" in caplog.text


def test_too_little_disk_is_noticed_before_anything_is_written(
    tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    packs = opened(Shelf(tmp_path / "packs", spare=1 << 60), model)
    through(packs)
    finish(packs)
    assert "to spare" in caplog.text
    assert list(tmp_path.rglob("*ktmoe*")) == []


def test_the_limit_holds_for_all_layers_together(
    tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    room = Shelf(tmp_path / "packs", limit=layer().nbytes * 3 // 2, spare=0)
    packs = opened(room, model, layers=2)
    through(packs)
    finish(packs)
    assert "may take" in caplog.text
    assert list(tmp_path.rglob("*ktmoe*")) == []


def test_a_folder_that_cannot_be_written_is_no_error(
    tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "packs").write_text("a file where the folder should be")
    assert isinstance(open_packs(Shelf(tmp_path / "packs"), model, "test", 1), NoPacks)
    assert "not kept" in caplog.text


def test_only_one_process_writes_and_the_other_does_not_mind(
    shelf: Shelf, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    first, second = opened(shelf, model, 2), opened(shelf, model, 2)
    through(first, "a")
    through(second, "b")
    finish(first)
    finish(second)
    assert [p.name for p in shelf.folder.rglob("*ktmoe*")] == ["a.int8.ktmoe"]
    assert caplog.records == []


def test_a_pack_that_is_removed_while_it_is_mapped_goes_on_answering(
    file: Path, shelf: Shelf, model: Path
) -> None:
    packs = opened(shelf, model)
    found = through(packs)
    remove(shelf.packs()[0])
    assert not file.exists()
    finish(packs)
    assert torch.equal(
        torch.from_numpy(found.dequantised(1)[0]), torch.from_numpy(layer().dequantised(1)[0])
    )
