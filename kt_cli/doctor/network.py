"""The model hub and the clock."""

from __future__ import annotations

from collections.abc import Iterator

from kt_cli.core.machine import Machine
from kt_cli.doctor.facts import Facts, Hub
from kt_cli.doctor.finding import Finding, info, ok, warning

TOLERANCE_S = 300.0


def check(machine: Machine, facts: Facts) -> Iterator[Finding]:
    if facts.hub is not None:
        yield _hub(facts.hub)
    yield from _clock(facts)


def _hub(hub: Hub) -> Finding:
    if hub.offline:
        return info(
            "hub",
            f"the model hub {hub.endpoint} was not reached",
            why=f"{hub.problem}: local models and the demo's files work, downloads do not",
            fix="set HTTPS_PROXY or HF_ENDPOINT (a mirror) if you want downloads",
        )
    if hub.problem:
        return warning(
            "hub",
            f"the model hub {hub.endpoint} refuses: {hub.problem}",
            why="downloads will fail",
            fix="check HF_ENDPOINT, HF_TOKEN and the proxy",
        )
    return ok("hub", f"the model hub {hub.endpoint} answers")


def _clock(facts: Facts) -> Iterator[Finding]:
    ahead = facts.hub.clock_ahead if facts.hub else None
    if ahead is None and facts.now and facts.now < facts.installed - TOLERANCE_S:
        ahead = facts.now - facts.installed
    if ahead is not None and abs(ahead) > TOLERANCE_S:
        side = "ahead" if ahead > 0 else "behind"
        yield warning(
            "clock",
            f"the clock is {abs(ahead) / 60:.0f} minutes {side}",
            why="certificates and signed download links are refused as expired or not yet valid",
            fix="run `sudo timedatectl set-ntp true`",
        )
