"""Machines in TOML files: compact, written by hand, wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kt_cli.core.machine import Core
from kt_cli.errors import NotFoundError, UsageError
from kt_cli.probe import toml
from tests.probe import trees


def test_toml_is_written_compactly_and_read_by_hand(tmp_path: Path) -> None:
    machine = trees.unpack("two-socket", tmp_path).machine()
    text = toml.dump(machine)
    assert '"0-47"' in text
    assert '"96-143"' in text
    assert len(text.splitlines()) < 200


def test_toml_keeps_cores_it_cannot_fold(tmp_path: Path) -> None:
    machine = trees.unpack("laptop", tmp_path).machine()
    odd = (Core((3, 1), 0), Core((0, 2), 0))
    machine = replace(machine, cpu=replace(machine.cpu, cores=odd))
    assert toml.loads(toml.dump(machine)) == machine


MINIMAL = """
name = "box"
[cpu]
model = "x"
vendor = "y"
isa = []
total_cores = 2
total_threads = 2
[[cpu.cores]]
node = 0
threads = ["0-1"]
[[nodes]]
id = 0
cpus = "0-1"
memory = 1
free = 1
[memory]
total = 1
available = 1
"""


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('"0-1"]', '"1-0"]', "machine.cpu.cores[0].threads[0]"),
        ('["0-1"]', '["0-1", "2"]', "machine.cpu.cores[0].threads"),
        ('["0-1"]', "3", "machine.cpu.cores[0].threads"),
        ('cpus = "0-1"', 'cpus = "zero"', "machine.nodes[0].cpus"),
        ("memory = 1", 'memory = "1 GB"', "machine.nodes[0].memory"),
        ('name = "box"', 'nom = "box"', "machine has no field 'nom'"),
        ('name = "box"', "name = ", "line 2"),
        ("id = 0", "", "machine.nodes[0]"),
    ],
)
def test_errors_in_a_machine_file_name_file_and_field(
    tmp_path: Path, old: str, new: str, named: str
) -> None:
    file = tmp_path / "box.toml"
    file.write_text(MINIMAL)
    assert toml.load(file).cpu.cores == (Core((0,), 0), Core((1,), 0))
    assert old in MINIMAL
    file.write_text(MINIMAL.replace(old, new, 1))
    with pytest.raises(UsageError) as caught:
        toml.load(file)
    assert str(file) in caught.value.what
    assert named in caught.value.why


def test_a_machine_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        toml.load(tmp_path / "none.toml")
