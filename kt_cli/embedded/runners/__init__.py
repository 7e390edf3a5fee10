"""Runners: how a step of jobs becomes logits."""

from kt_cli.embedded.runners.base import Runner
from kt_cli.embedded.runners.general import GeneralRunner
from kt_cli.embedded.runners.pooled import PooledRunner

__all__ = ["GeneralRunner", "PooledRunner", "Runner"]
