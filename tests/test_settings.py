"""Settings: typed, validated, with the origin of every value."""

from pathlib import Path

import pytest

from kt_cli import settings
from kt_cli.errors import KtError, NotFoundError, UsageError


def load(tmp_path: Path, **environ: str) -> settings.Settings:
    return settings.load(tmp_path / "home", tmp_path / "project", environ, tmp_path / "user")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_strongest_layer_wins_and_says_where_it_comes_from(tmp_path: Path) -> None:
    write(tmp_path / "user/.ktransformers/config.yaml", "server: {port: 1, host: 10.0.0.1}")
    assert load(tmp_path).get("server.host").value == "10.0.0.1"
    write(tmp_path / "home/config.toml", "[server]\nport = 2\n")
    assert load(tmp_path).get("server.port").value == 2
    write(tmp_path / "project/kt.toml", "[server]\nport = 3\n")
    assert load(tmp_path).get("server.port").origin.endswith("kt.toml")
    value = load(tmp_path, KT_SERVER_PORT="4").get("server.port")
    assert value == settings.Value(4, "KT_SERVER_PORT")


def test_a_default_is_named_as_one(tmp_path: Path) -> None:
    assert load(tmp_path).get("server.host") == settings.Value("127.0.0.1", "default")


def test_set_and_unset_survive_a_reload(tmp_path: Path) -> None:
    load(tmp_path).set("run.ctx_size", "32k")
    assert load(tmp_path).get("run.ctx_size").value == 32768
    assert load(tmp_path).unset("run.ctx_size")
    assert load(tmp_path).get("run.ctx_size").value is None
    assert not load(tmp_path).unset("run.ctx_size")


@pytest.mark.parametrize(
    ("key", "text"), [("server.port", "0"), ("server.port", "abc"), ("run.engine", "vllm")]
)
def test_a_wrong_value_is_refused_and_nothing_is_written(
    tmp_path: Path, key: str, text: str
) -> None:
    with pytest.raises(UsageError, match=key):
        load(tmp_path).set(key, text)
    assert not (tmp_path / "home").exists()


def test_an_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        load(tmp_path).get("server.prot")
    assert "server.port" in caught.value.fix


@pytest.mark.parametrize("text", ["[server", "[server]\nport = 'x'\n", "[sever]\nport = 1\n"])
def test_a_bad_file_is_named(tmp_path: Path, text: str) -> None:
    write(tmp_path / "home/config.toml", text)
    with pytest.raises(UsageError, match=r"config\.toml"):
        load(tmp_path)


def test_upstream_may_not_open_the_server_to_the_network(tmp_path: Path) -> None:
    write(tmp_path / "user/.ktransformers/config.yaml", "server: {host: 0.0.0.0, port: 30001}")
    loaded = load(tmp_path)
    assert loaded.get("server.host").value == "127.0.0.1"
    assert loaded.get("server.port").value == 30001


def test_a_refused_write_is_an_error_and_keeps_the_old_file(tmp_path: Path) -> None:
    write(tmp_path / "home", "a file where the folder should be")
    with pytest.raises(KtError, match="cannot"):
        load(tmp_path).set("server.port", "5000")
