"""The OpenAI-compatible server of the embedded engine: Starlette over any `Engine`."""

from kt_cli.embedded.server.app import create_app
from kt_cli.embedded.server.state import Limits, State

__all__ = ["Limits", "State", "create_app"]
