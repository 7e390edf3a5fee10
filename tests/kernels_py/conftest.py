import kt_moe
import pytest


@pytest.fixture
def kernels():
    """Skips where the compiled kernels cannot run."""
    if not kt_moe.available:
        pytest.skip(kt_moe.why)


@pytest.fixture
def loaded(tmp_path):
    """A maker of wrappers over one BF16 checkpoint, and the weights that it holds."""
    from . import checkpoint_files as files
    from .wrappers import EXPERTS, LAYER, wrapper

    held = files.write_native(tmp_path, "BF16", LAYER, EXPERTS)

    def make(**changes):
        moe = wrapper(tmp_path, "BF16", **changes)
        moe.load_weights()
        return moe

    return make, held
