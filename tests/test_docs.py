"""Documentation cannot drift: links resolve, commands exist, flags are real."""

import re
import shlex
from pathlib import Path

import pytest

from kt_cli.app import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)#]+)(?:#[^)]*)?\)")
COMMAND = re.compile(r"^(?:\$ )?(kt [^#|>&\n]*)", re.MULTILINE)
FENCE = re.compile(r"```(?:bash|sh|console)\n(.*?)```", re.DOTALL)


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_lead_somewhere(page: Path) -> None:
    links = LINK.findall(page.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_shown_command_exists(page: Path) -> None:
    blocks = "\n".join(FENCE.findall(page.read_text(encoding="utf-8")))
    shown = [shlex.split(line) for line in COMMAND.findall(blocks)]
    unknown = [words[1] for words in shown if len(words) > 1 and words[1] not in COMMANDS]
    assert [w for w in unknown if not w.startswith("-")] == []


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_no_page_names_a_machine_path(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"/(?:work|root|tmp)/\w", text)
