"""`$` also matches before a line end, so that `name\\n` passes a check: patterns end with `\\Z`."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import kt_moe
import pytest

import kt_cli
from kt_cli.chat.store import check_name as conversation
from kt_cli.errors import UsageError
from kt_cli.hub.listing import check_repo
from kt_cli.hub.store import Store
from kt_cli.modelfiles import SERIES
from kt_cli.runtime.register import check_name as server

FOLDERS = [Path(m.__file__ or "").parent for m in (kt_cli, kt_moe)]
DOLLAR = re.compile(r"(?<!\\)(?:\\\\)*\$")
LINE_BY_LINE = {"MULTILINE", "M"}


def patterns(path: Path) -> Iterator[tuple[int, str]]:
    """Patterns given to `re`, but those that are meant for each line of a text."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
            continue
        of_re = isinstance(node.func.value, ast.Name) and node.func.value.id == "re"
        flags = {n.attr for a in (*node.args[1:], *(k.value for k in node.keywords))
                 for n in ast.walk(a) if isinstance(n, ast.Attribute)}  # fmt: skip
        if of_re and not flags & LINE_BY_LINE:
            texts = [n.value for n in ast.walk(node.args[0]) if isinstance(n, ast.Constant)]
            yield node.lineno, "".join(t for t in texts if isinstance(t, str))


def test_no_pattern_ends_with_a_dollar() -> None:
    files = [file for folder in FOLDERS for file in sorted(folder.rglob("*.py"))]
    found = [(file, *found) for file in files for found in patterns(file)]
    assert len(found) > 50
    offenders = [f"{file}:{line}: {p}" for file, line, p in found if DOLLAR.search(p)]
    assert not offenders, "\n".join(offenders)


@pytest.mark.parametrize("end", ["\n", "\n\n", "\r", "\r\n", "\0", "\u2028", "\x85", " ", "/"])
def test_no_name_ends_with_anything_but_itself(end: str, tmp_path: Path) -> None:
    checks = {
        "a": [conversation, Store(tmp_path).place, server],
        "a/b": [check_repo],
    }
    for name, its in checks.items():
        for check in its:
            check(name)
            with pytest.raises(UsageError):
                check(name + end)
    assert not SERIES.search(f"m-00001-of-00002.gguf{end}")
