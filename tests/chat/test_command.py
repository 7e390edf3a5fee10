"""`kt chat` with a prompt: text on stdout, everything else elsewhere, and the right exit code."""

import json
import os
import signal
import subprocess
import sys

import pytest
from chat.raw_server import DONE, END, raw_server, text, thought

TORTURE = "[red]x[/red] [/b] [[ \x1b[1m ü 🙂\r\n\ttab"
CLEAN = ("KT_URL", "KT_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_KEY", "CI", "NO_COLOR")


def environment(home: object) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in CLEAN}
    return {**kept, "KT_HOME": str(home)}


def kt_chat(home, *argv: str, stdin: bytes = b"", **env: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "kt_cli", "chat", *argv],
        input=stdin,
        capture_output=True,
        env={**environment(home), **env},
        timeout=30,
    )


def test_the_answer_is_stdout_to_the_byte(tmp_path):
    answer = [thought("hm"), *(text(char) for char in TORTURE), END, DONE]
    with raw_server(answers=[answer]) as server:
        done = kt_chat(tmp_path, "hi", "--url", server.url)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == f"{TORTURE}\n".encode()


def test_argument_pipe_file_and_flags_make_one_request(tmp_path):
    file = tmp_path / "f.txt"
    file.write_text("facts")
    with raw_server() as server:
        argv = ["sum up", "-s", "brief", "-t", "0.5", "--top-p", "0.9", "--max-tokens", "1k"]
        done = kt_chat(tmp_path, *argv, "-f", str(file), "--url", server.url, stdin=b"piped\n")
    assert done.returncode == 0
    request = server.requests[0]
    assert request["messages"][0] == {"role": "system", "content": "brief"}
    assert request["messages"][1]["content"] == (
        "File `f.txt`:\n\n```\nfacts\n```\n\nsum up\n\npiped"
    )
    assert (request["temperature"], request["top_p"], request["max_tokens"]) == (0.5, 0.9, 1024)


def test_a_pipe_alone_is_a_prompt(tmp_path):
    with raw_server() as server:
        assert kt_chat(tmp_path, stdin=b"hi", KT_URL=server.url).stdout == b"hello\n"
    assert server.requests[0]["messages"] == [{"role": "user", "content": "hi"}]


def test_json(tmp_path):
    usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 9}}
    with raw_server(answers=[[thought("hm"), text("a [b]"), END, usage, DONE]]) as server:
        done = kt_chat(tmp_path, "hi", "--json", "--url", server.url)
    body = json.loads(done.stdout)
    assert body["schema"] == "kt.chat/1"
    assert (body["answer"], body["reasoning"], body["model"]) == ("a [b]", "hm", "raw")
    assert (body["completion_tokens"], body["tokens_from"]) == (9, "usage")
    assert body["ttft_s"] > 0


def test_continue_goes_on(tmp_path):
    with raw_server() as server:
        kt_chat(tmp_path, "one", "-s", "S", "--url", server.url)
        kt_chat(tmp_path, "two", "-c", "--url", server.url)
        fresh = kt_chat(tmp_path, "three", "--no-save", "--url", server.url)
        again = kt_chat(tmp_path, "four", "-c", "--url", server.url)
    assert [m["content"] for m in server.requests[1]["messages"]] == ["S", "one", "hello", "two"]
    assert len(server.requests[2]["messages"]) == 1
    assert len(server.requests[3]["messages"]) == 6
    assert fresh.returncode == again.returncode == 0


def error(message: str) -> bytes:
    return json.dumps({"error": {"message": message}}).encode()


@pytest.mark.parametrize(("status", "code"), [(401, 4), (404, 3), (503, 8), (400, 1)])
def test_exit_codes_of_refusals(tmp_path, status, code):
    with raw_server(status=status, body=error("because")) as server:
        done = kt_chat(tmp_path, "hi", "--url", server.url)
    assert (done.returncode, done.stdout) == (code, b"")
    assert b"because" in done.stderr


def test_no_server_is_exit_code_8(tmp_path):
    done = kt_chat(tmp_path, "hi", "--url", "http://127.0.0.1:9")
    assert (done.returncode, done.stdout) == (8, b"")
    assert b"kt run demo" in done.stderr
    as_json = kt_chat(tmp_path, "hi", "--url", "http://127.0.0.1:9", "--json")
    assert json.loads(as_json.stdout)["error"]["exit_code"] == 8


def test_an_answer_that_breaks_off_fails_after_its_text(tmp_path):
    with raw_server(answers=[[text("half")]]) as server:
        done = kt_chat(tmp_path, "hi", "--url", server.url)
    assert (done.returncode, done.stdout) == (8, b"half\n")
    assert b"lost in the middle" in done.stderr


def test_a_cut_answer_is_told(tmp_path):
    with raw_server(answers=[[text("x", finish_reason="length"), DONE]]) as server:
        done = kt_chat(tmp_path, "hi", "--url", server.url)
    assert (done.returncode, done.stdout) == (0, b"x\n")
    assert b"token limit" in done.stderr


@pytest.mark.parametrize("argv", [[], ["--json"], ["--no-input"]])
def test_no_prompt_and_no_terminal(tmp_path, argv):
    done = kt_chat(tmp_path, *argv)
    assert done.returncode == 2
    assert b"PROMPT is missing" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("argv", "code"),
    [(["-f", "/nowhere"], 3), (["-t", "9"], 2), (["-c"], 3), (["--url", "ftp://x"], 2)],
)
def test_wrong_arguments(tmp_path, argv, code):
    with raw_server() as server:
        done = kt_chat(tmp_path, "hi", *argv, KT_URL=server.url)
    assert done.returncode == code
    assert server.requests == []


def test_ctrl_c_keeps_what_came_and_ends_with_130(tmp_path):
    with raw_server(answers=[[text("begin"), *[0.05] * 400]]) as server:
        process = subprocess.Popen(
            [sys.executable, "-m", "kt_cli", "chat", "hi", "--url", server.url],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=environment(tmp_path),
        )
        assert process.stdout.read(5) == b"begin"
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130  # the answer goes on for twice as long
        process.stdout.close()


def test_a_reader_that_leaves_gets_no_traceback(tmp_path):
    with raw_server(answers=[[text("x" * 1000)] * 500]) as server:
        command = f"{sys.executable} -m kt_cli chat hi --url {server.url} | head -c 10"
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment(tmp_path),
            timeout=30,
        )
    assert (len(done.stdout), done.stderr) == (10, b"")
