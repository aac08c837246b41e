"""Tried again or not, in a time of our own: the clock moves when somebody sleeps, never else."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from tasks.engine.retries import FIRST_WAIT, LONGEST_WAIT, Again, Deadline, retry_after
from tasks.errors import (
    Failure,
    Interrupted,
    Misconfigured,
    NotAuthorised,
    StageFailed,
    Unavailable,
)

BUSY = Again("it answers 503")


@dataclass
class Time:
    """A clock that only moves when somebody sleeps, or when an operation takes its time."""

    now: float = 1000.0
    naps: list[float] = field(default_factory=list)

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds


@dataclass
class Operation:
    """An operation that fails as told, each time it is tried, then succeeds; `takes` seconds."""

    time: Time
    failures: list[BaseException]
    takes: float = 0
    tries: int = 0

    def __call__(self) -> str:
        self.tries += 1
        self.time.now += self.takes
        if self.failures:
            raise self.failures.pop(0)
        return "done"


@pytest.fixture
def moment() -> Time:
    return Time()


@pytest.fixture
def within(moment: Time) -> Callable[[float], Deadline]:
    return lambda seconds: Deadline(seconds, clock=moment.clock, sleep=moment.sleep)


Within = Callable[[float], Deadline]


def test_what_succeeds_is_tried_once(moment: Time, within: Within) -> None:
    operation = Operation(moment, [])
    assert within(10).tried("push", operation) == "done"
    assert operation.tries == 1
    assert moment.naps == []


def test_what_may_succeed_later_is_tried_again(moment: Time, within: Within) -> None:
    operation = Operation(moment, [BUSY, Again("reset"), BUSY])
    assert within(100).tried("push", operation) == "done"
    assert operation.tries == 4
    assert len(moment.naps) == 3


def test_the_waits_grow_and_have_a_bound(moment: Time, within: Within) -> None:
    operation = Operation(moment, [BUSY] * 200)
    within(100_000).tried("push", operation)
    windows = [min(LONGEST_WAIT, FIRST_WAIT * 2**number) for number in range(200)]
    assert all(0 <= nap <= window for nap, window in zip(moment.naps, windows, strict=True))
    # jitter: no two runs that fail together come back together
    assert len(set(moment.naps)) > 100
    assert max(moment.naps) > LONGEST_WAIT / 2


def test_the_deadline_ends_it(moment: Time, within: Within) -> None:
    operation = Operation(moment, [BUSY] * 1000, takes=0.5)
    with pytest.raises(Unavailable) as caught:
        within(30).tried("push to registry:5000", operation)
    assert caught.value.exit_code == 69
    tries = operation.tries
    assert tries > 2
    assert caught.value.message == (
        f"push to registry:5000: it answers 503 ({tries} tries, deadline 30 s)"
    )
    assert "what is there already is not sent again" in caught.value.hint
    # no try is begun that would have no time; none of the time is wasted but the last wait
    assert 1030 - LONGEST_WAIT <= moment.now <= 1030.5


def test_what_takes_longer_than_the_deadline_is_not_tried_again(
    moment: Time, within: Within
) -> None:
    operation = Operation(moment, [BUSY, BUSY], takes=40)
    with pytest.raises(Unavailable, match=r"\(1 tries, deadline 30 s\)"):
        within(30).tried("push", operation)
    assert operation.tries == 1


def test_all_operations_share_one_deadline(moment: Time, within: Within) -> None:
    deadline = within(10)
    moment.now += 4
    assert deadline.left == pytest.approx(6)
    assert deadline.tried("one", Operation(moment, [], takes=5)) == "done"
    assert deadline.left == pytest.approx(1)
    with pytest.raises(Unavailable):
        deadline.tried("two", Operation(moment, [BUSY] * 100, takes=1))
    assert deadline.left == 0


def test_after_the_deadline_what_succeeds_at_once_still_does(moment: Time, within: Within) -> None:
    deadline = within(1)
    moment.now += 5
    assert deadline.tried("push", Operation(moment, [])) == "done"


@pytest.mark.parametrize(
    "error",
    [
        StageFailed("refused"),
        NotAuthorised("401"),
        Misconfigured("no"),
        Unavailable("the certificate cannot be trusted"),
        Interrupted(2, "SIGINT"),
        ValueError("a bug"),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_nothing_else_is_tried_again(moment: Time, within: Within, error: BaseException) -> None:
    operation = Operation(moment, [error])
    with pytest.raises(type(error)) as caught:
        within(10).tried("push", operation)
    assert caught.value is error
    assert operation.tries == 1
    assert moment.naps == []


def test_a_refusal_after_a_retry_ends_it(moment: Time, within: Within) -> None:
    operation = Operation(moment, [BUSY, NotAuthorised("403"), BUSY])
    with pytest.raises(NotAuthorised):
        within(10).tried("push", operation)
    assert operation.tries == 2


# --- when the counterpart says how long ----------------------------------------------------------


def test_as_long_as_the_counterpart_asks_for(moment: Time, within: Within) -> None:
    operation = Operation(moment, [Again("too many requests", after=7)])
    assert within(10).tried("push", operation) == "done"
    assert moment.naps == [pytest.approx(7)]


def test_not_if_it_asks_for_more_than_is_left(moment: Time, within: Within) -> None:
    operation = Operation(moment, [Again("too many requests", after=11)])
    with pytest.raises(Unavailable) as caught:
        within(10).tried("read index", operation)
    assert caught.value.message == "read index: too many requests (1 tries, deadline 10 s)"
    # at once: to wait until the deadline for nothing helps nobody
    assert moment.naps == []


def test_what_it_asks_for_is_held_against_what_is_left_by_then(
    moment: Time, within: Within
) -> None:
    busy = [Again("too many requests", after=6), Again("too many requests", after=6)]
    with pytest.raises(Unavailable, match="2 tries"):
        within(10).tried("push", Operation(moment, [*busy]))
    assert moment.naps == [pytest.approx(6)]


def test_a_request_for_no_time_is_none(moment: Time, within: Within) -> None:
    operation = Operation(moment, [Again("too many requests", after=0)])
    within(10).tried("push", operation)
    assert 0 <= moment.naps[0] <= FIRST_WAIT


def test_on_the_real_clock() -> None:
    # a deadline is of the monotonic clock: that of the wall may be set back and forth
    deadline = Deadline(1000)
    assert deadline.clock is time.monotonic
    assert 0 < deadline.left <= 1000
    failures: list[BaseException] = [BUSY]

    def operation() -> int:
        if failures:
            raise failures.pop()
        return 42

    assert deadline.tried("push", operation) == 42


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0),
        ("", 0),
        ("0", 0),
        ("120", 120),
        ("-5", 0),
        ("1.5", 0),
        ("soon", 0),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0),
        ("²", 0),
        ("Wed, 99 Foo 2099 00:00:00 GMT", 0),
        ("Fri, 31 Dec 1999 23:59:59 -0000", 0),
        ("Fri, 31 Dec 1999 23:59:59", 0),
        ("Fri, 31 Dec 99999999999999999999 23:59:59 GMT", 0),
    ],
)
def test_the_header_in_seconds(header: str | None, seconds: float) -> None:
    assert retry_after(header) == seconds


def test_the_header_as_a_date() -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    assert 3500 < retry_after(format_datetime(later, usegmt=True)) <= 3600


def test_a_failure_is_what_a_user_sees(within: Within, moment: Time) -> None:
    with pytest.raises(Failure) as caught:
        within(1).tried("push", Operation(moment, [BUSY] * 100, takes=1))
    assert isinstance(caught.value.__cause__, Again)
