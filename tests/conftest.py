"""What all tests share: examples, fixtures that cost, and marks by what a test needs."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from demo_home import demo_home, home_with_weights
from hypothesis import settings

if TYPE_CHECKING:
    from tests.probe.trees import Forest

__all__ = ["demo_home", "home_with_weights"]

settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

os.environ["KT_MOE_CACHE"] = "off"  # tests leave nothing in anybody's cache
_CACHE = tempfile.TemporaryDirectory(prefix="kt-tests-hub-")
os.environ["HF_HUB_CACHE"] = _CACHE.name

os.environ["SKBUILD_EDITABLE_VERBOSE"] = "0"  # programs tell only what they do themselves

# A shell's background job ignores Ctrl-C, and so would the programs that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

HERE = Path(__file__).parent
NEEDS = {
    "process": (
        *("catalog/test_demo.py", "chat/test_command.py"),
        *("commands/test_run_others.py", "commands/test_run_serving.py"),
        *("commands/test_run_sglang.py", "e2e", "embedded/server/test_process.py"),
        *("hub/test_fetch.py", "hub/test_store.py", "kernels/test_switch_kept.py"),
        *("kernels/test_variants.py", "kernels_py/test_microbench.py", "probe/test_stack.py"),
        *("runtime", "test_streams.py", "test_unfinished.py"),
    ),
    "session": ("chat/test_terminal.py", "e2e", "test_top.py", "wizard"),
}
"""Folders and files whose tests start programs, or type into a terminal. What needs the demo
model asks for `demo_home`."""


def pytest_configure() -> None:
    lost = [place for places in NEEDS.values() for place in places if not (HERE / place).exists()]
    if lost:
        raise pytest.UsageError(f"tests/conftest.py marks what is not there: {lost}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mark, places in NEEDS.items():
            if any(item.path.is_relative_to(HERE / place) for place in places):
                item.add_marker(mark)
        if "demo_home" in getattr(item, "fixturenames", ()):
            item.add_marker("demo")


@pytest.fixture(scope="session")
def forest(tmp_path_factory: pytest.TempPathFactory) -> Forest:
    """Captured machines, unpacked once for all tests that only read them."""
    from tests.probe.trees import Forest

    return Forest(tmp_path_factory.mktemp("machines"))
