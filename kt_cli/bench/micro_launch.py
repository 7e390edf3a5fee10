"""Runs the measuring processes of `kt microbench` and gathers their rows.

A process that dies of an illegal instruction or is killed becomes an error that says so.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kt_cli import children, unfinished
from kt_cli.bench import micro
from kt_cli.bench.micro import Case, Limits, Report, Row, Skipped
from kt_cli.core.kernels import remedy
from kt_cli.errors import EnvironmentBroken, KtError

if TYPE_CHECKING:
    from subprocess import Popen

HERE = Path(__file__).parent
PEER_SCRIPTS = {"kt-kernel": "micro_kt_kernel.py", "torch": "micro_torch.py"}
PEER_MODULES = {"kt-kernel": "kt_kernel", "torch": "torch"}

Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """`threads` 0 means all that this process may use; `python` runs the peers."""

    cases: Sequence[Case]
    threads: int
    seconds: float
    cache: int
    peers: Sequence[str] = ()
    python: str = sys.executable


def measure(wanted: Wanted, machine: Mapping[str, object], note: Note) -> Report:
    """Raises EnvironmentBroken when the kernels cannot run here, or a peer is not installed."""
    for peer in wanted.peers:
        _require(peer, wanted.python)
    ours = _ours(wanted, note)
    rows, skipped = list(ours.rows), list(ours.skipped)
    for peer in wanted.peers:
        theirs = _best_of(peer, wanted, ours.threads, note)
        rows += theirs.rows
        skipped += theirs.skipped
    return Report({**machine, **ours.cpu}, ours.limits, tuple(rows), tuple(skipped))


def _require(peer: str, python: str) -> None:
    """Before anything is measured."""
    module = PEER_MODULES[peer]
    look = f"import importlib.util as u, sys; sys.exit(u.find_spec({module!r}) is None)"
    try:
        command, env = [python, "-c", look], _environment(python)
        found = children.run(command, env=env)
        why = f"{python} has no {module}" if found.returncode else ""
    except OSError as error:
        why = f"{python} cannot be run: {error.strerror}"
    if why:
        raise EnvironmentBroken(f"{peer} cannot be measured", why, _hint(peer))


@dataclass(frozen=True, slots=True)
class _Ours:
    rows: tuple[Row, ...]
    skipped: tuple[Skipped, ...]
    limits: Limits
    cpu: Mapping[str, object]
    threads: int


def _ours(wanted: Wanted, note: Note) -> _Ours:
    note("measuring this machine's limits")
    rows: list[Row] = []
    limits, cpu, threads = Limits({}, {}), {}, wanted.threads
    command = [sys.executable, "-m", "kt_cli.bench.micro_worker"]
    for item in _lines("kt_moe", command, _request(wanted, wanted.threads)):
        if "unavailable" in item:
            why = item["unavailable"]
            raise EnvironmentBroken("the kernels cannot run here", why, remedy(why))
        if "cpu" in item:
            cpu, threads = item["cpu"], item["threads"]
        elif "read_gbs" in item:
            read = {int(n): float(v) for n, v in item["read_gbs"].items()}
            limits = Limits(read, item["gops"])
        else:
            rows.append(_row("kt_moe", wanted, item["row"], note))
    return _Ours(tuple(rows), (), limits, {**cpu, "threads": threads}, threads)


@dataclass(frozen=True, slots=True)
class _Theirs:
    rows: tuple[Row, ...]
    skipped: tuple[Skipped, ...]


def _best_of(peer: str, wanted: Wanted, threads: int, note: Note) -> _Theirs:
    """A peer's best row per case over all threads, and one and half of them less."""
    best: dict[int, Row] = {}
    skipped: dict[tuple[str, str], Skipped] = {}
    for count in sorted({threads, max(1, threads - 1), max(1, threads // 2)}, reverse=True):
        command = [wanted.python, str(HERE / PEER_SCRIPTS[peer])]
        for item in _lines(peer, command, _request(wanted, count)):
            if "skipped" in item:
                entry = Skipped(peer, item["format"], item["skipped"])
                skipped[entry.format, entry.why] = entry
                continue
            row = _row(peer, wanted, item["row"], note)
            index = item["row"]["index"]
            if index not in best or row.ms < best[index].ms:
                best[index] = row
    return _Theirs(tuple(best[i] for i in sorted(best)), tuple(skipped.values()))


def _request(wanted: Wanted, threads: int) -> dict[str, Any]:
    indexed = list(enumerate(wanted.cases))
    groups = groupby(indexed, lambda pair: (pair[1].format, pair[1].shape, pair[1].layers))
    return {
        "threads": threads,
        "seconds": wanted.seconds,
        "cache": wanted.cache,
        "groups": [_group(*key, [*members]) for key, members in groups],
    }


def _group(
    format: str, shape: micro.Shape, layers: int, members: list[tuple[int, Case]]
) -> dict[str, Any]:
    return {
        "format": format,
        "layers": layers,
        "experts": shape.experts,
        "top_k": shape.top_k,
        "hidden": shape.hidden,
        "intermediate": shape.intermediate,
        "cases": [_case(index, case) for index, case in members],
    }


def _case(index: int, case: Case) -> dict[str, Any]:
    routings = micro.routings(case.shape, case.tokens)
    return {
        "index": index,
        "tokens": case.tokens,
        "backward": case.backward,
        "routings": routings,
        "touched": micro.touched(routings),
    }


def _row(engine: str, wanted: Wanted, item: Mapping[str, Any], note: Note) -> Row:
    case = wanted.cases[item["index"]]
    row = Row(
        engine=engine,
        format=case.format,
        shape=case.shape,
        tokens=case.tokens,
        threads=int(item["threads"]),
        backward=case.backward,
        ms=item["ms"],
        best_ms=item["best_ms"],
        repeats=int(item["repeats"]),
        nbytes=item["nbytes"],
        flops=case.flops,
    )
    kind = " backward" if row.backward else ""
    note(f"{engine} {row.format}{kind} T={row.tokens}: {row.ms:.3f} ms")
    return row


def _lines(engine: str, command: Sequence[str], request: Mapping[str, Any]) -> Iterator[Any]:
    """What the process reports, as it comes."""
    with unfinished.scratch(Path(tempfile.gettempdir())) as folder:
        question, out, log = (folder / name for name in ("request", "rows", "log"))
        question.write_text(json.dumps(request), encoding="utf-8")
        argv = [*command, str(question), str(out)]
        with (
            log.open("wb") as stream,
            children.started(argv, stream, _environment(command[0])) as process,
        ):
            yield from _follow(process, out)
        if process.returncode:
            raise _died(engine, process.returncode, log.read_text(errors="replace"))


def _follow(process: Popen[bytes], out: Path) -> Iterator[Any]:
    """The whole lines of a growing file, until its writer ends."""
    done = 0
    ended = False
    while not ended:
        ended = children.ended(process, within_s=0.2)
        text = out.read_text(encoding="utf-8") if out.exists() else ""
        lines = text[: text.rfind("\n") + 1].splitlines()
        yield from map(json.loads, lines[done:])
        done = len(lines)


def _environment(python: str) -> dict[str, str]:
    """Ours finds the same packages as this process; a peer's Python keeps to its own."""
    env = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    if python == sys.executable:
        return {**env, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    env.pop("PYTHONPATH", None)
    return env


def _died(engine: str, code: int, log: str) -> KtError:
    last = next((line for line in reversed(log.splitlines()) if line.strip()), "")
    if code < 0:
        name = signal.Signals(-code).name
        why = "the CPU lacks an instruction" if -code == signal.SIGILL else last
        return EnvironmentBroken(f"{engine} was ended by {name} while it was measured", why)
    return EnvironmentBroken(f"{engine} cannot be measured", last, _hint(engine))


def _hint(engine: str) -> str:
    if engine == "kt_moe":
        return "run `kt doctor`"
    return f"give a Python that has {engine} with --peer-python, or leave --peer out"
