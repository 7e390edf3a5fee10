"""Whatever a file holds: plain data of known size comes out, or an error that names the file."""

import math
import os

import pytest

from kt_cli.documents import (
    Record,
    Source,
    parse_json,
    parse_toml,
    parse_yaml,
    read_bytes,
    read_json,
    read_toml,
    read_yaml,
    shown,
)
from kt_cli.errors import AuthError, NotFoundError, TransferError, UsageError

DEEP = 100_000
SOURCE = Source("some.file")
FAR = b"some.file"
WRONG_JSON = {
    "lists in lists": (b"[" * DEEP, "nested more than"),
    "closed again": (b"[" * DEEP + b"]" * DEEP, "nested more than"),
    "objects": (b'{"a":' * DEEP, "nested more than"),
    "behind a string": (b'{"a": "\\"[", "b":' + b"[" * 70, "nested more than"),
    "many": (b'{"a": [' + b"[]," * 4_000_001, "lists and objects"),
    "digits": (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
    "a key twice": (b'{"a": 1, "a": 2}', "'a' stands there twice"),
    "a key twice within": (b'{"b": [{"a": 1, "a": 2}]}', "'a' stands there twice"),
    "half a character": (b'{"a": ["\\ud800"]}', "half of a character"),
    "half a character in a key": (b'{"\\udc00": 1}', "half of a character"),
    "a list": (b"[1]", "no JSON object"),
    "a number": (b"7", "no JSON object"),
    "nothing": (b"", "no JSON"),
    "white space": (b"  \n", "no JSON"),
    "cut short": (b'{"a": [1, 2', "no JSON"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "UTF-16"),
    "latin-1": ('{"a": "é"}'.encode("latin-1"), "byte 7 is not UTF-8"),
    "a byte order mark": (b"\xef\xbb\xbf{}", "byte order mark"),
    "zeros": (bytes(100), "no JSON"),
    "noise": (bytes(range(256)), "not UTF-8"),
}
WRONG_TOML = {
    "lists in lists": (b"a = " + b"[" * DEEP, "nested more than"),
    "a long key": (b".".join([b"a"] * DEEP) + b" = 1", "nested more than"),
    "a long quoted key": (b".".join([b'"a"'] * DEEP) + b" = 1", "nested more than"),
    "tables": (b"[" + b".".join([b"a"] * DEEP) + b"]", "nested more than"),
    "a key twice": (b"a = 1\na = 2", "no TOML"),
    "digits": (b"a = 0x" + b"f" * 5000, "an integer of 20000 bits"),
    "UTF-16": ("a = 1".encode("utf-16"), "UTF-16"),
    "noise": (bytes(range(256)), "not UTF-8"),
}
TENFOLD = [(i, i, b", ".join([b"*a%d" % (i - 1)] * 10)) for i in range(1, 12)]
BOMB = b"a0: &a0 [x, x]\n" + b"".join(b"a%d: &a%d [%s]\n" % line for line in TENFOLD)
MERGED = b"a0: &a0 {x: 1}\n" + b"".join(b"a%d: &a%d {<<: [%s]}\n" % line for line in TENFOLD)
WRONG_YAML = {
    "lists in lists": (b"[" * DEEP, "nest"),
    "lists by dashes": (b"- " * DEEP, "nested more than"),
    "aliases of aliases": (BOMB, "stands for more than"),
    "merged aliases": (MERGED, "stands for more than"),
    "an alias of itself": (b"a: &x [*x]", "or for itself"),
    "a key twice": (b"a: 1\na: 2", "'a' stands there twice"),
    "a tag": (b"a: !!python/object:os.system x", "the tag"),
    "a broken date": (b"a: 2024-99-99", "no YAML"),
    "digits": (b"a: 0x" + b"f" * 5000, "an integer of 20000 bits"),
    "two documents": (b"a: 1\n---\nb: 2", "no YAML"),
    "noise": (bytes(range(256)), "not UTF-8"),
    "zeros": (bytes(9), "no YAML"),
}
CASES = [
    pytest.param(parse, *case, id=f"{parse.__name__}-{name}")
    for parse, cases in (
        (parse_json, WRONG_JSON),
        (parse_toml, WRONG_TOML),
        (parse_yaml, WRONG_YAML),
    )
    for name, case in cases.items()
]


@pytest.mark.parametrize(("parse", "content", "why"), CASES)
def test_what_is_wrong_is_named_with_its_file(parse, content, why):
    with pytest.raises(TransferError, match=r"some\.file") as caught:
        parse(content, SOURCE)
    assert why in caught.value.why
    assert caught.value.fix
    assert len(caught.value.why) < 400


def test_what_is_right_is_read():
    text = '{"a": {"b": [1, 2.5, "[[[\\"{", "\\ud83d\\ude00"]}, "c": NaN, "d": 1, "d": 1}'
    values = parse_json(text.encode(), SOURCE).values
    assert values["a"] == {"b": [1, 2.5, '[[["{', "\U0001f600"]}
    assert math.isnan(values["c"])
    assert parse_toml(b"\xef\xbb\xbfa.b = [1]", SOURCE).values == {"a": {"b": [1]}}
    assert parse_yaml(b"a: &x [1]\nb: *x", SOURCE) == {"a": [1], "b": [1]}
    deep = "[" * 60 + "]" * 60
    assert parse_json(f'{{"a": {deep}}}'.encode(), SOURCE).has("a")


def test_who_reads_says_of_which_kind_the_error_is():
    mine = Source("mine.toml", "mend it", UsageError)
    with pytest.raises(UsageError) as caught:
        parse_toml(b"=", mine)
    assert (caught.value.exit_code, caught.value.fix) == (2, "mend it")


READERS = (read_bytes, read_json, read_toml, read_yaml)


@pytest.mark.parametrize("read", READERS)
def test_what_is_no_regular_file_is_never_waited_for(tmp_path, read):
    pipe, folder, loop = (tmp_path / name for name in ("pipe", "folder", "loop"))
    os.mkfifo(pipe)
    folder.mkdir()
    loop.symlink_to(loop)
    for path, why in ((pipe, "a pipe"), (folder, "a folder"), (loop, "levels of symbolic links")):
        with pytest.raises(TransferError, match=str(path)) as caught:
            read(path)
        assert why in caught.value.why
    with pytest.raises(TransferError) as caught:
        read(tmp_path.__class__("/dev/zero"))
    assert "device" in caught.value.why
    with pytest.raises(TransferError) as caught:
        read(tmp_path / "a\0b")
    assert "code 0" in caught.value.why
    for missing in (tmp_path / "none", tmp_path / "none" / "none", pipe / "x"):
        with pytest.raises(NotFoundError, match=missing.name):
            read(missing)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_of_someone_else(tmp_path):
    path = tmp_path / "x"
    path.touch(0)
    with pytest.raises(AuthError, match=str(path)):
        read_bytes(path)


def test_a_permission_that_is_denied_says_so(tmp_path, monkeypatch):
    def refuse(*args):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "x").touch()
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(AuthError, match="cannot read") as caught:
        read_bytes(tmp_path / "x")
    assert caught.value.why == "permission denied"


