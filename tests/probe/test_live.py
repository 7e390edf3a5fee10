"""What the machine does now, and the memory controllers' counters."""

import os
import time
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from kt_cli.probe import counters, live
from kt_cli.probe.host import Host

STAT = "cpu  9 9 9 9\ncpu0 {} 0 0 {} 0 0 0 0 0 0\ncpu1 5 0 0 5 0 0 0 0 0 0\nintr 1 2\n"


def machine(root: Path, user: int, idle: int) -> live.Sample:
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc/stat").write_text(STAT.format(user, idle))
    (root / "proc/meminfo").write_text("MemTotal: 1000 kB\nMemAvailable: 400 kB\n")
    return live.sample(Host(root))


def test_shares_are_of_the_time_between_two_samples(tmp_path: Path) -> None:
    before, after = machine(tmp_path, 100, 100), machine(tmp_path, 130, 110)
    assert live.busy(before, after) == {0: 0.75, 1: 0.0}
    assert (after.memory, after.memory_used) == (1024000, 614400)


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_share_is_between_none_and_all(a: int, b: int, c: int, d: int) -> None:
    first = live.Sample({0: live.Times(a + b, a)})
    second = live.Sample({0: live.Times(c + d, c)})
    assert 0 <= live.busy(first, second)[0] <= 1


def test_this_machine_is_seen_working() -> None:
    before = live.sample(Host())
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        sum(range(1000))
    after = live.sample(Host())
    assert set(os.sched_getaffinity(0)) <= set(after.cpus)
    assert max(live.busy(before, after).values()) > 0.2


def test_controllers_are_read_as_their_format_says(tmp_path: Path) -> None:
    place = tmp_path / "sys/bus/event_source/devices/uncore_imc_0"
    for name, text in {
        "type": "14",
        "cpumask": "0,16",
        "format/event": "config:0-7",
        "format/umask": "config:8-15",
        "events/cas_count_read": "event=0x04,umask=0x03",
        "events/cas_count_write": "event=0x04,umask=0x0c",
    }.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text + "\n")
    found = counters.events(Host(tmp_path))
    assert {(e.type, e.config, e.cpu) for e in found} == {
        (14, 0x0304, 0),
        (14, 0x0304, 16),
        (14, 0x0C04, 0),
        (14, 0x0C04, 16),
    }


def test_without_controllers_there_is_no_reader(tmp_path: Path) -> None:
    assert counters.reader(Host(tmp_path)) is None


def test_a_counter_that_may_not_be_opened_is_no_crash() -> None:
    assert counters._open(298, counters.Event(10**6, 0, 0)) == -1
