"""Errors that a person reads, and the exit codes that scripts read.

KtError                 1    something went wrong
├── UsageError          2    a wrong flag, value or combination
├── NotFoundError       3    a model, server, file or key that is not there
├── AuthError           4    a key or a permission is missing
├── DoesNotFitError     5    the plan needs more than this machine has
├── EnvironmentBroken   6    a package, driver or engine is missing or broken
├── TransferError       7    a download failed or its content is wrong
└── NotReadyError       8    a server is not (or no longer) ready
"""

from __future__ import annotations

INTERRUPTED = 130


class KtError(Exception):
    """What happened, why, and what to do about it, each one short sentence without a full stop."""

    exit_code = 1

    def __init__(self, what: str, why: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.fix = fix

    def __reduce__(self) -> tuple[type[KtError], tuple[str, str, str]]:
        return type(self), (self.what, self.why, self.fix)


class UsageError(KtError):
    exit_code = 2


class NotFoundError(KtError):
    exit_code = 3


class AuthError(KtError):
    exit_code = 4


class DoesNotFitError(KtError):
    exit_code = 5


class EnvironmentBroken(KtError):
    exit_code = 6


class TransferError(KtError):
    exit_code = 7


class NotReadyError(KtError):
    exit_code = 8
