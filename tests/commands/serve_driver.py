"""The serving half of `kt run`, with a LaunchSpec given as JSON instead of a plan."""

from __future__ import annotations

import json
import sys

import typer

from kt_cli.command import context
from kt_cli.core.launch import LaunchSpec
from kt_cli.core.serial import from_plain
from kt_cli.errors import KtError
from kt_cli.options import CommonOptions
from kt_cli.workflow.follow import Served, serve

spec = from_plain(LaunchSpec, json.loads(sys.argv[1]))
ctx = context(CommonOptions(json="--json" in sys.argv))
try:
    serve(Served(spec, "m"), ctx, "-d" in sys.argv)
except KtError as error:
    ctx.out.error(error)
    sys.exit(error.exit_code)
except typer.Exit as end:
    sys.exit(end.exit_code)
