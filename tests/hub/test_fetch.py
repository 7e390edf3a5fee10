"""Downloads against a hub with faults: resumed or refused clearly, checksum-true."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub_server import FakeHub

from kt_cli import hubcache
from kt_cli.errors import AuthError, KtError, NotFoundError, TransferError
from kt_cli.hub import manifest
from kt_cli.hub.check import verify
from kt_cli.hub.client import Client
from kt_cli.hub.fetch import Download
from kt_cli.hub.listing import Listing, RemoteFile, check_repo, safe_path
from kt_cli.weights.sums import Guard

RNG = random.Random(7)
FILES = {
    "config.json": b'{"model_type": "mixtral"}',
    "model-1.safetensors": RNG.randbytes(3_000_000),
    "model-2.safetensors": RNG.randbytes(1_500_000),
    "sub/notes.txt": b"",
}


def quiet(path: str, here: int) -> None: ...


WAYS = ("cache", "folder", "modelscope")
"""Hugging Face into its cache, Hugging Face into a folder (--to), ModelScope."""


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of our own, and the library's pauses between attempts left out."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    clock = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})
    monkeypatch.setattr("huggingface_hub.file_download.time", clock)
    monkeypatch.setattr("huggingface_hub.utils._http.time", clock)


def download(hub: FakeHub, folder: Path, token: str = "", workers: int = 4,
             way: str = "cache") -> Download:  # fmt: skip
    client = Client("modelscope" if way == "modelscope" else "huggingface", hub.url, token)
    listing = client.listing(hub.repo)
    there = hubcache.snapshot_folder(hub.repo, listing.revision) if way == "cache" else ""
    return Download(client, listing, folder, quiet, workers, 0.01, str(there), "main")


def pull(
    hub: FakeHub, folder: Path, token: str = "", workers: int = 4, way: str = "cache"
) -> manifest.Manifest:
    return download(hub, folder, token, workers, way).run()


def held(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def test_every_byte_arrives_and_nothing_else_stays(tmp_path: Path, way: str) -> None:
    folder = tmp_path / "model"
    with FakeHub(FILES) as hub:
        done = pull(hub, folder, way=way)
    assert held(folder) == FILES
    assert done.complete(folder)
    assert [*tmp_path.rglob("*.part"), *tmp_path.rglob("*incomplete")] == []
    assert (folder / "config.json").is_symlink() == (way == "cache")


@pytest.mark.parametrize(
    "faults",
    [
        ["drop:1000", "drop:700000"],
        ["drop:0"] * 4,
        ["status:500", "status:503", "status:429"],
        ["wrong"],
        ["drop:600000", "norange"],
        ["redirect"],
        ["long"],
    ],
    ids=str,
)
def test_a_fault_that_passes_is_survived(tmp_path: Path, way: str, faults: list[str]) -> None:
    for name in ("model-1.safetensors", "config.json"):
        folder = tmp_path / name
        with FakeHub(FILES, repo=f"acme/{way}", faults={name: list(faults)}) as hub:
            pull(hub, folder, way=way)
        assert held(folder) == FILES
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)


def test_a_lost_connection_goes_on_from_the_last_bytes(tmp_path: Path, way: str) -> None:
    with FakeHub(FILES, faults={"model-1.safetensors": ["drop:1000000"]}) as hub:
        pull(hub, tmp_path / "model", way=way)
    (start,) = hub.ranges
    assert int(start.removeprefix("bytes=").rstrip("-")) >= 700_000


def test_the_token_does_not_follow_a_redirect_to_another_host(tmp_path: Path, way: str) -> None:
    faults = {"model-1.safetensors": ["redirect"], "config.json": ["redirect"]}
    with FakeHub(FILES, token="secret", faults=faults) as hub:
        pull(hub, tmp_path / "model", token="secret", way=way)
    assert hub.tokens_at_cdn == ["", ""]
    assert held(tmp_path / "model") == FILES


@pytest.mark.parametrize(
    ("settings", "error", "word"),
    [
        ({"token": "x"}, AuthError, "no token"),
        ({"token": "x", "gated": True}, AuthError, "terms"),
        ({"api_status": 403}, AuthError, "terms"),
        ({"api_status": 404}, NotFoundError, "no such"),
        ({"api_status": 429}, TransferError, "429"),
        ({"api_status": 500}, TransferError, "500"),
    ],
)
def test_what_the_hub_refuses_is_said(
    tmp_path: Path, settings: dict, error: type[KtError], word: str
) -> None:
    with FakeHub(FILES, **settings) as hub, pytest.raises(error) as caught:
        pull(hub, tmp_path / "model")
    assert word in caught.value.why and caught.value.fix
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("faults", "error", "word"),
    [
        (["wrong", "wrong"], TransferError, "checksum"),
        (["status:404"], NotFoundError, "no such"),
        (["status:403"], AuthError, "terms"),
        (["status:500"] * 9, TransferError, "500"),
    ],
    ids=str,
)
def test_a_fault_that_stays_is_refused_clearly(
    tmp_path: Path, way: str, faults: list[str], error: type[KtError], word: str
) -> None:
    for name in ("config.json", "model-1.safetensors"):
        settings = {"repo": f"acme/{name}", "faults": {name: list(faults)}}
        with FakeHub(FILES, **settings) as hub, pytest.raises(error) as caught:
            pull(hub, tmp_path / name, way=way)
        assert word in caught.value.why
        assert not (tmp_path / name / name).exists()
        blobs = (tmp_path / "cache" / f"models--acme--{name}").rglob("blobs/*")
        assert not {FILES[name]} & {blob.read_bytes() for blob in blobs}


def test_a_hub_that_is_not_there_is_named() -> None:
    for hub in ("huggingface", "modelscope"):
        with pytest.raises(TransferError, match="cannot be reached"):
            Client(hub, "http://127.0.0.1:1").listing("acme/model")


def test_what_is_no_hub_is_named(tmp_path: Path) -> None:
    with FakeHub(FILES, revision="") as hub, pytest.raises(TransferError, match="not understood"):
        Client("huggingface", hub.url).listing(hub.repo)


def test_a_second_pull_fetches_nothing(tmp_path: Path, way: str) -> None:
    with FakeHub(FILES) as hub:
        pull(hub, tmp_path / "model", way=way)
        before = sum(hub.seen.values())
        pull(hub, tmp_path / "model", way=way)
        assert sum(hub.seen.values()) == before


def test_verify_finds_each_fault_and_a_pull_mends_only_that(tmp_path: Path, way: str) -> None:
    folder = tmp_path / "model"
    with FakeHub(FILES) as hub:
        done = pull(hub, folder, way=way)
        (folder / "model-1.safetensors").write_bytes(bytes(3_000_000))
        (folder / "model-2.safetensors").resolve().unlink()
        faults, good = verify(folder, done, quiet)
        assert {(f.path, f.why.split()[1]) for f in faults} == {
            ("model-1.safetensors", "the"),
            ("model-2.safetensors", "missing"),
        }
        manifest.write(folder, good)
        hub.seen.clear()
        pull(hub, folder, way=way)
    assert dict(hub.seen) == {"model-1.safetensors": 1, "model-2.safetensors": 1}
    assert held(folder) == FILES


def test_a_part_with_other_bytes_is_thrown_away(tmp_path: Path, way: str) -> None:
    folder = tmp_path / "model"
    with FakeHub(FILES, faults={"model-1.safetensors": ["drop:1000000", "status:404"]}) as hub:
        with pytest.raises(NotFoundError):
            pull(hub, folder, workers=1, way=way)
        parts = [*tmp_path.rglob("*.part"), *tmp_path.rglob("*.incomplete")]
        part = max(parts, key=lambda path: path.stat().st_size)
        assert part.stat().st_size >= 700_000
        part.write_bytes(b"x" * part.stat().st_size)
        pull(hub, folder, way=way)
    assert held(folder) == FILES


def test_two_pulls_of_one_folder_do_not_meet(tmp_path: Path, way: str) -> None:
    folder = tmp_path / "model"
    with FakeHub(FILES) as hub, manifest.locked(folder), pytest.raises(KtError, match="another"):
        pull(hub, folder, way=way)


def test_two_pulls_of_one_repository_share_the_cache(tmp_path: Path) -> None:
    """Under two names: neither spoils the part of the other."""
    with FakeHub(FILES, slow_s=0.005) as hub, ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(pull, hub, tmp_path / name) for name in "ab"]
        assert all(job.result() for job in jobs)
    assert held(tmp_path / "a") == held(tmp_path / "b") == FILES


def test_files_are_fetched_side_by_side(tmp_path: Path, way: str) -> None:
    files = {f"{i}.safetensors": RNG.randbytes(300_000) for i in range(4)}
    for workers in (1, 4):
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        with FakeHub(files, slow_s=0.02) as hub:
            pull(hub, tmp_path / str(workers), workers=workers, way=way)
        assert (hub.most_at_once > 1) == (workers > 1)


CHILD = """
import sys
from pathlib import Path
from kt_cli import hubcache
from kt_cli.hub.client import Client
from kt_cli.hub.fetch import Download
url, folder, way = sys.argv[1:]
client = Client("modelscope" if way == "modelscope" else "huggingface", url)
listing = client.listing("acme/model")
there = str(hubcache.snapshot_folder("acme/model", listing.revision)) if way == "cache" else ""
def tell(path, here): print(here, flush=True)
Download(client, listing, Path(folder), tell, 2, snapshot=there, branch="main").run()
"""


def test_killed_at_many_points_it_still_arrives_whole(tmp_path: Path, way: str) -> None:
    folder = tmp_path / "model"
    with FakeHub(FILES, slow_s=0.005) as hub:
        for kill in range(6):
            argv = [sys.executable, "-c", CHILD, hub.url, str(folder), way]
            with subprocess.Popen(argv, stdout=subprocess.PIPE, env=dict(os.environ)) as child:
                for _ in range(kill % 3 + 1):
                    child.stdout.readline()  # type: ignore[union-attr]
                child.send_signal(signal.SIGKILL)
        hub.slow_s = 0
        done = pull(hub, folder, way=way)
    assert held(folder) == FILES and done.complete(folder)
    assert [*tmp_path.rglob("*.part"), *tmp_path.rglob("*incomplete")] == []
    assert hub.ranges, "a later pull went on from a part"


def test_a_full_disk_leaves_what_it_has(tmp_path: Path, way: str) -> None:
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000));" + CHILD
    )
    folder = tmp_path / "model"
    with FakeHub(FILES) as hub:
        argv = [sys.executable, "-c", code, hub.url, str(folder), way]
        failed = subprocess.run(argv, capture_output=True, text=True, env=dict(os.environ))
        assert failed.returncode != 0 and "KtError: cannot write model-1" in failed.stderr
        hub.seen.clear()
        pull(hub, folder, way=way)
    assert held(folder) == FILES
    assert hub.ranges, "the second pull went on from the part"


@pytest.mark.parametrize(
    "path",
    ["../x", "/etc/passwd", "a/../../b", "", "a\\..\\b", "a\0b", ".kt-model.json", "x/.kt-a"],
)
def test_a_hostile_path_is_refused(path: str) -> None:
    with pytest.raises(TransferError):
        safe_path(path)


@pytest.mark.parametrize("repo", ["x", "../..", "a/b/c", "a/..", "", "a b/c"])
def test_a_hostile_repository_is_refused(repo: str) -> None:
    with pytest.raises(KtError):
        check_repo(repo)


def test_pickles_and_programs_come_only_by_name() -> None:
    names = ("model.safetensors", "pytorch_model.bin", "modeling.py", "config.json")
    listing = Listing("huggingface", "a/b", "1", tuple(RemoteFile(n, 1) for n in names))
    assert [f.path for f in listing.select().files] == ["model.safetensors", "config.json"]
    assert [f.path for f in listing.select(["*.py"]).files] == ["modeling.py"]


def test_damage_that_no_time_of_a_file_tells_is_found_on_use_and_mended_by_a_pull(
    tmp_path: Path, way: str
) -> None:
    name, folder = "model-1.safetensors", tmp_path / "model"
    with FakeHub(FILES, faults={name: ["drop:1500000"]}) as hub:
        done = pull(hub, folder, way=way)
        assert Guard(folder).wrong() == ()
        before = (folder / name).stat()
        damaged = bytearray(FILES[name])
        damaged[2_500_000] ^= 1
        (folder / name).write_bytes(damaged)
        os.utime(folder / name, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert done.complete(folder), "neither size nor time tells"
        with pytest.raises(TransferError, match="is damaged") as caught:
            Guard(folder).check(name, bytes(damaged), 2_400_000, 2_600_000)
        assert "--repair" in caught.value.fix
        assert [f.path for f in done.missing(folder)] == [name]
        hub.seen.clear()
        pull(hub, folder, way=way)
    assert set(hub.seen) == {name} and held(folder) == FILES
    Guard(folder).check(name, FILES[name], 0, len(FILES[name]))
    assert done.listing.files and not manifest.read(folder).missing(folder)  # type: ignore[union-attr]
