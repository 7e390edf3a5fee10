"""A control group (version 2) of a server's own, where this user may make one.

With it the kernel kills the whole tree in one step (cgroup.kill, Linux 5.14) and counts what its
OOM killer did there. Without it `procs` does the work alone.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path


def own_groups(proc: Path = Path("/proc/self")) -> tuple[Path, ...]:
    """Folders of this process's memory groups, version 2 or 1, those that exist."""
    mounts = _mounts(proc / "mountinfo")
    found: list[Path] = []
    for line in _lines(proc / "cgroup"):
        number, controllers, path = line.split(":", 2)
        kind = "" if number == "0" else "memory"
        if kind in controllers.split(",") and kind in mounts:
            found.append(_under(mounts[kind], path))
    return tuple(p for p in found if p.is_dir())


def create(name: str, proc: Path = Path("/proc/self")) -> Path | None:
    """A group below this process's own; None where the system does not allow it."""
    mounts = _mounts(proc / "mountinfo")
    path = next((ln[3:] for ln in _lines(proc / "cgroup") if ln.startswith("0::")), None)
    if "" not in mounts or path is None:
        return None
    group = _under(mounts[""], path) / f"kt-{name}-{os.getpid()}"
    _sweep(group.parent)
    try:
        group.mkdir()
    except OSError:
        return None
    return group


def enter(group: Path) -> bool:
    try:
        (group / "cgroup.procs").write_text(str(os.getpid()))
    except OSError:
        return False
    return True


def kill(group: Path) -> None:
    """Kills all that is in it; kernels before 5.14 lack the file."""
    with contextlib.suppress(OSError):
        (group / "cgroup.kill").write_text("1")


def remove(group: Path, timeout_s: float = 2.0) -> bool:
    """The kernel lets a group go only when its last process is gone."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            group.rmdir()
            return True
        except FileNotFoundError:
            return True
        except OSError:
            if time.monotonic() > deadline:
                return False
        time.sleep(0.02)


def _sweep(parent: Path) -> None:
    """Lets go of empty groups that killed supervisors left; the kernel keeps those in use."""
    for left in parent.glob("kt-*-*"):
        with contextlib.suppress(OSError):
            left.rmdir()


def _under(mount: tuple[Path, str], path: str) -> Path:
    """A group's folder; a mount may show only the part below its root (in a container)."""
    point, root = mount
    inner = path[len(root) :] if root != "/" and path.startswith(root) else path
    return point / inner.lstrip("/")


def _mounts(file: Path) -> dict[str, tuple[Path, str]]:
    """Empty (version 2) or "memory" (version 1) → mount point and root; proc_pid_mountinfo(5)."""
    found: dict[str, tuple[Path, str]] = {}
    for line in _lines(file):
        left, _, right = line.partition(" - ")
        root, point = left.split()[3:5]
        kind, _, options = right.split(maxsplit=2)
        if kind == "cgroup2":
            found.setdefault("", (Path(point), root))
        elif kind == "cgroup" and "memory" in options.split(","):
            found.setdefault("memory", (Path(point), root))
    return found


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []
