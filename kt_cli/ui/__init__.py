"""The only room that prints."""

from kt_cli.ui.out import Out, colours, human_bytes, table

__all__ = ["Out", "colours", "human_bytes", "table"]
