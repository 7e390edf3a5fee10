"""Operators, and the base classes for operators of your own.

from kt_cli.embedded.operators import BaseInjectedModule, KLinearBase
"""

from kt_cli.embedded.operators.base import BaseInjectedModule, load_module
from kt_cli.embedded.operators.linear import KLinearBase, Linear

__all__ = ["BaseInjectedModule", "KLinearBase", "Linear", "load_module"]
