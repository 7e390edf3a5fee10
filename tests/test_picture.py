"""A plan's picture and reasons fit the terminal that shows them."""

from itertools import islice

import pytest

from kt_cli.ui.plan import WIDTH, Style, picture, reasons, style
from tests.golden.make import machines, plans

PLANS = [plan for _, plan in islice(plans(machines()["4090+2x6454s"]), 0, None, 6)]
EDGE = 2
"""Columns that a terminal has beyond a style's width."""


def shown(show, width: int) -> list[list[str]]:
    return [[str(line) for line in show(plan, Style(True, width, width))] for plan in PLANS]


@pytest.mark.parametrize("width", [70, 60, 44])
def test_a_narrow_picture_fits_and_loses_no_word(width: int) -> None:
    for narrow, wide in zip(shown(picture, width), shown(picture, 78), strict=True):
        assert max(map(len, narrow[1:])) <= width + EDGE
        words = [" ".join(x for x in lines if "▕" not in x).split() for lines in (narrow, wide)]
        assert words[0] == words[1]


def test_a_pipe_gets_the_whole_width(capsys: pytest.CaptureFixture[str]) -> None:
    assert style().width == WIDTH


@pytest.mark.parametrize("width", [78, 60])
def test_bars_and_reasons_fit(width: int) -> None:
    bars = [x for lines in shown(picture, width) for x in lines if "▕" in x]
    assert bars and max(map(len, bars)) <= width + EDGE
    assert max(len(x) for lines in shown(reasons, width) for x in lines) <= width + EDGE
