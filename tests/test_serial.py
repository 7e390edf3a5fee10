"""Plain data round-trips through JSON and TOML, and wrong shapes are named."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kt_cli.core.machine import Core, Cpu, Gpu, Machine, Measured, Memory, NumaNode
from kt_cli.core.plan import Item, Kind
from kt_cli.core.serial import ShapeError, from_plain, to_plain
from kt_cli.documents import Source, parse_toml
from kt_cli.probe.toml import write

COUNT = st.integers(0, 2**40)
NAME = st.text(st.characters(codec="ascii", categories=("L", "N")), max_size=8)
MACHINES = st.builds(
    Machine,
    name=NAME,
    cpu=st.builds(
        Cpu,
        model=NAME,
        vendor=NAME,
        isa=st.lists(NAME, max_size=3).map(tuple),
        cores=st.lists(st.builds(Core, cpus=st.just((0, 1)), node=COUNT), max_size=3).map(tuple),
        total_cores=COUNT,
        total_threads=COUNT,
        quota=st.none() | st.floats(0.1, 64),
    ),
    nodes=st.lists(
        st.builds(NumaNode, id=COUNT, cpus=st.just((3,)), memory=COUNT, free=COUNT), max_size=2
    ).map(tuple),
    memory=st.builds(Memory, total=COUNT, available=COUNT, limit=st.none() | COUNT),
    gpus=st.lists(
        st.builds(
            Gpu,
            index=COUNT,
            name=NAME,
            vendor=st.sampled_from(("nvidia", "amd")),
            memory=COUNT,
            free=COUNT,
            capability=st.none() | st.tuples(COUNT, COUNT),
        ),
        max_size=2,
    ).map(tuple),
    measured=st.builds(
        Measured,
        read_gbs=st.dictionaries(st.integers(1, 64), st.floats(1, 500), max_size=2),
        stolen=st.dictionaries(st.integers(4, 64), st.floats(0, 1), max_size=2),
    ),
)


@given(MACHINES)
def test_a_machine_round_trips(machine: Machine) -> None:
    plain = to_plain(machine)
    assert from_plain(Machine, json.loads(json.dumps(plain))) == machine
    assert from_plain(Machine, parse_toml(write(plain).encode(), Source("x")).values) == machine


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"total": 1}, "available"),
        ({"total": "1", "available": 1}, r"Memory\.total"),
        ({"total": 1, "available": 1, "colour": 2}, "colour"),
        ({"total": True, "available": 1}, r"Memory\.total"),
    ],
)
def test_a_wrong_shape_is_named(data: dict, named: str) -> None:
    with pytest.raises(ShapeError, match=named):
        from_plain(Memory, data)


def test_a_wrong_choice_lists_the_right_ones() -> None:
    gpu = {"index": 0, "name": "x", "vendor": "matrox", "memory": 1, "free": 1}
    with pytest.raises(ShapeError, match="nvidia"):
        from_plain(Gpu, gpu)


def test_members_of_an_enumeration_are_known_by_their_value() -> None:
    item = Item("any words", 3, "", Kind.CACHE)
    assert to_plain(item)["kind"] == "cache"
    assert from_plain(Item, json.loads(json.dumps(to_plain(item)))) == item
    with pytest.raises(ShapeError, match="kind"):
        from_plain(Item, {**to_plain(item), "kind": "cash"})
