"""Documentation cannot drift: links resolve, commands exist, flags are real."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

from kt_cli.app import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)#]+)(?:#[^)]*)?\)")
COMMAND = re.compile(r"^(?:\$ )?(kt [^#|>&\n]*)", re.MULTILINE)
FENCE = re.compile(r"```(?:bash|sh|console)\n(.*?)```", re.DOTALL)


def offenders(of: Callable[[str, Path], list[str]]) -> dict[str, list[str]]:
    """Page → what `of` finds in its text, pages without any left out."""
    found = {page: of(page.read_text(encoding="utf-8"), page) for page in PAGES}
    return {str(page.relative_to(ROOT)): bad for page, bad in found.items() if bad}


def test_links_lead_somewhere() -> None:
    def broken(text: str, page: Path) -> list[str]:
        local = (link for link in LINK.findall(text) if "://" not in link)
        return [link for link in local if not (page.parent / link).exists()]

    assert offenders(broken) == {}


def test_every_shown_command_exists() -> None:
    def unknown(text: str, page: Path) -> list[str]:
        shown = [shlex.split(line) for line in COMMAND.findall("\n".join(FENCE.findall(text)))]
        names = (words[1] for words in shown if len(words) > 1)
        return [name for name in names if not name.startswith("-") and name not in COMMANDS]

    assert offenders(unknown) == {}


def test_no_page_names_a_machine_path() -> None:
    assert offenders(lambda text, page: re.findall(r"/(?:work|root|tmp)/\w", text)) == {}
