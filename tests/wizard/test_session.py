"""The wizard, profiles and errors through the real program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pexpect
import pytest

ROOT = Path(__file__).parents[2]
LAPTOP = ("--on", "laptop-16gb")
SERVER = ("--on", "4090+2x6454s")


def environment(home: Path) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels" / "python")])
    plain = {k: v for k, v in os.environ.items() if not k.startswith("KT_") and k != "CI"}
    return {**plain, "KT_HOME": str(home), "PYTHONPATH": path, "TERM": "xterm", "NO_COLOR": "1"}


def kt(home: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kt_cli", *args]
    env = environment(home)
    return subprocess.run(command, env=env, cwd=home, capture_output=True, text=True, check=False)


def result(home: Path, *args: str) -> dict[str, Any]:
    ran = kt(home, *args, "--json")
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def test_a_session_walks_the_wizard_and_saves_a_profile(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kt_cli", "plan", *SERVER]
    child = pexpect.spawn(
        command[0], command[1:], env=environment(tmp_path), cwd=str(tmp_path),
        encoding="utf-8", timeout=60, dimensions=(50, 100),
    )  # fmt: skip
    child.expect("Which model")
    child.send("qwen3-30b")
    child.expect("qwen3-30b...")
    child.send("\r")
    child.expect(r"How long may a conversation be \(tokens\)\?.*\[40k\]")
    child.sendline("much")
    child.expect("is not a size")
    child.sendline("\x1516k")  # Ctrl-U empties the line
    child.expect("How many requests")
    child.sendline("2")
    child.expect("Which format")
    child.sendline("")
    child.expect("How many experts")
    child.sendline("")
    child.expect("How many CPU threads")
    child.sendline("")
    child.expect("the same again: kt run Qwen3-30B-A3B --ctx-size 16384 --max-running-requests 2")
    child.expect("Save these options")
    child.sendline("mine")
    child.expect("use it with `--profile mine`")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    shown = result(tmp_path, "profile", "show", "mine")
    assert shown["values"] == {
        "model": "Qwen3-30B-A3B",
        "ctx_size": 16384,
        "max_running_requests": 2,
    }
    planned = result(tmp_path, "plan", *SERVER, "--profile", "mine")
    (context,) = [d for d in planned["decisions"] if d["name"] == "context"]
    assert (context["value"], context["source"]) == (16384, "profile")
    assert kt(tmp_path, "profile", "rm", "mine", "--yes").returncode == 0
    assert result(tmp_path, "profile", "list")["profiles"] == []


def test_without_a_terminal_nobody_is_asked(tmp_path: Path) -> None:
    ran = kt(tmp_path, "plan", *LAPTOP)
    assert ran.returncode == 2
    assert "MODEL is missing" in ran.stderr


def test_what_does_not_fit_ends_with_5_and_a_list_of_fixes(tmp_path: Path) -> None:
    ran = kt(tmp_path, "plan", "mixtral", *LAPTOP, "--json")
    assert ran.returncode == 5
    plan = json.loads(ran.stdout)
    assert plan["schema"] == "kt.plan/1"
    assert plan["fits"] is False
    assert all(fix["action"] and fix["effect"] for fix in plan["fixes"])


def test_force_plans_all_the_same(tmp_path: Path) -> None:
    assert kt(tmp_path, "plan", "mixtral", *LAPTOP, "--force").returncode == 0


def test_more_ram_helps(tmp_path: Path) -> None:
    ran = kt(tmp_path, "plan", "mixtral", *LAPTOP, "--ram", "192GB")
    assert ran.returncode == 0, ran.stdout


def test_gpus_that_are_not_there_can_be_planned_for(tmp_path: Path) -> None:
    plan = result(tmp_path, "plan", "qwen3-30b", *LAPTOP, "--gpu", "2x4090", "--ram", "128G")
    assert plan["engine"] == "sglang"
    assert [p["name"] for p in plan["pools"]][:2] == ["GPU0", "GPU1"]


def test_a_home_box_is_described_by_everyday_names(tmp_path: Path) -> None:
    box = ("--cpu", "9950x", "--ram", "96", "--gpu", "5060ti-16g", "--disk", "nvme4,2TB")
    ran = kt(tmp_path, "plan", "QWEN3_30b a3b", *LAPTOP, *box)
    assert ran.returncode == 0, ran.stdout
    title = ran.stdout.splitlines()[0]
    assert "RAM 96 GB (a bare 96 is read as GB)" in title
    assert "CPU AMD Ryzen 9950X" in title
    plan = result(tmp_path, "plan", "qwen3-30b", *LAPTOP, *box)
    pools = {p["name"]: p["capacity"] for p in plan["pools"]}
    assert pools == {"GPU0": 16 * 2**30, "node0": 96 * 10**9, "disk": 2 * 10**12}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("plan", "qwen3-30b", "--on", "cray-1"), 3, "no machine is called"),
        (("plan", "qwen3-30b", "--on", "./none.toml"), 3, "does not exist"),
        (("plan", "qwen3-30b", *LAPTOP, "--gpu", "voodoo2"), 3, "no GPU is known"),
        (("plan", "qwen3-30b", *LAPTOP, "--cpu", "i486"), 3, "no processor is known"),
        (("plan", "qwen3-30b", *LAPTOP, "--disk", "floppy"), 2, "no kind of disk"),
        (("plan", "deepseek", *LAPTOP), 3, "known are DeepSeek-V4.1-Flash"),
        (("plan", "qwen3-30b:q9", *LAPTOP), 3, "no variant 'q9'"),
        (("plan", "openpangu-2.0-flash", *LAPTOP), 3, "the geometry of openPangu-2.0-Flash"),
        (("plan", "qwen3-30b", *LAPTOP, "--vram", "24G"), 2, "--vram without a GPU"),
        (("plan", "qwen3-30b", *LAPTOP, "--gpu", "2"), 2, "of which kind"),
        (("plan", "qwen3-30b", *LAPTOP, "--ram", "lots"), 2, "not a size"),
        (("plan", "nonsense", *LAPTOP), 3, "no model is called"),
        (("plan", "--profile", "none", *LAPTOP), 3, "no profile is called"),
        (("profile", "rm", "none"), 3, "no profile is called"),
        (("plan", "olmoe", *LAPTOP, "--check"), 8, "never measured"),
        (("fit", *LAPTOP, "--sort", "beauty"), 2, "not one of"),
    ],
)
def test_errors_say_what_and_how(
    tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    ran = kt(tmp_path, *arguments)
    assert ran.returncode == code, ran.stderr
    assert words in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_written_plan_reads_back(tmp_path: Path) -> None:
    from kt_cli.workflow.records import load_plan

    file = tmp_path / "plan.json"
    assert kt(tmp_path, "plan", "olmoe", *SERVER, "--out", str(file)).returncode == 0
    plan = load_plan(file)
    assert (plan.model, plan.version) == ("OLMoE-1B-7B", 1)
    assert plan.fingerprint["RAM"] == "1.08 TB"


def test_a_broken_plan_file_is_named(tmp_path: Path) -> None:
    from kt_cli.errors import NotFoundError, UsageError
    from kt_cli.workflow.records import load_plan

    with pytest.raises(NotFoundError):
        load_plan(tmp_path / "none.json")
    for text, said in (("[]", "cannot read"), ("{}", "is not a plan")):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(UsageError, match=said) as caught:
            load_plan(tmp_path / "bad.json")
        assert "bad.json" in caught.value.what and "kt plan" in caught.value.fix


def test_fit_ranks_what_runs_first_and_filters(tmp_path: Path) -> None:
    rows = result(tmp_path, "fit", *SERVER)["models"]
    runs = [row["runs"] for row in rows]
    assert runs == sorted(runs, reverse=True)
    assert len(rows) > 35
    few = result(tmp_path, "fit", "qwen", *SERVER, "--fits", "--sort", "download")["models"]
    assert all("qwen" in row["model"].lower() and row["runs"] for row in few)
    sizes = [row["download"] for row in few]
    assert sizes == sorted(sizes)


def test_fit_for_fine_tuning_tells_what_each_side_needs(tmp_path: Path) -> None:
    found = result(tmp_path, "fit", "qwen3-30b", *SERVER, "--for", "sft")
    row = found["models"][0]
    assert found["for"] == "sft"
    assert "computed" in found["basis"]
    assert (row["runs"], row["engine"], row["method"]) == (True, "llamafactory", "BF16")
    assert 58e9 < row["ram"] < 90e9
    ran = kt(tmp_path, "fit", "qwen3-30b", *LAPTOP, "--for", "sft")
    assert "needs an NVIDIA GPU" in ran.stdout


def test_fit_names_a_flag_that_is_enough(tmp_path: Path) -> None:
    asked = ("fit", "qwen3.5-35b", *LAPTOP, "--ram", "64G")
    row = result(tmp_path, *asked)["models"][0]
    assert (row["runs"], row["flag"]) == (False, "--kt-method INT8")
    assert "; --kt-method INT8" in kt(tmp_path, *asked).stdout
    assert kt(tmp_path, "plan", *asked[1:], *row["flag"].split()).returncode == 0


def test_fit_as_csv_has_a_line_for_each_model(tmp_path: Path) -> None:
    lines = kt(tmp_path, "fit", *LAPTOP, "--csv").stdout.splitlines()
    assert lines[0].startswith("model,runs,engine")
    assert len(lines) > 35


def test_the_picture_fits_80_columns_and_has_an_ascii_form(tmp_path: Path) -> None:
    ran = kt(tmp_path, "plan", "r1", *SERVER)
    bars = [line for line in ran.stdout.splitlines() if "▕" in line]
    assert bars and all(len(line) <= 80 for line in bars)
    env = {**environment(tmp_path), "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "kt_cli", "plan", "r1", *SERVER, "--explain"]
    plain = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert plain.returncode == 0, plain.stderr
    assert plain.stdout.isascii()
    assert "|=" in plain.stdout


def test_gpus_with_the_same_lines_are_explained_once(tmp_path: Path) -> None:
    ran = kt(tmp_path, "plan", "k2-thinking", "--on", "8xl20+6454s", "--explain")
    heads = [line for line in ran.stdout.splitlines() if line.startswith("GPU")]
    assert heads == ["GPU0 NVIDIA L20", "GPU1 to GPU7 NVIDIA L20"]


def test_a_dry_run_of_what_does_not_fit_ends_as_its_plan_does(tmp_path: Path) -> None:
    asked = ("run", "k2", "--engine", "embedded", "--dry-run")
    assert kt(tmp_path, *asked).returncode == 5
    assert kt(tmp_path, *asked, "--force").returncode == 0
