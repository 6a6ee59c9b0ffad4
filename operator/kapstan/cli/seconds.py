"""The type of options that are a time in seconds."""

from __future__ import annotations

import math
from typing import Any

import click


class Seconds(click.ParamType[float]):
    """A number of seconds, 0 or more and not endless: ``nan`` and ``inf`` are numbers to Python."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not math.isfinite(seconds) or seconds < 0:
            self.fail(f"{value!r}: give a number of seconds, 0 or more", param, ctx)
        return seconds


SECONDS = Seconds()