def test_a_file_larger_than_its_kind_may_be_is_not_read(tmp_path):
    path = tmp_path / "x"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(TransferError) as caught:
        read_bytes(path)
    assert "more than 16000000 bytes" in caught.value.why


RECORD = Record(
    SOURCE,
    {
        "n": 3, "big": 10**30, "x": 2.5, "nan": math.nan, "inf": math.inf, "t": "text", "yes": True,
        "l": [1, 2], "mixed": [1, "a", None], "o": {"k": {"n": 1}}, "null": None,
    },
    "outer.",
)  # fmt: skip


def test_getters_give_what_is_there_or_the_default():
    assert RECORD.integer("absent", "null", "n") == 3
    assert RECORD.integer("absent", default=7) == 7
    assert RECORD.real("x") == 2.5
    assert RECORD.real("n") == 3.0
    assert RECORD.text("t") == "text"
    assert RECORD.text("null", default="") == ""
    assert RECORD.flag("yes")
    assert RECORD.integers("l") == (1, 2)
    assert RECORD.integers("absent") == ()
    assert RECORD.part("o").part("k").integer("n") == 1
    assert RECORD.part("absent").values == {}
    assert RECORD.parts("o")["k"].integer("n") == 1


@pytest.mark.parametrize(
    "get",
    [
        *(lambda r, k=k: r.integer(k) for k in ("absent", "x", "nan", "t", "yes", "l", "o", "big")),
        lambda r: r.integer("n", low=4),
        lambda r: r.integer("n", high=2),
        *(lambda r, k=k: r.real(k) for k in ("absent", "nan", "inf", "t", "yes", "l")),
        lambda r: r.real("x", high=2),
        *(lambda r, k=k: r.text(k) for k in ("absent", "n", "yes", "l", "o")),
        *(lambda r, k=k: r.flag(k) for k in ("absent", "n", "t")),
        *(lambda r, k=k: r.sequence(k) for k in ("n", "t", "o")),
        lambda r: r.sequence("l", least=3),
        lambda r: r.integers("mixed"),
        lambda r: r.texts("mixed"),
        lambda r: r.integers("l", high=1),
        *(lambda r, k=k: r.part(k) for k in ("n", "t", "l", "yes")),
        lambda r: r.part("o").parts("k"),
        lambda r: r.part("o").part("k").text("n"),
    ],
)
def test_getters_refuse_what_is_not_what_they_read(get):
    with pytest.raises(TransferError, match=r"some\.file") as caught:
        get(RECORD)
    assert "`outer." in caught.value.why
    assert "needed" in caught.value.why


def test_values_in_messages_are_short_and_of_one_line():
    values = [
        "x" * 10**6,
        "a\nb\x1b]52;c\u202e",
        16**5000,
        [16**5000],
        {1: [[[[[0]]]]]},
        b"\0" * 999,
    ]
    for value in values:
        text = shown(value)
        assert len(text) < 200
        assert text.isprintable()
    assert shown("é") == "'é'"
