"""The only room that prints."""

from kt_cli.ui.gate import Painted, one_line, visible
from kt_cli.ui.out import Out, colours, human_bytes, table

__all__ = ["Out", "Painted", "colours", "human_bytes", "one_line", "table", "visible"]
