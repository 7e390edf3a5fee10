"""Operators that keep the module's own computation and change where and with what it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kt_cli.embedded.operators.base import BaseInjectedModule


class Delegate(BaseInjectedModule):
    """The module's own forward over children that other rules may have replaced.

    Attention and MoE blocks of transformers 5 already call their experts, router and linear layers
    through modules, so nothing else is needed to serve them with injected ones.
    """


class LayeredModel(Delegate):
    """A decoder spread over devices: layer n of `transfer_map` and those after it live there."""

    def __init__(
        self, *args: Any, transfer_map: Mapping[int, str] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.transfer_map = dict(transfer_map or {})
