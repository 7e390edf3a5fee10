"""Downloads against a hub with faults: resumed or refused clearly, checksum-true."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hub_server import FakeHub

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


def pull(hub: FakeHub, folder: Path, token: str = "", workers: int = 4) -> manifest.Manifest:
    client = Client("huggingface", hub.url, token)
    listing = client.listing(hub.repo)
    return Download(client, listing, folder, quiet, workers, pause_s=0.01).run()


def held(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def test_every_byte_arrives_and_nothing_else_stays(tmp_path: Path) -> None:
    with FakeHub(FILES) as hub:
        done = pull(hub, tmp_path)
    assert held(tmp_path) == FILES
    assert done.complete(tmp_path) and done.listing.revision == "c0ffee"
    assert list((tmp_path / ".kt-parts").iterdir()) == []


@pytest.mark.parametrize(
    "faults",
    [
        ["drop:1000", "drop:70000"],
        ["drop:0"] * 4,
        ["status:500", "status:503", "status:429"],
        ["wrong"],
        ["drop:200000", "norange"],
        ["redirect"],
        ["long"],
    ],
    ids=str,
)
def test_a_fault_that_passes_is_survived(tmp_path: Path, faults: list[str]) -> None:
    with FakeHub(FILES, faults={"model-1.safetensors": list(faults)}) as hub:
        pull(hub, tmp_path)
    assert held(tmp_path) == FILES


def test_a_lost_connection_goes_on_from_the_last_byte(tmp_path: Path) -> None:
    with FakeHub(FILES, faults={"model-1.safetensors": ["drop:1000000"]}) as hub:
        pull(hub, tmp_path)
    assert hub.ranges == ["bytes=1000000-"]


def test_the_token_does_not_follow_a_redirect_to_another_host(tmp_path: Path) -> None:
    faults = {"model-1.safetensors": ["redirect"]}
    with FakeHub(FILES, token="secret", faults=faults) as hub:
        pull(hub, tmp_path, token="secret")
    assert hub.tokens_at_cdn == [""]
    assert held(tmp_path) == FILES


@pytest.mark.parametrize(
    ("settings", "error", "word"),
    [
        ({"token": "x"}, AuthError, "no token"),
        ({"token": "x", "gated": True}, AuthError, "terms"),
        ({"api_status": 403}, AuthError, "terms"),
        ({"api_status": 404}, NotFoundError, "no such"),
        ({"api_status": 500}, TransferError, "500"),
        ({"faults": {"config.json": ["wrong", "wrong"]}}, TransferError, "checksum"),
        ({"faults": {"config.json": ["status:404"]}}, NotFoundError, "no such"),
        ({"faults": {"config.json": ["status:500"] * 9}}, TransferError, "500"),
    ],
)
def test_what_does_not_pass_is_refused_clearly(
    tmp_path: Path, settings: dict, error: type[KtError], word: str
) -> None:
    with FakeHub(FILES, **settings) as hub, pytest.raises(error) as caught:
        pull(hub, tmp_path)
    assert word in caught.value.why
    assert not (tmp_path / "config.json").exists()


def test_a_hub_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TransferError, match="cannot be reached"):
        Client("huggingface", "http://127.0.0.1:1").listing("acme/model")


def test_a_second_pull_fetches_nothing(tmp_path: Path) -> None:
    with FakeHub(FILES) as hub:
        pull(hub, tmp_path)
        before = sum(hub.seen.values())
        pull(hub, tmp_path)
        assert sum(hub.seen.values()) == before


def test_verify_finds_each_fault_and_a_pull_mends_only_that(tmp_path: Path) -> None:
    with FakeHub(FILES) as hub:
        done = pull(hub, tmp_path)
        (tmp_path / "model-1.safetensors").write_bytes(bytes(3_000_000))
        (tmp_path / "model-2.safetensors").unlink()
        faults, good = verify(tmp_path, done, quiet)
        assert {(f.path, f.why.split()[1]) for f in faults} == {
            ("model-1.safetensors", "the"),
            ("model-2.safetensors", "missing"),
        }
        manifest.write(tmp_path, good)
        hub.seen.clear()
        pull(hub, tmp_path)
    assert set(hub.seen) == {"model-1.safetensors", "model-2.safetensors"}
    assert held(tmp_path) == FILES


def test_a_part_with_other_bytes_is_thrown_away(tmp_path: Path) -> None:
    with FakeHub(FILES, faults={"model-1.safetensors": ["drop:1000000", "status:404"]}) as hub:
        with pytest.raises(NotFoundError):
            pull(hub, tmp_path, workers=1)
        part = max((tmp_path / ".kt-parts").iterdir(), key=lambda path: path.stat().st_size)
        part.write_bytes(b"x" * part.stat().st_size)
        pull(hub, tmp_path)
    assert held(tmp_path) == FILES


def test_two_pulls_of_one_folder_do_not_meet(tmp_path: Path) -> None:
    with FakeHub(FILES) as hub, manifest.locked(tmp_path), pytest.raises(KtError, match="another"):
        pull(hub, tmp_path)


def test_parallel_is_faster_than_serial(tmp_path: Path) -> None:
    files = {f"{i}.safetensors": RNG.randbytes(600_000) for i in range(6)}
    seconds = {}
    for workers in (1, 6):
        with FakeHub(files, slow_s=0.02) as hub:
            start = time.monotonic()
            pull(hub, tmp_path / str(workers), workers=workers)
            seconds[workers] = time.monotonic() - start
    assert seconds[6] < seconds[1]


def test_modelscope_speaks_its_own_protocol(tmp_path: Path) -> None:
    with FakeHub(FILES) as hub:
        client = Client("modelscope", hub.url)
        listing = client.listing(hub.repo)
        Download(client, listing, tmp_path, quiet).run()
    assert held(tmp_path) == FILES


CHILD = """
import sys
from pathlib import Path
from kt_cli.hub.client import Client
from kt_cli.hub.fetch import Download
client = Client("huggingface", sys.argv[1])
Download(client, client.listing("acme/model"), Path(sys.argv[2]), lambda p, n: None, 2).run()
"""


def test_killed_at_twenty_points_it_still_arrives_whole(tmp_path: Path) -> None:
    with FakeHub(FILES, slow_s=0.01) as hub:
        for kill in range(20):
            child = subprocess.Popen([sys.executable, "-c", CHILD, hub.url, str(tmp_path)])
            time.sleep(0.25 + 0.02 * kill)
            child.send_signal(signal.SIGKILL)
            child.wait()
        hub.slow_s = 0
        done = pull(hub, tmp_path)
    assert held(tmp_path) == FILES and done.complete(tmp_path)


def test_a_full_disk_leaves_what_it_has(tmp_path: Path) -> None:
    import resource

    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000));" + CHILD
    )
    assert resource.RLIMIT_FSIZE is not None
    with FakeHub(FILES) as hub:
        argv = [sys.executable, "-c", code, hub.url, str(tmp_path)]
        failed = subprocess.run(argv, capture_output=True, text=True, env=dict(os.environ))
        assert failed.returncode != 0 and "KtError" in failed.stderr
        hub.seen.clear()
        pull(hub, tmp_path)
    assert held(tmp_path) == FILES
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
    tmp_path: Path,
) -> None:
    name = "model-1.safetensors"
    with FakeHub(FILES, faults={name: ["drop:1500000"]}) as hub:
        done = pull(hub, tmp_path)
        assert Guard(tmp_path).wrong() == ()
        before = (tmp_path / name).stat()
        damaged = bytearray(FILES[name])
        damaged[2_500_000] ^= 1
        (tmp_path / name).write_bytes(damaged)
        os.utime(tmp_path / name, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert done.complete(tmp_path), "neither size nor time tells"
        with pytest.raises(TransferError, match="is damaged") as caught:
            Guard(tmp_path).check(name, bytes(damaged), 2_400_000, 2_600_000)
        assert "--repair" in caught.value.fix
        assert [f.path for f in done.missing(tmp_path)] == [name]
        hub.seen.clear()
        pull(hub, tmp_path)
    assert set(hub.seen) == {name} and held(tmp_path) == FILES
    Guard(tmp_path).check(name, FILES[name], 0, len(FILES[name]))
    assert done.listing.files and not manifest.read(tmp_path).missing(tmp_path)  # type: ignore[union-attr]
