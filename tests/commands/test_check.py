"""`kt plan --check`: the machine that a running server was planned for."""

from __future__ import annotations

from kt_cli.workflow.check import freed
from tests.core.builders import machine


def test_memory_that_servers_hold_was_free_when_they_were_planned() -> None:
    before = machine(gpus=2)
    after = freed(before, 4_000_000_000)
    whole = before.gpus[0].memory
    assert [g.free for g in after.gpus] == [min(whole, g.free + 2_000_000_000) for g in before.gpus]
    assert freed(before, 10**15).gpus[0].free == whole
    assert freed(machine(), 5) == machine()
