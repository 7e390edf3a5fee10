"""`kt microbench`: its arithmetic, its files, and one small run of each engine that is here."""

import csv
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kt_moe._native import core

from kt_cli.bench import micro, micro_launch, micro_machine, roofline
from kt_cli.bench.micro import Case, Limits, Report, Row, Shape
from kt_cli.bench.micro_report import COLUMNS, as_csv, as_data, cells
from kt_cli.errors import EnvironmentBroken

SMALL = Shape("8,2,128,64", 8, 2, 128, 64)
LIMITS = Limits({1: 10.0, 2: 20.0}, {"fma": 100.0, "int8": 400.0})


def row(engine="kt_moe", format="bf16", tokens=1, ms=1.0, nbytes=1e6, flops=10**7):
    return Row(engine, format, SMALL, tokens, 2, False, ms, ms / 2, 9, nbytes, flops)


REPORT = Report(
    {"cpu": "test"},
    LIMITS,
    (row(), row(tokens=512, ms=40, nbytes=8e6, flops=3 * 10**9), row("kt-kernel", "int8", ms=3)),
)


def test_a_call_is_bound_by_bytes_or_by_operations():
    by_bytes = row(nbytes=20e6, flops=1, ms=2.0)
    assert by_bytes.least_ms(LIMITS) == pytest.approx(1.0)
    assert by_bytes.share(LIMITS) == pytest.approx(0.5)
    by_operations = row(format="int8", nbytes=1, flops=4 * 10**9, ms=20.0)
    assert by_operations.share(LIMITS) == pytest.approx(0.5)
    assert (by_bytes.gbs, by_operations.tflops) == (pytest.approx(10), pytest.approx(0.2))


@given(st.integers(1, 64), st.integers(1, 16), st.integers(1, 40))
def test_routings_choose_distinct_experts_within_range(experts, top_k, tokens):
    shape = Shape("s", experts, min(top_k, experts), 64, 64)
    for ids in micro.routings(shape, tokens):
        assert len(ids) == tokens * shape.top_k
        for t in range(tokens):
            chosen = ids[t * shape.top_k : (t + 1) * shape.top_k]
            assert len(set(chosen)) == len(chosen) and set(chosen) <= set(range(experts))


def test_single_tokens_visit_every_expert_before_one_returns():
    shape = micro.SHAPES["qwen3-30b-a3b"]
    calls = micro.routings(shape, 1)[:16]
    assert sorted(e for ids in calls for e in ids) == list(range(128))


@pytest.mark.parametrize("format", micro.FORMATS)
def test_layers_exceed_four_times_the_cache(format):
    shape, cache = micro.SHAPES["qwen3-30b-a3b"], 300 << 20
    layers = micro.layers_beyond_cache(shape, format, cache)
    layer = shape.experts * shape.weights * micro.BITS[format] / 8
    assert layers * layer > 4 * cache >= (layers - 1) * layer


def test_a_shape_too_large_for_the_memory_loses_experts():
    fitted = micro.fitted(micro.SHAPES["deepseek-v3"], 16 << 30)
    assert 8 <= fitted.experts < 256
    assert fitted.experts * fitted.weights * 2 < 16 << 30


@pytest.mark.parametrize("text", ["qwen4", "1,2,3", "4,8,64,64", "0,0,1,1", "8,2,x,64"])
def test_what_is_no_shape_is_refused(text):
    with pytest.raises(ValueError, match=r"is neither|must be at least"):
        micro.parse_shape(text)


def test_csv_and_json_hold_a_record_per_row():
    rows = list(csv.DictReader(as_csv(REPORT).splitlines()))
    assert tuple(rows[0]) == COLUMNS
    assert [r["engine"] for r in rows] == ["kt_moe", "kt_moe", "kt-kernel"]
    data = json.loads(json.dumps(as_data(REPORT)))
    assert data["limits"]["read_gbs"] == {"1": 10.0, "2": 20.0}
    assert data["rows"][0]["percent_of_limit"] == 10.0
    assert len(cells(REPORT)) == 3


def test_the_plot_is_svg_with_every_point_inside():
    tree = ET.fromstring(roofline.svg(REPORT))
    marks = [e for e in tree.iter() if e.tag.endswith(("circle", "rect")) and len(e)]
    assert len(marks) == 3
    for mark in marks:
        x, y = (float(mark.get("c" + a) or mark.get(a)) for a in "xy")
        assert roofline.LEFT - 6 <= x <= roofline.WIDTH - roofline.RIGHT
        assert roofline.TOP - 6 <= y <= roofline.HEIGHT - roofline.BOTTOM
    words = [e.text for e in tree.iter() if e.tag.endswith("text")]
    assert {"20.0 GB/s", "512", "8 experts of 128 × 64, 2 per token, test"} <= set(words)


def test_words_beside_roofs_that_are_close_stand_apart():
    limits = Limits({1: 10.0}, {"int8": 400.0, "int4": 401.0, "bf16": 399.0})
    words = [w for w in roofline.drawing(Report({}, limits, REPORT.rows)) if "Top/s" in str(w)]
    heights = sorted(w.at[1] for w in words)
    assert len(words) == 3 and min(np.diff(heights)) >= roofline.APART


def test_a_call_faster_than_its_limit_tells_of_a_busy_machine():
    assert not REPORT.beyond_limit
    assert Report({}, LIMITS, (row(nbytes=30e6, ms=1.0),)).beyond_limit


