"""What becomes of the output: a reader that leaves, a full disk, closed and narrow streams."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

LINES = {
    "table": ["config", "list"],
    "ranking": ["fit", "--gpu", "4090", "--ram", "64G"],
    "json": ["fit", "--json", "--gpu", "4090"],
    "plan": ["plan", "demo", "--explain"],
    "help": ["--help"],
    "help of a command": ["run", "--help"],
    "error": ["nosuch"],
    "rich": ["model", "list"],
}


def kt(tmp_path: Path, argv: list[str], **streams: object) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "KT_HOME": str(tmp_path), "HOME": str(tmp_path)}
    env |= streams.pop("env", {})
    command = [sys.executable, "-m", "kt_cli", *argv]
    given = {"stdin": subprocess.DEVNULL, "stderr": subprocess.PIPE, **streams}
    return subprocess.run(command, text=True, env=env, timeout=60, **given)


def broken_pipe() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.mark.parametrize("argv", LINES.values(), ids=LINES)
def test_a_reader_that_leaves_ends_the_command_in_silence(tmp_path: Path, argv: list[str]) -> None:
    pipe = broken_pipe()
    both = argv == LINES["error"]
    done = kt(tmp_path, argv, stdout=pipe, **({"stderr": pipe} if both else {}))
    os.close(pipe)
    assert (done.returncode, done.stderr or "") == (141, "")


@pytest.mark.parametrize("argv", [LINES["table"], LINES["json"], LINES["help"]], ids=str)
def test_a_full_disk_is_said_once(tmp_path: Path, argv: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = kt(tmp_path, argv, stdout=full)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    if "--json" not in argv:
        assert done.stderr.splitlines()[0] == "error: the output cannot be written"


def test_streams_that_were_closed_before_the_start_are_no_error(tmp_path: Path) -> None:
    code = 'exec 1>&- 2>&-; exec "$0" -m kt_cli config list'
    done = subprocess.run(
        ["/bin/sh", "-c", code, sys.executable], env={**os.environ, "KT_HOME": str(tmp_path)}
    )
    assert done.returncode == 0


@pytest.mark.parametrize(
    "env",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"COLUMNS": "abc"},
        {"COLUMNS": "0", "LINES": "-1"},
        {"COLUMNS": "\u00b2"},
        {"TERM": "", "NO_COLOR": ""},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=str,
)
@pytest.mark.parametrize("argv", [LINES["plan"], LINES["rich"], LINES["help"]], ids=lambda a: a[0])
def test_odd_terminals_get_the_whole_text(tmp_path: Path, env: dict, argv: list[str]) -> None:
    done = kt(tmp_path, argv, stdout=subprocess.PIPE, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()
