"""When a run waits for others, commands or the engine. What is left is time of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from tasks.engine.console import current_stage


class Interval(NamedTuple):
    """From when to when (in seconds since 1970) which stage waited, and for whom."""

    began: float
    ended: float
    whom: str
    stage: str


class Waits:
    """The waits for one other, `whom`; threads may wait side by side."""

    def __init__(self, whom: str) -> None:
        self._whom = whom
        self.intervals: list[Interval] = []

    @contextmanager
    def on(self) -> Iterator[None]:
        """Note a wait that lasts as long as the block."""
        began = time.time()
        try:
            yield
        finally:
            self.intervals.append(Interval(began, time.time(), self._whom, current_stage()))
