"""One definition of an option serves flags, wizard, settings and Python callers."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kt_cli import opts as o
from kt_cli.commands.cli import takes
from kt_cli.options import RunOptions

NUMBERS = st.integers(1, 65535)
TEXT = st.from_regex(r"[a-zA-Z][a-zA-Z0-9_./]{0,20}", fullmatch=True)


def strategy(name: str, field: dataclasses.Field) -> st.SearchStrategy:
    spec: o.Opt = field.metadata["opt"]
    if isinstance(field.default, bool):
        return st.booleans()
    if spec.choices:
        return st.sampled_from((None, *spec.choices))
    if "tuple" in str(field.type):
        ids = st.lists(st.integers(0, 63), min_size=1, unique=True)
        return st.none() | ids.map(tuple)
    if "float" in str(field.type):
        return st.none() | st.floats(0.05, 0.99)
    if "int" in str(field.type):
        return st.none() | st.integers(int(spec.low or 0), int(spec.high or 10**6))
    return st.none() | TEXT


RUN = st.builds(RunOptions, **{f.name: strategy(f.name, f) for f in dataclasses.fields(RunOptions)})


def parse(argv: list[str]) -> RunOptions:
    import typer

    seen: list[RunOptions] = []
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(takes(RunOptions)(lambda options, ctx: seen.append(options)))
    typer.main.get_command(app).main(args=argv, standalone_mode=False)
    return seen[0]


@settings(max_examples=60, deadline=None)
@given(RUN)
def test_arguments_round_trip(options: RunOptions) -> None:
    assert parse(o.to_argv(options)) == options


@pytest.mark.parametrize(
    ("text", "count"), [("4096", 4096), ("32k", 32768), ("1M", 2**20), ("0.5k", 512)]
)
def test_counts_are_binary(text: str, count: int) -> None:
    assert o.parse_count(text) == count


@pytest.mark.parametrize(
    ("text", "size"),
    [("24GB", 24 * 10**9), ("24GiB", 24 * 2**30), ("24g", 24 * 2**30), ("1.5T", 3 * 2**39)],
)
def test_bytes_follow_their_unit(text: str, size: int) -> None:
    assert o.parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "k", "12x", "-4", "4 000", "24GB"])
def test_a_wrong_count_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        o.parse_count(text)


def test_ids_accept_ranges_once_each() -> None:
    assert o.parse_ids("0,2-4,3") == (0, 2, 3, 4)


def test_undecided_fields_alone_are_filled() -> None:
    options = RunOptions(port=1234)
    filled = o.replace_undecided(options, {"port": 1, "host": "::1", "nonsense": 3})
    assert (filled.port, filled.host) == (1234, "::1")
