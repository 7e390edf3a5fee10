import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(autouse=True)
def _one_torch_thread_pool():
    """Keeps torch from using every core of a shared machine."""
    import torch

    torch.set_num_threads(2)
