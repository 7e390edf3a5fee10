"""The sink: data on stdout, messages on stderr, one JSON object per result."""

import io
import json

import pytest

from kt_cli.errors import DoesNotFitError
from kt_cli.ui import Out, human_bytes, table


def sink(**mode: bool) -> tuple[Out, io.StringIO, io.StringIO]:
    out, err = io.StringIO(), io.StringIO()
    return Out(stdout=out, stderr=err, interactive=False, **mode), out, err


def test_humans_get_text_and_programs_get_json() -> None:
    human, out, _ = sink()
    human.result("thing", {"a": 1}, "a is one")
    assert out.getvalue() == "a is one\n"
    machine, out, _ = sink(json_mode=True)
    machine.result("thing", {"a": 1}, "a is one")
    assert json.loads(out.getvalue()) == {"schema": "kt.thing/1", "a": 1}


def test_messages_never_touch_stdout() -> None:
    human, out, err = sink()
    human.note("n")
    human.hint("h")
    human.warn("w")
    human.error(DoesNotFitError("what", "why", "fix"))
    assert out.getvalue() == ""
    assert err.getvalue().splitlines() == [
        "n",
        "hint: h",
        "warning: w",
        "error: what",
        "  why: why",
        "  fix: fix",
    ]


def test_json_mode_is_silent_but_for_its_objects() -> None:
    machine, out, err = sink(json_mode=True)
    machine.note("n")
    machine.warn("w")
    machine.print("p")
    machine.error(DoesNotFitError("what", "why", "fix"))
    assert err.getvalue() == ""
    assert json.loads(out.getvalue())["error"] == {
        "what": "what",
        "why": "why",
        "fix": "fix",
        "exit_code": 5,
    }


def test_events_are_one_line_each() -> None:
    machine, out, _ = sink(json_mode=True)
    machine.event("progress", {"fraction": 0.5})
    machine.event("ready", {"url": "x"})
    schemas = [json.loads(line)["schema"] for line in out.getvalue().splitlines()]
    assert schemas == ["kt.event.progress/1", "kt.event.ready/1"]


def test_quiet_keeps_results_and_errors() -> None:
    quiet, out, err = sink(quiet=True)
    quiet.note("n")
    quiet.result("thing", {"a": 1}, "one")
    quiet.warn("w")
    assert (out.getvalue(), err.getvalue()) == ("one\n", "warning: w\n")


def test_cells_are_printed_as_they_are() -> None:
    human, out, _ = sink()
    human.print(table(["name", "n>"], [["[red]x[/]", "1"]]))
    assert "[red]x[/]" in out.getvalue()


WORDS = ["kt-kernel", "0.02674", "a long name without any blank in it, or nearly so"]


@pytest.mark.parametrize("columns", [80, 60, 24])
def test_nothing_of_a_table_is_cut(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    human, out, _ = sink()
    human.print(table(["engine", "ms>", "note"], [WORDS]))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= columns and "…" not in out.getvalue()
    shown = "".join(line.replace(" ", "") for line in lines)
    assert all(shown.count(letter) >= sum(w.count(letter) for w in WORDS) for letter in "kw267g")


def test_a_row_in_a_pipe_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    human, out, _ = sink()
    human.print(table(["engine", "ms>", "note"], [[*WORDS[:2], WORDS[2] * 5]]))
    assert WORDS[2] * 5 in out.getvalue()


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1.5e9, "1.5 GB"), (2e12, "2.00 TB")]
)
def test_sizes_read_as_they_are_sold(count: float, text: str) -> None:
    assert human_bytes(int(count)) == text
