"""Documentation cannot drift: links resolve, commands parse and run, quoted errors are real."""

from __future__ import annotations

import ast
import configparser
import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml

import kt_cli
from kt_cli import app
from kt_cli.commands import summaries

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TROUBLESHOOTING = ROOT / "docs" / "troubleshooting.md"
SGLANG_FLAGS = ROOT / "tests" / "engines" / "data" / "sglang-0.7.2.json"
HOME_BOX = ROOT / "presets" / "machines" / "4090+2x6454s.toml"

LINK = re.compile(r"\[[^\]]*\]\(([^)]+)\)")
FENCE = re.compile(r"^ *```(\w+)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`(kt [^`\n]+)`")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
ERROR = re.compile(r"^### (`+) ?(.*?) ?\1$", re.MULTILINE)
SEPARATORS = {"|", "&&", "||", ";", "&", ">", ">>", "<"}


def offenders(of: Callable[[str, Path], list[str]]) -> dict[str, list[str]]:
    """Page → what `of` finds in its text, pages without any left out."""
    found = {page: of(page.read_text(encoding="utf-8"), page) for page in PAGES}
    return {str(page.relative_to(ROOT)): bad for page, bad in found.items() if bad}


def blocks(text: str, *languages: str) -> list[str]:
    return [dedent(body) for language, body in FENCE.findall(text) if language in languages]


def commands(text: str) -> Iterator[list[str]]:
    """The words after `kt` of every command in the shell blocks and units of a page."""
    for body in blocks(text, "bash", "sh", "console"):
        for line in body.replace("\\\n", " ").splitlines():
            yield from in_line(line.removeprefix("$ "))
    for body in blocks(text, "ini"):
        for line in re.findall(r"^Exec\w+=(.*)$", body, re.MULTILINE):
            yield from in_line(line)


