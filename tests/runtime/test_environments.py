"""Managed environments: built in batches from a folder of wheels, interrupted, resumed, removed."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import pytest

from kt_cli import unfinished
from kt_cli.core.environment import MARKER
from kt_cli.errors import DoesNotFitError, KtError, TransferError
from kt_cli.probe.stack import environments as probed
from kt_cli.runtime import environments
from kt_cli.runtime.engine_verify import verify
from kt_cli.runtime.environments import Build, Wanted


def wheel(folder: Path, name: str, version: str = "1.0") -> None:
    """A package with one module that holds its name."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"NAME = {name!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = [f"{path},{_hash(text)},{len(text)}" for path, text in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,"]) + "\n"
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        for path, text in files.items():
            file.writestr(path, text)


def _hash(text: str) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
    return f"sha256={digest.decode()}"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    for name in ("one", "two"):
        wheel(folder, name)
    return folder


@pytest.fixture
def no_network(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")  # pip installs, whether or not uv is here


PLAN = Build(
    name="toy",
    lock="first",
    python=sys.executable,
    batches=((Wanted("one", "1.0", 10),), (Wanted("two", "1.0", 20), Wanted("three", "1.0", 30))),
    disk=1000,
)


def silent(stage: str, fraction: float) -> None:
    """Nobody watches."""


def record_of(home: Path, name: str) -> Path:
    (record,) = home.glob(f"engines/toy/lib/python3*/site-packages/{name}-1.0.dist-info/RECORD")
    return record


@pytest.mark.usefixtures("no_network")
def test_a_build_goes_on_where_it_stopped(index: Path, tmp_path: Path) -> None:
    home, folder = tmp_path, environments.folder_of(tmp_path, "toy")
    with pytest.raises(TransferError, match="packages of toy could not be installed") as caught:
        environments.build(home, PLAN, silent)
    assert "three" in caught.value.why and "goes on" in caught.value.fix
    state = environments.installed(home, "toy")
    assert state is not None and not state.complete
    assert [e.name for e in probed(home)] == [""], "no plan uses half an environment"
    first, seen = record_of(home, "one").stat().st_mtime_ns, []

    (folder / f"{unfinished.PREFIX}of-a-kill").mkdir()
    wheel(index, "three")
    environments.build(home, PLAN, lambda stage, fraction: seen.append(fraction))
    (index / "three-1.0-py3-none-any.whl").unlink()
    assert record_of(home, "one").stat().st_mtime_ns == first, "what is whole is left alone"
    assert seen == sorted(seen) and seen[-1] == 1.0
    assert not list(folder.glob(f"{unfinished.PREFIX}*"))
    assert [e.name for e in probed(home)] == ["", "toy"]
    state = environments.installed(home, "toy")
    assert state is not None and state.complete and state.bytes > 1_000_000
    assert environments.build(home, PLAN, silent) == state

    code = "import one, two, three; print(one.NAME)"
    python = environments.python_of(folder)
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "one\n"
    assert environments.remove(home, "toy") > 1_000_000
    assert not folder.exists() and environments.installed(home, "toy") is None


@pytest.mark.usefixtures("no_network")
def test_another_lock_builds_anew_and_links_packages(tmp_path: Path) -> None:
    plan = dataclasses.replace(PLAN, batches=((Wanted("one", "1.0", 10),),))
    environments.build(tmp_path, plan, silent)
    linked = tmp_path / "mine"
    linked.mkdir()
    (linked / "__init__.py").write_text("HERE = 1\n")
    other = (Wanted("two", "1.0", 20),)
    changed = dataclasses.replace(plan, lock="second", batches=(other,), links=(linked,))
    environments.build(tmp_path, changed, silent)
    folder = environments.folder_of(tmp_path, "toy")
    assert environments.lacking(folder, plan.batches[0]) and not environments.lacking(folder, other)
    code = "import mine, two; assert mine.HERE"
    subprocess.run([environments.python_of(folder), "-c", code], check=True)


def test_what_somebody_made_by_hand_is_not_replaced(tmp_path: Path) -> None:
    folder = environments.folder_of(tmp_path, "toy")
    (folder / "bin").mkdir(parents=True)
    with pytest.raises(KtError, match="there already"):
        environments.build(tmp_path, PLAN, silent)
    assert (folder / "bin").is_dir()


def test_too_small_a_disk_is_told_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(DoesNotFitError, match="too small for toy"):
        environments.build(tmp_path, dataclasses.replace(PLAN, disk=1 << 60), silent)
    assert not environments.folder_of(tmp_path, "toy").exists()


def test_two_builds_at_once_are_refused(tmp_path: Path) -> None:
    with (
        environments._alone(environments.folder_of(tmp_path, "toy")),
        pytest.raises(KtError, match="is being changed"),
    ):
        environments.build(tmp_path, PLAN, silent)


def test_a_killed_build_leaves_no_installer_behind(tmp_path: Path) -> None:
    """The installer is a program that never ends."""
    script = f"""
        import dataclasses
        from pathlib import Path
        from kt_cli.runtime import environments
        environments._installer = lambda folder, resolve: [
            "/bin/sh", "-c", "echo $$ > {tmp_path}/pid; exec sleep 600", "sh"
        ]
        plan = environments.Build(
            "toy", "x", {sys.executable!r}, ((environments.Wanted("one", "1.0", 1),),), 10
        )
        environments.build(Path({str(tmp_path)!r}), plan, lambda stage, fraction: None)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)])
    pid_file = tmp_path / "pid"
    while not (pid_file.exists() and pid_file.read_text().strip()):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    place = Path(f"/proc/{int(pid_file.read_text())}")
    while place.exists() and "Z" not in (place / "stat").read_text().rpartition(")")[2][:3]:
        time.sleep(0.02)
    state = environments.installed(tmp_path, "toy")
    assert state is not None and not state.complete


def test_a_marker_of_another_shape_is_no_marker(tmp_path: Path) -> None:
    folder = environments.folder_of(tmp_path, "toy")
    folder.mkdir(parents=True)
    for text in ("[]", "{}", '{"name": 3}', "", json.dumps({"name": "toy"})):
        (folder / MARKER).write_text(text)
        assert environments.installed(tmp_path, "toy") is None, text


@pytest.fixture
def interpreter(tmp_path: Path) -> Path:
    """An environment whose interpreter is a script that a test writes."""
    (tmp_path / "bin").mkdir()
    return tmp_path / "bin" / "python"


@pytest.mark.parametrize(
    ("lines", "state", "detail"),
    [
        ('echo \'{"check": "A"}\'; kill -ILL $$', "failed", "SIGILL"),
        ("echo Traceback >&2; echo 'ImportError: x' >&2; exit 1", "failed", "ImportError: x"),
        ('echo \'{"check": "A", "state": "unable", "detail": "no GPU"}\'', "unable", "no GPU"),
    ],
)
def test_the_end_of_a_check_is_its_result(
    tmp_path: Path, interpreter: Path, lines: str, state: str, detail: str
) -> None:
    interpreter.write_text(f"#!/bin/sh\n{lines}\n")
    interpreter.chmod(0o755)
    (check,) = verify(tmp_path, "toy")
    assert (check.state, detail in check.detail) == (state, True), check


def test_the_checks_of_the_embedded_engine_pass_here() -> None:
    import kt_cli.runtime.engine_checks as checks

    found = {title: checks.examine(check) for title, check in checks.CHECKS["embedded"][-2:]}
    assert found["kt's experts"]["state"] == "ok", found
    assert found["PyTorch on the GPU"]["state"] in ("ok", "unable")
