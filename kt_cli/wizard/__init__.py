"""Asks for what is undecided; see `run`."""

from __future__ import annotations

from kt_cli.wizard.run import Completed, Planner, complete, with_way_out

__all__ = ["Completed", "Planner", "complete", "with_way_out"]