def test_cache_and_memory_are_read_from_the_system(tmp_path):
    for index, size in ((0, "48K"), (3, "32768K")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(f"{size}\n")
    assert micro_machine.last_level_cache(tmp_path) == 32 << 20
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable:   1000 kB\n")
    assert micro_machine.available_memory(meminfo) == 1024000


def wanted(*cases, **details):
    return micro_launch.Wanted(cases, 1, 0.01, 1 << 20, **details)


@pytest.mark.usefixtures("kernels")
def test_every_format_of_the_kernels_can_be_asked_for_and_has_a_colour():
    assert set(core().formats()) == set(micro.FORMATS) == set(roofline.COLOURS)


@pytest.mark.usefixtures("kernels")
def test_every_format_is_measured():
    cases = [Case(f, SMALL, t, 1) for f in micro.FORMATS for t in (1, 5)]
    notes = []
    report = micro_launch.measure(wanted(*cases), {"cpu": "x"}, notes.append)
    assert [(r.format, r.tokens) for r in report.rows] == [(c.format, c.tokens) for c in cases]
    assert all(r.ms > 0 and r.repeats >= 5 and r.share(report.limits) > 0 for r in report.rows)
    assert report.limits.read_gbs[1] > 0 and report.limits.gops["fma"] > 0
    assert report.machine["threads"] == 1 and len(notes) == 2 * len(micro.FORMATS) + 1


@pytest.mark.usefixtures("kernels")
def test_torch_is_measured_on_the_same_cases_and_says_what_it_lacks():
    cases = [Case(f, SMALL, 3, 1) for f in ("bf16", "int4")]
    report = micro_launch.measure(wanted(*cases, peers=["torch"]), {}, lambda text: None)
    assert [(r.engine, r.format) for r in report.rows] == [
        ("kt_moe", "bf16"),
        ("kt_moe", "int4"),
        ("torch", "bf16"),
    ]
    assert [(s.engine, s.format) for s in report.skipped] == [("torch", "int4")]


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(
    ("python", "why"),
    [(sys.executable, "has no kt_kernel"), ("/no/python", "cannot be run: No such file")],
)
def test_a_peer_that_is_not_installed_is_an_error_before_anything_is_measured(python, why):
    notes = []
    case = wanted(Case("bf16", SMALL, 1, 1), peers=["kt-kernel"], python=python)
    with pytest.raises(EnvironmentBroken, match="kt-kernel cannot be measured") as caught:
        micro_launch.measure(case, {}, notes.append)
    assert why in caught.value.why and "--peer-python" in caught.value.fix and not notes


def test_an_illegal_instruction_is_an_error_and_no_crash():
    code = "import os, signal; os.kill(os.getpid(), signal.SIGILL)"
    with pytest.raises(EnvironmentBroken, match="ended by SIGILL") as caught:
        list(micro_launch._lines("kt_moe", [sys.executable, "-c", code], {}))
    assert "instruction" in caught.value.why


def run(*arguments, **environment):
    done = subprocess.run(
        [sys.executable, "-m", "kt_cli", "microbench", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.usefixtures("kernels")
def test_an_instruction_set_that_this_cpu_lacks_is_refused():
    code, _, error = run("--shape", "8,2,128,64", KT_ISA="sparc")
    assert code == 6
    assert "the kernels cannot run here" in error and "sparc" in error
    assert "unset KT_ISA" in error


def test_a_plot_of_another_kind_is_refused_before_anything_is_measured():
    code, _, error = run("--plot", "x.pdf")
    assert (code, "ends neither with .svg nor .png" in error) == (2, True)


@pytest.mark.parametrize("flag", ["--csv", "--plot"])
def test_a_file_that_cannot_be_written_is_told_before_anything_is_measured(flag, tmp_path):
    code, _, error = run(flag, str(tmp_path / "absent" / "x.svg"))
    assert (code, "there is no folder" in error, "measuring" in error) == (3, True, False)


@pytest.mark.parametrize(
    ("flag", "value", "says"),
    [("--tokens", "many", "'many' is not a list of numbers"), ("--threads", "999", "1<=x<=256")],
)
def test_a_wrong_value_is_named_with_the_command_that_explains_it(flag, value, says):
    code, _, error = run(flag, value)
    assert code == 2
    assert says in error and "`kt microbench --help`" in error


@pytest.mark.usefixtures("kernels")
def test_the_command_writes_json_csv_and_plot(tmp_path):
    code, out, error = run(
        *("--json", "--shape", "8,2,128,64", "--format", "int8", "--tokens", "1,3"),
        *("--threads", "1", "--seconds", "0.01"),
        *("--csv", str(tmp_path / "x.csv"), "--plot", str(tmp_path / "x.svg")),
    )
    assert code == 0, error
    data = json.loads(out)
    assert data["schema"] == "kt.microbench/1"
    assert [r["tokens"] for r in data["rows"]] == [1, 3]
    assert len((tmp_path / "x.csv").read_text().splitlines()) == 3
    ET.parse(tmp_path / "x.svg")


@pytest.mark.usefixtures("kernels")
def test_csv_can_go_to_standard_output():
    few = ("--shape", "8,2,128,64", "--format", "int8", "--tokens", "1", "--seconds", "0.01")
    code, out, error = run(*few, "--csv", "-")
    assert code == 0, error
    assert [r["format"] for r in csv.DictReader(out.splitlines())] == ["int8"]
