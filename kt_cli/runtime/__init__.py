"""Acts: starts servers under supervisors, follows, lists and stops them."""

from kt_cli.runtime.control import (
    Usage,
    ask_to_stop,
    check_name,
    check_port,
    find,
    follow,
    logs,
    new_api_key,
    processes,
    start,
    stop,
    usage,
)
from kt_cli.runtime.health import Load
from kt_cli.runtime.losses import Unwritten
from kt_cli.runtime.register import Server, api_key, servers

__all__ = [
    "Load",
    "Server",
    "Unwritten",
    "Usage",
    "api_key",
    "ask_to_stop",
    "check_name",
    "check_port",
    "find",
    "follow",
    "logs",
    "new_api_key",
    "processes",
    "servers",
    "start",
    "stop",
    "usage",
]
