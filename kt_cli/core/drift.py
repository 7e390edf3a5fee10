"""Plans as versioned JSON, refused where what they were made for has changed."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from kt_cli.core.machine import Machine
from kt_cli.core.model import Model
from kt_cli.core.plan import PLAN_VERSION, Plan
from kt_cli.core.serial import ShapeError, from_plain, to_plain
from kt_cli.core.units import gb
from kt_cli.options import RunOptions
from kt_cli.opts import shown_argv

IGNORED = ("model", "host", "port", "name", "api_key", "force", "served_model_name")
"""Options that change nothing a plan was solved for."""


def fingerprint(machine: Machine, model: Model, options: RunOptions) -> dict[str, str]:
    """What must be the same for a replay, in words where a person may compare them."""
    gpus = ", ".join(f"{g.name} {gb(g.memory)}" for g in machine.gpus)
    return {
        "CPU": machine.cpu.model,
        "cores": str(machine.cpu.physical_cores),
        "instruction sets": _digest(sorted(machine.cpu.isa)),
        "NUMA nodes": ",".join(str(n.id) for n in machine.worker_nodes),
        "RAM": gb(machine.memory.usable),
        "GPUs": gpus or "none",
        "model": _digest(_shape(model)),
        "options": asked(options),
    }


def asked(options: RunOptions) -> str:
    """The flags that shape a plan, as a command line."""
    defaults = {f.name: f.default for f in fields(options)}
    plain: dict[str, Any] = {name: defaults[name] for name in IGNORED}
    return shlex.join(shown_argv(replace(options, **plain)))


def _shape(model: Model) -> Any:
    plain = to_plain(model)
    return {k: plain.get(k) for k in ("architecture", "bytes", "experts", "attention", "context")}


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_drift(
    plan: Plan, machine: Machine, model: Model, options: RunOptions | None = None
) -> tuple[str, ...]:
    """One sentence for each thing that is no longer as planned; empty when the plan holds.

    `options` are those given beside the plan; none at all repeat the plan's own.
    """
    if plan.version != PLAN_VERSION:
        return (f"the plan has version {plan.version}, this kt reads {PLAN_VERSION}",)
    now = fingerprint(machine, model, options or RunOptions())
    if not now["options"]:
        now["options"] = plan.fingerprint.get("options", "")
    before = plan.fingerprint
    changed = (name for name, value in now.items() if before.get(name) != value)
    return tuple(_told(name, before.get(name), now[name]) for name in changed)


def _told(name: str, before: str | None, now: str) -> str:
    if name in ("model", "instruction sets"):
        return f"the {name} changed"
    was, is_ = ("were", "are") if name.endswith("s") else ("was", "is")
    return f"{name} {was} {before or 'none'}, {is_} {now or 'none'}"


# JSON


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """Plain data that keeps decisions whose value is None."""
    plain: dict[str, Any] = to_plain(plan)
    decisions = zip(plain["decisions"], plan.decisions, strict=True)
    plain["decisions"] = [{**told, "value": to_plain(d.value)} for told, d in decisions]
    return plain


def plan_from_json(data: Mapping[str, Any]) -> Plan:
    """Raises ShapeError; keys that a command added beside the plan's own are left aside."""
    own = {name: data[name] for name in Plan.__dataclass_fields__ if name in data}
    missing = {"model", "pools", "decisions", "fingerprint"} - set(own)
    if missing:
        raise ShapeError(f"it has no {sorted(missing)[0]!r}")
    plan = from_plain(Plan, own)
    decisions = tuple(replace(d, value=_tuples(d.value)) for d in plan.decisions)
    return replace(plan, decisions=decisions)


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
