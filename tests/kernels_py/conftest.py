import kt_moe
import pytest


@pytest.fixture
def kernels():
    """Skips where the compiled kernels cannot run."""
    if not kt_moe.available:
        pytest.skip(kt_moe.why)
