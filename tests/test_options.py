"""One definition of an option serves flags, wizard, settings and Python callers."""

import dataclasses
import importlib
import inspect
import json
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kt_cli.chat
import kt_cli.commands
from kt_cli import opts as o
from kt_cli.command import takes
from kt_cli.options import RunOptions
from kt_cli.workflow.records import load_plan
from tests.tiny_models import mixtral_headers

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
    return st.none() | (TEXT.map(spec.parse) if spec.parse in o.PATHS else TEXT)


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


def option_classes() -> Iterator[type]:
    for package in (kt_cli.commands, kt_cli.chat):
        for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            members = vars(importlib.import_module(info.name)).values()
            yield from (m for m in members if inspect.isclass(m) and dataclasses.is_dataclass(m))


def test_every_option_that_holds_a_path_makes_it_absolute() -> None:
    """Those of the chat are read by the process that parsed them."""
    named = {"PATH", "FILE", "FOLDER", "NAME=FOLDER", "MACHINE|FILE", "DIR"}
    loose = {
        f"{cls.__name__}.{name}"
        for cls in {*option_classes(), RunOptions}
        for name, spec in o.specs(cls).items()
        if spec.metavar in named and spec.parse not in o.PATHS
    }
    assert loose == {"ChatOptions.file"}
    assert o.specs(RunOptions)["model"].parse is o.parse_model


def test_paths_are_absolute_whatever_they_look_like(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "a b" / "work"
    work.mkdir(parents=True)
    (work / "m").mkdir()
    (work / "m" / "config.json").write_text("{}")
    (work / "m.gguf").write_text("")
    (work / "plain").mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(tmp_path))
    for text, meant in {
        ".": work, "./m": work / "m", "m": work / "m", "m/": work / "m", "..": work.parent,
        "../work/m": work / "m", "~/x": tmp_path / "x", "m.gguf": work / "m.gguf",
        "./not-there": work / "not-there", str(work / "m"): work / "m",
    }.items():  # fmt: skip
        assert o.parse_model(text) == str(meant), text
        assert o.parse_path(text) == str(meant), text
        assert o.parse_named_path(f"n={text}") == f"n={meant}"
    for name in ("demo", "plain", "Qwen/Qwen3-30B-A3B", "deepseek-v3:FP8"):
        assert o.parse_model(name) == name
    assert o.parse_output("-") == "-"
    assert o.parse_preset_or_path("4090+2x6454s") == "4090+2x6454s"
    assert o.parse_preset_or_path("box.toml") == str(work / "box.toml")


@pytest.mark.parametrize("text", [".", "./m", "m", "../work/m"])
def test_a_plan_of_a_relative_folder_holds_elsewhere(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kt_cli.app import run

    work = tmp_path / "work"
    folder = mixtral_headers(work / "m")
    monkeypatch.setenv("KT_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(folder if text == "." else work)
    assert run(["plan", text, "--engine", "embedded", "--out", "p.json"]) == 0
    made = Path.cwd() / "p.json"
    monkeypatch.chdir(tmp_path)
    assert load_plan(made).path == str(folder)
    assert json.loads(made.read_text())["model"] == "m"
