import os

import pytest
from demo_home import demo_home, home_with_weights

__all__ = ["demo_home", "home_with_weights"]

os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(autouse=True)
def _one_torch_thread_pool():
    """Keeps torch from using every core of a shared machine."""
    import torch

    torch.set_num_threads(2)
