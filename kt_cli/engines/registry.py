"""The engines there are: one file each beside this one, with an `ENGINE`."""

from __future__ import annotations

import importlib

from kt_cli.core.machine import Machine
from kt_cli.discovery import engine_names
from kt_cli.engines.serving import Serving
from kt_cli.errors import NotFoundError


def engines() -> tuple[Serving, ...]:
    """In order of preference."""
    return tuple(map(get, engine_names()))


def judged(machine: Machine) -> Machine:
    """The machine as a plan should see it: an engine that cannot serve has that as its problem."""
    for engine in engines():
        machine = engine.judged(machine)
    return machine


def get(name: str) -> Serving:
    """Raises NotFoundError for a name that no file has."""
    known = engine_names()
    if name not in known:
        raise NotFoundError(f"no engine is called {name!r}", "", f"there are {', '.join(known)}")
    engine: Serving = importlib.import_module(f"kt_cli.engines.{name}").ENGINE
    return engine
