"""`kt run` by plan file, profile and wizard, through the real program."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest
from wizard.test_session import environment, kt, result


def on_terminal(home: Path, *args: str) -> pexpect.spawn:
    return pexpect.spawn(
        sys.executable, ["-m", "kt_cli", *args], env=environment(home), cwd=str(home),
        encoding="utf-8", timeout=60, dimensions=(50, 200),
    )  # fmt: skip


def answered(child: pexpect.spawn) -> None:
    child.expect(r"How long may a conversation be \(tokens\)")
    child.sendline("2k")
    child.expect("How many requests")
    child.sendline("")
    child.expect("How many CPU threads")
    child.sendline("1")


def test_run_without_a_model_asks_on_a_terminal_and_says_how_to_do_it_again(
    tmp_path: Path,
) -> None:
    child = on_terminal(tmp_path, "run", "--dry-run")
    child.expect("Which model")
    child.send("\r")
    answered(child)
    child.expect("the same again: kt run demo --ctx-size 2048 --cpu-threads 1")
    child.expect("Save these options")
    child.sendline("")
    child.expect("-m kt_cli.embedded .*--context 2048 .*--threads 1")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_ask_leaves_what_was_given_alone(tmp_path: Path) -> None:
    child = on_terminal(tmp_path, "run", "demo", "--ask", "--dry-run", "--parallel", "3")
    child.expect("How long")
    child.sendline("")
    seen = child.expect(["How many requests", "How many CPU threads"])
    assert seen == 1
    child.sendline("")
    child.expect("the same again: kt run demo --max-running-requests 3\r")
    child.sendline("")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


@pytest.mark.parametrize("flag", ["--no-input", "--yes", "--json"])
def test_on_a_terminal_a_flag_forbids_questions(tmp_path: Path, flag: str) -> None:
    child = on_terminal(tmp_path, "run", flag)
    child.expect("MODEL is missing")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 2


def test_ask_without_a_terminal_is_an_error(tmp_path: Path) -> None:
    ran = kt(tmp_path, "run", "demo", "--ask")
    assert ran.returncode == 2
    assert "--ask needs a terminal" in ran.stderr


def test_a_profile_decides_what_is_not_given(tmp_path: Path) -> None:
    folder = tmp_path / "profiles"
    folder.mkdir()
    (folder / "mine.toml").write_text('model = "demo"\nctx_size = 1024\nport = 31007\n')
    shown = result(tmp_path, "run", "--profile", "mine", "--dry-run", "-p", "31008")
    argv = shown["argv"]
    assert argv[argv.index("--context") + 1] == "1024"
    assert argv[argv.index("--port") + 1] == "31008"
    sources = {d["name"]: d["source"] for d in shown["plan"]["decisions"]}
    assert sources["context"] == "profile"
    assert kt(tmp_path, "run", "--profile", "none").returncode == 3


def planned(home: Path, *flags: str) -> Path:
    file = home / "plan.json"
    ran = kt(home, "plan", "demo", "--ctx-size", "1k", "--out", str(file), *flags)
    assert ran.returncode == 0, ran.stderr
    return file


def test_a_plan_file_is_run_as_it_was_made(tmp_path: Path) -> None:
    file = planned(tmp_path, "--port", "31011", "--served-model-name", "mine")
    first = result(tmp_path, "run", "--plan", str(file), "--dry-run")
    argv = first["argv"]
    assert argv[argv.index("--context") + 1] == "1024"
    assert argv[argv.index("--port") + 1] == "31011"
    assert argv[argv.index("--name") + 1] == "mine"
    moved = result(tmp_path, "run", "--plan", str(file), "--dry-run", "--port", "31012")
    assert moved["argv"][moved["argv"].index("--port") + 1] == "31012"
    assert moved["launch"]["port"] == 31012


def test_a_plan_of_another_machine_is_refused_with_what_differs(tmp_path: Path) -> None:
    file = planned(tmp_path)
    plan = json.loads(file.read_text())
    plan["fingerprint"]["RAM"] = "5.00 TB"
    plan["fingerprint"]["model"] = "0"
    file.write_text(json.dumps(plan))
    ran = kt(tmp_path, "run", "--plan", str(file), "--dry-run")
    assert ran.returncode == 2
    assert "RAM was 5.00 TB" in ran.stderr and "the model changed" in ran.stderr
    assert "kt plan" in ran.stderr


def test_a_plan_does_not_bend_to_other_flags(tmp_path: Path) -> None:
    ran = kt(tmp_path, "run", "--plan", str(planned(tmp_path)), "--dry-run", "-c", "2k")
    assert ran.returncode == 2
    assert "options were --ctx-size 1024, are --ctx-size 2048" in ran.stderr


def test_a_missing_plan_is_not_found(tmp_path: Path) -> None:
    ran: subprocess.CompletedProcess[str] = kt(tmp_path, "run", "--plan", "none.json")
    assert ran.returncode == 3
