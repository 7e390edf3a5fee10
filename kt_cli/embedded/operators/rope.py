"""Rotary embeddings: their tables are computed when the model is loaded, on the module's device."""

from __future__ import annotations

import torch

from kt_cli.embedded.operators.base import BaseInjectedModule


class Rotary(BaseInjectedModule):
    """The rotary embedding of the model with tables made for real.

    The skeleton is built without memory, so its tables are empty: the module is made again here,
    from its configuration, which also covers scaled variants such as YaRN.
    """

    def load(self) -> None:
        if self.orig_module is None:
            return
        config = getattr(self.orig_module, "config", self.config)
        with torch.device(self.device):
            self.orig_module = type(self.orig_module)(config=config)
