"""Every structured file that `kt` reads, holding what none should: an error that names it, or none.

A file of `kt`'s own that only saves time or tells of the past may be passed over in silence.
"""

import os
from pathlib import Path

import pytest

from kt_cli import settings
from kt_cli.catalog.adapters import read_adapter
from kt_cli.catalog.demo.manifest import is_whole
from kt_cli.catalog.local import read
from kt_cli.catalog.presets import load_presets
from kt_cli.chat.store import Store as Conversations
from kt_cli.embedded.inject.rules import read_rules
from kt_cli.errors import KtError
from kt_cli.hub import manifest
from kt_cli.probe import bandwidth, toml
from kt_cli.runtime import environments, register
from kt_cli.weights import sums
from kt_cli.weights.packs import Shelf
from kt_cli.workflow import profiles, records

DEEP = 100_000
CONTENTS = {
    "nothing": b"",
    "zeros": bytes(64),
    "noise": bytes(range(256)) * 4,
    "lists in lists": b"[" * DEEP,
    "lists in a key": b'{"a": ' + b"[" * DEEP,
    "lists in a TOML key": b"a = " + b"[" * DEEP,
    "objects in objects": b'{"a":' * DEEP,
    "a list": b"[1, 2]",
    "a number": b"7",
    "many digits": b'{"version": ' + b"9" * 5000 + b"}",
    "many digits in TOML": b"version = 0x" + b"f" * 5000,
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "cut short": b'{"version": 1, "files": {"a": {"byt',
    "a key twice": b'{"version": 1, "version": 2}',
    "half a character": b'{"version": "\\ud800"}',
    "another shape": b'{"version": [[{}]], "files": [1], "weight_map": 3, "r": "x", "key": {}}',
    "aliases": b"a0: &a0 [1,1]\n" + b"".join(b"a%d: &a%d [%s]\n" % (
        i, i, b",".join([b"*a%d" % (i - 1)] * 20)) for i in range(1, 9)),
}  # fmt: skip


def loads(home, path):
    return settings.load(home, home / "none", {}, home / "none")


def adapter(home, path):
    (path.parent / "adapter_model.safetensors").touch()
    return read_adapter(str(path.parent))


def model(home, path):
    (path.parent / "model.safetensors").write_bytes(b"\2" + bytes(7) + b"{}")
    config = path.parent / "config.json"
    if not config.exists():
        config.write_text("{}")
    return read(path.parent)


NAMED = {
    "config.json": model,
    "model.safetensors.index.json": model,
    "adapter_config.json": adapter,
    "plan.json": lambda home, path: records.load_plan(path),
    "machine.toml": lambda home, path: toml.load(path),
    "rules.yaml": lambda home, path: read_rules(path),
    "config.toml": loads,
    "profiles/p.toml": lambda home, path: profiles.read(home, "p"),
    "models.yaml": lambda home, path: load_presets(path.parent),
    ".kt-model.json": lambda home, path: manifest.read(path.parent),
    ".kt-sums.json": lambda home, path: sums.read(path.parent),
    "conversations/c.json": lambda home, path: Conversations(home).load("c"),
}
SILENT = {
    "run/s/state.json": lambda home, path: register.read(register.Folder(home, "s")),
    "engines/e/kt-engine.json": lambda home, path: environments.installed(home, "e"),
    "history/2026.json": lambda home, path: records.outcomes(home) or None,
    f"cache/{bandwidth.FILE}": lambda home, path: bandwidth.load(path.parent),
    "packs/p/pack.json": lambda home, path: Shelf(path.parent.parent).packs() or None,
    "kt-demo.json": lambda home, path: is_whole(path.parent, "mixtral") or None,
}
RIGHT = {
    (f"cache/{bandwidth.FILE}", "nothing"),
    ("config.toml", "nothing"),
    ("profiles/p.toml", "nothing"),
}
"""Where such a file is one that can be read, so far."""


def put(home: Path, name: str, content: bytes | None) -> Path:
    path = home / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        os.mkfifo(path)
    else:
        path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", [*NAMED, *SILENT])
def test_whatever_a_file_holds_its_reader_ends_rightly(tmp_path, name):
    wrong = []
    for number, (kind, content) in enumerate([*CONTENTS.items(), ("a pipe", None)]):
        home = tmp_path / str(number)
        path = put(home, name, content)
        try:
            found = {**NAMED, **SILENT}[name](home, path)
        except KtError as error:
            told = path.name.removesuffix(".json").removesuffix(".toml") in error.what + error.why
            if name in SILENT or not told or not (error.why or error.fix):
                wrong.append((kind, repr(error), error.why, error.fix))
        except Exception as error:
            wrong.append((kind, repr(error)[:300]))
        else:
            if found is not None and (name, kind) not in RIGHT:
                wrong.append((kind, repr(found)[:300]))
            elif found is None and name in NAMED and (name, kind) not in RIGHT:
                wrong.append((kind, "nothing was said"))
    assert not wrong, wrong
