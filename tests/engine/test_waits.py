from __future__ import annotations

import contextlib
import time

import pytest

from tasks.engine.console import Console
from tasks.engine.waits import Waits


def test_a_wait_lasts_as_long_as_its_block_and_is_of_the_stage_at_hand() -> None:
    waits = Waits("engine")
    began = time.time()
    with Console().stage("release.db"), waits.on():
        time.sleep(0.02)
    (wait,) = waits.intervals
    assert began <= wait.began
    assert wait.began + 0.02 <= wait.ended <= time.time()
    assert (wait.whom, wait.stage) == ("engine", "release.db")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_one_that_fails_is_noted_too(error: type[BaseException]) -> None:
    waits = Waits("command")
    with contextlib.suppress(error), waits.on():
        raise error
    assert [(wait.whom, wait.stage) for wait in waits.intervals] == [("command", "")]
