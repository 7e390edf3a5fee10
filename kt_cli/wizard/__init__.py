"""Asks for what is undecided; see `run`."""

from __future__ import annotations

from kt_cli.wizard.run import Asker, Completed, Planner, complete

__all__ = ["Asker", "Completed", "Planner", "complete"]
