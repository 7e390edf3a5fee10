"""A KT_HOME with the demo model in it, for tests that need real weights.

Uses KT_HOME where it is set, so that what an installation step fetched is found again; else a
folder of this test session. Nothing is skipped: without weights and network tests fail.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def demo_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from kt_cli.catalog import demo

    given = os.environ.get("KT_HOME")
    home = Path(given) if given else tmp_path_factory.mktemp("home")
    demo.ensure(home)
    return home


@pytest.fixture
def home_with_weights(demo_home: Path, tmp_path: Path) -> Iterator[Path]:
    """A home of the test's own: the weights are fetched, no model is built. Removed afterwards."""
    cache = tmp_path / "cache" / "demo"
    cache.mkdir(parents=True)
    for file in (demo_home / "cache" / "demo").glob("*.gguf"):
        (cache / file.name).symlink_to(file)
    yield tmp_path
    shutil.rmtree(tmp_path / "models", ignore_errors=True)
