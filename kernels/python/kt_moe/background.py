"""Calls in the background, known by their tickets.

The compiled module keeps the experts and the arrays of such a call alive until it is done, whether
or not anybody waits.
"""

from __future__ import annotations

from kt_moe._native import core


def wait_for_all(tickets: list[int]) -> list[Exception]:
    """Waits for each call and takes it off the list; what those that failed have raised.

    After an interrupt the list still has those that nobody has waited for."""
    errors: list[Exception] = []
    for ticket in tuple(tickets):
        try:
            core().wait(ticket)
        except Exception as error:
            errors.append(error)
        tickets.remove(ticket)
    return errors
