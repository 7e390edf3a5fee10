"""A file as its errors name it, and values from outside as messages show them."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass

from kt_cli.errors import KtError, TransferError

_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Source:
    """`fix` says what helps when the content is wrong, `error` of which kind that is."""

    name: str
    fix: str = "download it again"
    error: type[KtError] = TransferError

    def wrong(self, why: str) -> KtError:
        return self.error(f"cannot read {self.name}", why, self.fix)


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = _SHOWN
        self.maxlist = self.maxtuple = self.maxdict = 4

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to print integers of more than 4,300 digits.
        return str(x) if x.bit_length() <= 64 else f"<an integer of {x.bit_length()} bits>"


_short = _Short()


def shown(value: object) -> str:
    """A value in a message: one line without control characters, cut where it is long."""
    return _short.repr(value)
