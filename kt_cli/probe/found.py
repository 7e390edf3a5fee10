"""What looking for one vendor's accelerators gave."""

from __future__ import annotations

from dataclasses import dataclass

from kt_cli.core.machine import Gpu


@dataclass(frozen=True, slots=True)
class Found:
    gpus: tuple[Gpu, ...] = ()
    driver: str = ""
    cuda: str = ""
    problems: tuple[str, ...] = ()

    def __add__(self, other: Found) -> Found:
        return Found(
            self.gpus + other.gpus,
            self.driver or other.driver,
            self.cuda or other.cuda,
            self.problems + other.problems,
        )
