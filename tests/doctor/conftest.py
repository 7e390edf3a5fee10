from __future__ import annotations

import pytest

from tests.probe.trees import Forest


@pytest.fixture(scope="session")
def forest(tmp_path_factory: pytest.TempPathFactory) -> Forest:
    return Forest(tmp_path_factory.mktemp("machines"))
