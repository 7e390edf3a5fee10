"""NVML, one function at a time: what a driver, a card or an old binding lacks is unknown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from kt_cli.probe import answers
from kt_cli.probe.host import Host

NOT_SUPPORTED = "Not Supported"
"""How NVML says that a card has no such thing, as against not telling it now."""


class Answer(NamedTuple):
    value: Any = None
    problem: str = ""
    """Why there is no value."""


class Memory(NamedTuple):
    total: int
    free: int
    unified: bool = False
    """The card has no memory of its own: it works in the system's."""


class Nvml:
    def __init__(self, library: Any) -> None:
        self._library = library

    def ask(self, name: str, *arguments: Any) -> Answer:
        """Never raises: a binding may lack the function, and a driver may fail in any way."""
        function = getattr(self._library, name, None)
        if function is None:
            return Answer(None, f"this version of the NVML binding has no {name}")
        try:
            return Answer(function(*arguments))
        except Exception as error:
            return Answer(None, str(error) or type(error).__name__)

    def text(self, name: str, *arguments: Any) -> str:
        return answers.text(self.ask(name, *arguments).value)

    def number(self, name: str, *arguments: Any) -> int | None:
        return answers.number(self.ask(name, *arguments).value)

    def memory(self, handle: Any) -> Memory | None:
        """None where the driver does not tell."""
        said = self.ask("nvmlDeviceGetMemoryInfo", handle)
        if NOT_SUPPORTED in said.problem:
            return Memory(0, 0, unified=True)
        total = answers.number(getattr(said.value, "total", None))
        free = answers.number(getattr(said.value, "free", None))
        return None if total is None else Memory(total, min(total, total if free is None else free))

    def handles(self) -> Iterator[tuple[int, Answer]]:
        for position in range(min(self.number("nvmlDeviceGetCount") or 0, MOST_CARDS)):
            yield position, self.ask("nvmlDeviceGetHandleByIndex", position)


MOST_CARDS = 64


@contextmanager
def opened(host: Host) -> Iterator[Nvml | str]:
    """NVML ready to be asked, or why it cannot be."""
    try:
        nvml = Nvml(host.nvml())
    except Exception as error:
        missing = isinstance(error, ImportError)
        why = "is not installed" if missing else f"does not load ({error})"
        yield f"`nvidia-ml-py` {why}, so GPUs cannot be read"
        return
    if problem := nvml.ask("nvmlInit").problem:
        yield f"the NVIDIA driver does not answer: {problem}"
        return
    try:
        yield nvml
    finally:
        nvml.ask("nvmlShutdown")