def in_line(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word not in SEPARATORS:
            words.append(word)
            continue
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        if words and words[0].rpartition("/")[2] in ("kt", "kt-cli"):
            yield words[1:]
        words = []


# Links and machine paths


def test_links_lead_somewhere() -> None:
    def broken(text: str, page: Path) -> list[str]:
        return [link for link in LINK.findall(text) if "://" not in link and not leads(link, page)]

    assert offenders(broken) == {}


def leads(link: str, page: Path) -> bool:
    path, _, anchor = link.partition("#")
    target = page.parent / path if path else page
    return target.exists() and (not anchor or anchor in anchors(target))


def anchors(page: Path) -> set[str]:
    """As GitHub names them."""
    titles = HEADING.findall(page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs" / "index.md"
    linked = {(index.parent / link).resolve() for link in LINK.findall(index.read_text("utf-8"))}
    pages = set(PAGES) - {index, ROOT / "README.md"}
    assert sorted(str(p.relative_to(ROOT)) for p in pages - linked) == []


def test_no_page_names_a_machine_path() -> None:
    assert offenders(lambda text, page: re.findall(r"/(?:work|root|tmp)/\w", text)) == {}


NAMED = re.compile(r"\b(?:kt_cli|kernels|presets|scripts|tests|docs)/[\w./+-]*\w/?")


def test_named_files_exist() -> None:
    def absent(text: str, page: Path) -> list[str]:
        named = (n for n in NAMED.findall(text) if not re.search(r"[A-Z]{4}", n.rpartition("/")[2]))
        return [name for name in named if not (ROOT / name).exists() and "build/" not in name]

    assert offenders(absent) == {}


# Commands


def test_every_shown_command_parses() -> None:
    def wrong(text: str, page: Path) -> list[str]:
        spans = INLINE.findall(FENCE.sub("", ERROR.sub("", text)))
        prose = [words for span in spans for words in in_line(span)]
        mentions = (w for w in prose if "requires an argument" not in complaint(w))
        said = ((words, complaint(words)) for words in [*commands(text), *mentions])
        return [f"kt {shlex.join(words)}: {why}" for words, why in said if why]

    assert offenders(wrong) == {}


def complaint(words: list[str]) -> str:
    """What the command line's own parser says against it; empty for a command that is right."""
    try:
        extra = foreign(words)
    except Exception as error:
        return str(error) or type(error).__name__
    strange = [w for w in extra if w.startswith("--") and w.partition("=")[0] not in passed()]
    return f"neither kt nor SGLang knows {strange[0]}" if strange else ""


def foreign(words: list[str]) -> list[str]:
    """What would be passed on to SGLang. Raises what the parser raises."""
    while words and words[0].startswith("-"):
        words = words[1:]
    if not words or words[0].isupper():
        return []
    command, rest = command_of(words)
    if hasattr(command, "commands") and not rest:
        return []
    try:
        return list(command.make_context(command.name, rest).args)
    except Exception as error:
        if type(error).__name__ == "Exit":  # --help
            return []
        raise


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command and its own words. Raises LookupError for a name that does not exist."""
    name, *rest = words
    command = loaded(name)
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        name, *rest = rest
        if name not in command.commands:
            raise LookupError(f"`kt {command.name}` has no {name!r}")
        command = command.commands[name]
    return command, rest


@cache
def loaded(name: str) -> Any:
    if name not in summaries():
        raise LookupError(f"no command is called {name!r}")
    return app._load(name)


@cache
def passed() -> frozenset[str]:
    """The flags of SGLang's own parser, which may follow MODEL."""
    return frozenset(
        f for entry in json.loads(SGLANG_FLAGS.read_text("utf-8")) for f in entry["flags"]
    )


DRY = {
    ("plan",): {"--check"},
    ("run",): set(),
    ("fit",): set(),
    ("ps",): set(),
    ("version",): {"--check"},
    ("config", "list"): set(),
    ("config", "get"): set(),
    ("config", "set"): set(),
    ("config", "unset"): set(),
    ("config", "path"): set(),
    ("profile", "list"): set(),
    ("engine", "list"): set(),
    ("model", "list"): set(),
    ("model", "packs"): {"--verify"},
    ("model", "path"): set(),
    ("completion",): {"--install"},
}
"""Commands that change nothing outside KT_HOME, and the flags with which they need a server."""
OF_MACHINE = {5, 6}
"""Exit codes that say what this machine lacks: memory, or an engine."""


def test_commands_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command that is safe, in a KT_HOME and a folder of its own; `kt run` by --dry-run."""
    monkeypatch.setenv("KT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("KT_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    shutil.copy(HOME_BOX, tmp_path / "server.toml")
    wrong: dict[str, str] = {}
    done = 0
    for words in dict.fromkeys(
        tuple(w) for page in PAGES for w in commands(page.read_text("utf-8"))
    ):
        if not is_dry(words):
            continue
        argv = [*words, *(["--dry-run"] if words[0] == "run" else [])]
        code = app.run(argv)
        said = capsys.readouterr()
        if code != 0 and code not in OF_MACHINE:
            wrong[shlex.join(argv)] = f"exit code {code}: {said.err}"
        done += 1
    assert wrong == {}
    assert done > 30


def is_dry(words: tuple[str, ...]) -> bool:
    """Safe, and whole: no placeholder, no file of another machine, no flag for an engine that may
    be absent."""
    known = next((never for name, never in DRY.items() if words[: len(name)] == name), None)
    if known is None or known & set(words) or foreign([*words]):
        return False
    return not any(w.isupper() or w.startswith(("/", "~", "./")) for w in words)


@pytest.mark.parametrize(
    "line",
    [
        "kt nosuch",
        "kt run demo --no-such-flag",
        "kt config nosuch",
        "kt ps --port 1",
        "kt plan m -c x",
    ],
)
def test_a_wrong_command_is_noticed(line: str) -> None:
    assert [complaint(words) for words in in_line(f"FOO=1 true && {line} | cat")] != [""]


def test_the_example_of_a_command_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "contributing.md").read_text("utf-8")
    example = next(body for body in blocks(page, "python") if "`kt hello`" in body)
    (tmp_path / "hello.py").write_text(example, encoding="utf-8")
    monkeypatch.setattr(kt_cli.commands, "__path__", [*kt_cli.commands.__path__, str(tmp_path)])
    assert app.run(["hello", "you", "--times", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == ["hello you"] * 2
    assert app.run(["hello", "--times", "99"]) == 2
    assert app.run(["--help"]) == 0
    assert "Greet somebody" in capsys.readouterr().out


# Other languages


def test_examples_are_well_formed() -> None:
    def wrong(text: str, page: Path) -> list[str]:
        return [
            f"{language}: {error}"
            for language, read in READERS.items()
            for body in blocks(text, language)
            if (error := failure(read, body))
        ]

    assert offenders(wrong) == {}


READERS: dict[str, Callable[[str], object]] = {
    "python": ast.parse,
    "json": json.loads,
    "yaml": yaml.safe_load,
    "ini": lambda text: configparser.RawConfigParser(strict=False).read_string(text),
}


def failure(read: Callable[[str], object], body: str) -> str:
    try:
        read(body)
    except (SyntaxError, ValueError, yaml.YAMLError, configparser.Error) as error:
        return str(error)
    return ""


# Errors


def test_quoted_errors_are_in_the_source() -> None:
    quoted = [text for _, text in ERROR.findall(TROUBLESHOOTING.read_text("utf-8"))]
    known = messages()
    assert len(quoted) > 20
    assert [text for text in quoted if not any(message.fullmatch(text) for message in known)] == []


@cache
def messages() -> tuple[re.Pattern[str], ...]:
    """Every text of the program; its values stand for anything. Texts with few words of their own
    would match everything, so they are left out."""
    trees = (
        ast.parse(path.read_text("utf-8")) for path in Path(kt_cli.__file__).parent.rglob("*.py")
    )
    texts = (text for tree in trees for node in ast.walk(tree) if (text := literal(node)))
    return tuple(re.compile(text) for text in set(texts))


def literal(node: ast.AST) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        parts: list[Any] = [node]
    elif isinstance(node, ast.JoinedStr):
        parts = node.values
    else:
        return ""
    own = "".join(p.value for p in parts if isinstance(p, ast.Constant))
    if len(re.findall(r"[A-Za-z]{2,}", own)) < 2 or "\n" in own:
        return ""
    return "".join(re.escape(p.value) if isinstance(p, ast.Constant) else ".+" for p in parts)
