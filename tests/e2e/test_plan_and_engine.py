"""What a server says it uses, held against its plan, on a smaller CPU and where it goes wrong."""

from __future__ import annotations

import json
from dataclasses import replace

from e2e.conftest import Terminal

from kt_cli import runtime
from kt_cli.core.launch import LaunchSpec
from kt_cli.core.serial import from_plain

FLAGS = ("demo", "-c", "2048", "--max-running-requests", "1")


def report(terminal: Terminal, name: str) -> dict[str, object]:
    servers = json.loads(terminal.says("ps", "--json"))["servers"]
    (found,) = (s["load"]["report"] for s in servers if s["name"] == name)
    return dict(found)


def test_an_avx2_cpu_runs_the_demo_on_the_kernels_as_planned(terminal: Terminal, port: int) -> None:
    terminal.env["KT_ISA"] = "avx2"
    try:
        terminal.says("run", *FLAGS, "-d", "--port", str(port), "--name", "small")
        found = report(terminal, "small")
        uses = {"dtype": "fp32", "experts": "kt_moe", "format": "BF16", "isa": "avx2"}
        assert uses.items() <= found["uses"].items()  # type: ignore[attr-defined]
        assert found["differences"] == []
        assert "isa avx2" in terminal.says("ps")
        assert "in use: " in terminal.says("plan", *FLAGS, "--check")
    finally:
        del terminal.env["KT_ISA"]
    other = terminal.says("plan", *FLAGS, "--check", "--kt-method", "INT4")
    assert "another plan: format: planned INT4, in use BF16" in " ".join(other.split())
    terminal.says("stop", "small")


def test_an_engine_that_does_otherwise_is_an_error_everywhere(
    terminal: Terminal, port: int
) -> None:
    """The engine finds no kernels, although the plan was made with them."""
    shown = json.loads(terminal.says("run", *FLAGS, "--port", str(port), "--dry-run", "--json"))
    spec = from_plain(LaunchSpec, shown["launch"])
    spec = replace(spec, env={**spec.env, "KT_ISA": "sparc"})
    for event in runtime.start(spec, terminal.home, "other"):
        if type(event).__name__ == "Ready":
            break
    sentence = "differs from its plan: experts: planned kt_moe, in use torch"
    assert report(terminal, "other")["differences"]
    assert sentence in terminal.says("ps")
    assert f"kt-engine error {sentence}" in terminal.says("logs", "other")
    assert sentence in terminal.says("plan", *FLAGS, "--check", code=1)
    terminal.says("stop", "other")
