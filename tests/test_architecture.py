"""The walls of the house: who may import whom, who may print, what is imported at start-up."""

import ast
import re
import subprocess
import sys
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import kt_cli

ROOT = Path(kt_cli.__file__).parent
GROUND = {
    *("errors", "opts", "options", "environment", "documents", "modelfiles", "network"),
    *("discovery", "hubcache"),
}
"""Leaves that import no room, so that any room may stand on them."""

ALLOWED = {
    "core": {"core"},
    "engines": {"core", "engines"},
    "probe": {"core", "probe"},
    "weights": {"core", "weights"},
    "catalog": {"core", "catalog", "weights"},
    "runtime": {"core", "runtime"},
    "hub": {"core", "hub", "weights"},
    "embedded": {"core", "embedded", "weights"},
    "training": {"core", "training", "embedded", "weights"},
    "ui": {"core", "ui"},
    "api_client": {"core", "api_client", "runtime"},
    "chat": {"core", "api_client", "chat", "ui", "runtime"},
    "bench": {"core", "bench"},
    "doctor": {"core", "doctor", "probe"},
    "wizard": {"core", "wizard", "ui"},
    "workflow": {
        *("core", "engines", "probe", "catalog", "weights", "runtime", "hub"),
        *("wizard", "ui", "settings", "workflow"),
    },
    "command": {"settings", "ui", "workflow"},
    "documents": {"documents"},
    "settings": set(),
}
EDGES = {"children", "unfinished"}
"""Leaves that act: for every room that may act itself."""
PURE = {"core", "engines"}
LIGHT_STDLIB_ONLY = (
    *("core", "errors", "opts", "options", "environment", "modelfiles", "discovery"),
    *("children", "unfinished"),
)
HEAVY = {"torch", "transformers", "sglang", "kt_kernel", "kt_moe", "openai", "pydantic"}


@cache
def modules() -> tuple[Path, ...]:
    return tuple(sorted(ROOT.rglob("*.py")))


def room(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


@cache
def imports(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def rooms_imported(path: Path) -> set[str]:
    ours = (name.split(".") for name in imports(path))
    return {parts[1] for parts in ours if parts[0] == "kt_cli" and len(parts) > 1}


def allowed(here: str) -> set[str]:
    return ALLOWED.get(here, set()) | GROUND | {"__version__"} | (set() if here in PURE else EDGES)


def test_a_room_imports_only_the_rooms_below_it() -> None:
    climbing = {
        str(path.relative_to(ROOT)): above
        for path in modules()
        if (here := room(path)) not in ("app", "commands", "__main__", "__init__")
        if (above := rooms_imported(path) - allowed(here))
    }
    assert climbing == {}


def test_core_needs_the_standard_library_alone() -> None:
    known = {"kt_cli", *sys.stdlib_module_names}
    foreign = {
        str(path.relative_to(ROOT)): strange
        for path in modules()
        if room(path) in LIGHT_STDLIB_ONLY
        if (strange := {name.split(".")[0] for name in imports(path)} - known)
    }
    assert foreign == {}


def test_programs_are_started_and_unfinished_files_are_made_in_one_place() -> None:
    """Else a killed `kt` leaves them behind."""
    starts = {"children.py", "runtime/keeper.py", "runtime/control.py"}
    makes = {"unfinished.py", "doctor/reading.py", "bench/micro_launch.py"}
    for path in modules():
        name, text = str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
        calls = {ast.unparse(n.func) for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Call)}
        started = {c for c in calls if re.fullmatch(r"subprocess\.\w+|os\.(system|popen|fork)", c)}
        assert not started or name in starts | {"runtime/supervisor.py"}, (name, started)
        assert not any(c.startswith("tempfile.") for c in calls) or name in makes, name


OWN_PROCESSES = (
    *("embedded/", "bench/", "runtime/keeper.py"),
    *("probe/inside.py", "probe/bandwidth.py", "doctor/binding.py"),
)
"""Programs of their own, whose output is read by another program or is a log."""
PRINTERS = re.compile(
    r"print|sys\.std(?:out|err)\.(?:write|writelines|buffer.*)|.*\.std(?:out|err)\.write"
    r"|typer\.(?:echo|secho|prompt|confirm)|(?:.*\.)?Console|traceback\.print_\w+"
)


def printers(path: Path) -> list[str]:
    """Calls that print by themselves, and texts with escape sequences of their own."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and PRINTERS.fullmatch(ast.unparse(node.func)):
            found.append(f"{node.lineno}: {ast.unparse(node.func)}")
        elif (
            isinstance(node, ast.Constant) and isinstance(node.value, str) and "\x1b" in node.value
        ):
            found.append(f"{node.lineno}: an escape sequence")
    return found


def test_everything_that_is_printed_passes_the_gate_of_ui() -> None:
    names = ((path, str(path.relative_to(ROOT))) for path in modules())
    ours = [(path, name) for path, name in names if not name.startswith(("ui/", *OWN_PROCESSES))]
    offenders = [f"{name}:{found}" for path, name in ours for found in printers(path)]
    assert not offenders, "\n".join(offenders)


def test_the_kernels_do_not_know_the_command_line() -> None:
    import kt_moe

    for path in Path(kt_moe.__file__).parent.rglob("*.py"):
        assert not any(name.split(".")[0] == "kt_cli" for name in imports(path)), path


def test_every_library_that_is_imported_is_declared() -> None:
    import kt_moe

    declared = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    names = {n.lower().replace("_", "-") for n in re.findall(r'^ *"([\w-]+)[<>]=', declared, re.M)}
    others = {"kt_cli", "kt_moe", "kt_kernel", "sglang", *sys.stdlib_module_names}
    paths = [*modules(), *Path(kt_moe.__file__).parent.rglob("*.py")]
    tops = {name.split(".")[0] for path in paths for name in imports(path) if name}
    providers = packages_distributions()
    for top in (tops - others) & providers.keys():  # what is installed, and so can be told
        ours = {dist.lower().replace("_", "-") for dist in providers[top]}
        assert ours & names, f"{top} comes from {ours}"


@pytest.mark.parametrize("argv", [["--help"], ["config", "list"], ["version"]], ids=" ".join)
def test_light_commands_import_nothing_heavy(argv: list[str], tmp_path: Path) -> None:
    code = (
        "import sys; from kt_cli.app import run; run(sys.argv[1:]);"
        "print(*(m for m in sys.modules if '.' not in m), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *argv],
        capture_output=True,
        text=True,
        check=True,
        env={"KT_HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path)},
    )
    assert HEAVY.isdisjoint(done.stderr.split())
