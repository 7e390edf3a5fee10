"""Reading doctor's facts, naming channels, mending, asking the hub."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kt_cli.core.machine import Disk, Engine
from kt_cli.doctor import check, dmi, engines, network, online, reading, repair, storage, versions
from kt_cli.doctor.drawing import ascii_only, draw
from kt_cli.doctor.facts import Dimm, Facts, Hub
from kt_cli.doctor.finding import Finding, ok, warning
from kt_cli.doctor.gather import BINDING, binding, limits, scripts, speeds
from kt_cli.doctor.slots import channels
from kt_cli.probe.host import Host, Ran
from tests.core.builders import machine
from tests.doctor.captured import facts_of
from tests.probe.trees import Forest, dimm, unpack


@pytest.mark.parametrize(
    ("slot", "bank", "channel"),
    [
        ("CPU1_DIMM_A1", "BANK 0", "CPU 1 A"),
        ("DIMM_B2", "", "B"),
        ("P2-DIMMH1", "P1_Node1_Channel7_Dimm0", "CPU 2 7"),
        ("DIMM 0", "P0 CHANNEL C", "CPU 0 C"),
        ("A3", "", "A"),
        ("Controller0-ChannelB-DIMM1", "BANK 1", "B"),
    ],
)
def test_channels_by_the_names_of_slots(slot: str, bank: str, channel: str) -> None:
    other = Dimm("CPU9_DIMM_P1", "", 1)
    assert channels([Dimm(slot, bank, 0), other]) == {channel: False, "CPU 9 P": True}


def test_names_that_do_not_tell_give_no_channels() -> None:
    assert channels([Dimm("PROC 1 DIMM 7", "Not Specified", 1), Dimm("PROC 1 DIMM 8", "", 0)]) == {}


@given(st.sampled_from([0, 1024, 16384, 32766, 65536, 262144]), st.integers(0, 9000))
def test_memory_modules_are_decoded(mib: int, speed: int) -> None:
    raw = dimm("A1", "BANK 0", str(mib), str(speed), str(speed // 2))
    assert dmi.dimm(raw) == Dimm("A1", "BANK 0", mib << 20, speed, speed // 2)


def test_old_and_odd_module_sizes() -> None:
    raw = bytearray(dimm("A1", "B", "0", "0", "0"))
    raw[12:14] = b"\xff\xff"
    assert dmi.dimm(bytes(raw)).size == 0
    raw[12:14] = (0x8000 | 512).to_bytes(2, "little")
    assert dmi.dimm(bytes(raw)).size == 512 << 10


def test_limits_as_proc_writes_them() -> None:
    text = Path("/proc/self/limits").read_text()
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert limits(text)["Max open files"] == (float(soft), float(hard))
    assert limits("") == {}
    line = "Limit  Soft Limit  Hard Limit  Units\nMax locked memory  unlimited  unlimited  bytes\n"
    assert limits(line) == {"Max locked memory": (float("inf"), float("inf"))}


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("2.9.1+cu128", (2, 9, 1)), ("5.6.0.post6", (5, 6, 0)), ("2.9", (2, 9)), ("", ()), ("x", ())],
)
def test_release_numbers(text: str, numbers: tuple[int, ...]) -> None:
    assert versions.release(text) == numbers


def test_local_versions_satisfy_a_pin() -> None:
    assert versions.same("2.9.1", "2.9.1+cu128")
    assert not versions.same("2.9.1", "2.9.10")
    assert not versions.same("0.7.2", "0.7.2.post1")


def test_binding_memory_is_tried_for_real() -> None:
    tried = binding(Host())
    assert tried is None or tried == "" or tried.isupper()
    said = subprocess.run(
        [sys.executable, str(BINDING)], capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == (tried or "ok")


@pytest.mark.parametrize(
    ("ran", "found"),
    [
        (Ran(0, "ok\n"), ""),
        (Ran(0, "EPERM\n"), "EPERM"),
        (Ran(0, "\n"), None),
        (Ran(1, ""), None),
        (Ran(-31, ""), "the call died of SIGSYS (bad system call)"),
    ],
)
def test_how_binding_ended(ran: Ran, found: str | None) -> None:
    assert binding(Host(run=lambda argv, timeout: ran)) == found


def test_scripts_in_the_order_of_the_path(tmp_path: Path) -> None:
    host = unpack("bad-shadowed", tmp_path).host()
    assert scripts(host) == (
        ("/home/ada/venv/bin/kt", "kt_kernel"),
        ("/home/ada/.local/bin/kt", "kt_cli"),
    )
    env = {"PATH": "/home/ada/.local/bin:/home/ada/venv/bin:/nowhere::"}
    assert scripts(replace(host, env=env))[0][1] == "kt_cli"


def test_each_file_system_is_read_once(tmp_path: Path) -> None:
    asked: list[Path] = []

    def speed(place: Path) -> float:
        asked.append(place)
        return 2.5

    places = [tmp_path / "a" / "not-there-yet", tmp_path]
    assert speeds(places, speed) == {str(place): 2.5 for place in places}
    assert len(asked) == 1


def test_reading_speed_leaves_nothing_behind(tmp_path: Path) -> None:
    measured = reading.speed(tmp_path)
    assert measured is None or measured > 0.001
    assert list(tmp_path.iterdir()) == []
    assert reading.speed(tmp_path / "missing") is None


def test_a_slow_disk_is_named_by_its_speed(forest: Forest) -> None:
    machine, facts = facts_of("desktop", forest)
    disk = Disk("/data", 10**13, 5 * 10**12, True)
    machine = replace(machine, disks=(disk,))
    slow = list(storage.check(machine, replace(facts, read_gbs={"/data": 0.15})))[1]
    assert (slow.severity, slow.why) == (
        "warning",
        "loading 100 GB of weights takes 11 minutes at every start",
    )
    fast = list(storage.check(machine, replace(facts, read_gbs={"/data": 3.0})))[1]
    assert (fast.severity, fast.what) == ("ok", "/data reads 3.0 GB/s")


HARMFUL = warning("w", "w", "w", "w")
SAFE = replace(warning("numa-balancing", "w", "w", "w"), repair=("sysctl", "-w", "x=0"))


@pytest.mark.parametrize("root", [True, False])
def test_safe_fixes_run_after_asking(root: bool) -> None:
    ran: list[tuple[str, ...]] = []

    def run(argv: tuple[str, ...], timeout: float) -> Ran:
        ran.append(tuple(argv))
        return Ran(0)

    def agreed(finding: Finding, line: str) -> bool:
        assert finding is SAFE
        return True

    (done,) = repair.repair([HARMFUL, SAFE, ok("a", "b")], agreed, run, root=root)
    prefix = () if root else ("sudo", "-n")
    assert ran == [(*prefix, "sysctl", "-w", "x=0")]
    assert done.done


def test_a_refused_fix_does_not_run() -> None:
    def run(argv: tuple[str, ...], timeout: float) -> Ran:
        raise AssertionError

    assert repair.repair([SAFE], lambda finding, line: False, run) == ()


def test_a_failed_fix_says_why() -> None:
    failed = Ran(1, "", "sudo: a password is required\n")
    (result,) = repair.repair([SAFE], lambda f, line: True, lambda a, t: failed, root=False)
    assert (result.done, result.problem) == (
        False,
        "exited with code 1 sudo: a password is required",
    )


@pytest.fixture
def hub() -> Iterator[tuple[str, dict]]:
    says: dict = {"code": 200, "date": datetime.now(timezone.utc)}

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(says["code"])
            says["path"] = self.path
            self.send_header("Date", format_datetime(says["date"], usegmt=True))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Answer)
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", says
    server.shutdown()
    server.server_close()


def severities(machine_facts: Facts, forest: Forest) -> dict[str, str]:
    machine, _ = facts_of("desktop", forest)
    return {f.name: f.severity for f in network.check(machine, machine_facts)}


def test_a_hub_that_answers(hub: tuple[str, dict], forest: Forest) -> None:
    found = online.ask({"HF_ENDPOINT": hub[0] + "/"})
    assert (found.problem, found.offline) == ("", False)
    assert abs(found.clock_ahead or 0) < 5
    assert severities(Facts(hub=found), forest) == {"hub": "ok"}


def test_a_wrong_token_is_named(hub: tuple[str, dict], forest: Forest) -> None:
    hub[1]["code"] = 401
    found = online.ask({"HF_ENDPOINT": hub[0], "HF_TOKEN": "hf_x"})
    assert (found.problem, hub[1]["path"]) == ("HF_TOKEN is not valid (401)", "/api/whoami-v2")
    assert severities(Facts(hub=found), forest) == {"hub": "warning"}


def test_a_wrong_clock_is_noticed_by_the_hubs(hub: tuple[str, dict], forest: Forest) -> None:
    hub[1]["date"] = datetime.now(timezone.utc) + timedelta(hours=2)
    found = online.ask({"HF_ENDPOINT": hub[0]})
    assert severities(Facts(hub=found), forest) == {"hub": "ok", "clock": "warning"}
    machine, _ = facts_of("desktop", forest)
    (clock,) = (f for f in network.check(machine, Facts(hub=found)) if f.name == "clock")
    assert clock.what == "the clock is 120 minutes behind"


def test_being_offline_is_no_fault(forest: Forest) -> None:
    found = online.ask({"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert found.offline
    assert severities(Facts(hub=found), forest) == {"hub": "info"}
    wished = online.ask({"HF_HUB_OFFLINE": "1"})
    assert wished == Hub(online.DEFAULT, "HF_HUB_OFFLINE is set", offline=True)


def test_a_clock_before_the_installation(forest: Forest) -> None:
    facts = Facts(now=1_000_000.0, installed=1_700_000_000.0)
    assert severities(facts, forest) == {"clock": "warning"}


def test_the_drawing_has_an_ascii_form(forest: Forest) -> None:
    machine, _ = facts_of("two-socket", forest)
    assert all(ascii_only(line).isascii() for line in draw(machine))


def test_limits_that_a_shell_may_raise_are_mended_by_ulimit(forest: Forest) -> None:
    machine, _ = facts_of("desktop", forest)
    facts = Facts(limits={"Max locked memory": (65536.0, float("inf"))})
    (memlock,) = (f for f in check(machine, facts) if f.name == "memlock")
    assert memlock.fix == "run `ulimit -l unlimited`"


def test_this_machine_is_read_without_a_fault() -> None:
    from kt_cli import probe
    from kt_cli.doctor.gather import gather

    machine = probe.machine()
    facts = gather(probe.Host(), machine, (), speed=None)
    assert facts.limits["Max open files"][0] > 0
    assert Path("/dev/shm").exists() == (facts.shm is not None)
    assert all(f.topic for f in check(machine, facts))


def test_sglang_without_a_gpu_is_no_fault() -> None:
    broken = Engine("sglang", "0.7.2", problem="ImportError: libcuda.so.1")
    for gpus, severity in ((0, "info"), (1, "error")):
        seen = replace(machine(gpus=gpus), engines=(broken,))
        (finding,) = [f for f in engines.check(seen, Facts()) if f.name == "engine-sglang"]
        assert finding.severity == severity
