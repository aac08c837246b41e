"""Ready or not, in a time of our own: the clock moves when somebody sleeps, and never else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, pairwise, repeat
from typing import TypeVar

import pytest

from tasks.engine.readiness import FIRST_WAIT, LONGEST_WAIT, Answer, Ready, State, Wait
from tasks.errors import Failure, Interrupted, StageFailed, Unavailable

T = TypeVar("T")

YES = Answer(yes=True, text="1")
NO = Answer(yes=False, text="connection refused")
UP = State("db", "running", started_at="t1")
AGAIN = State("db", "running", started_at="t2", restarts=1)


@dataclass
class Time:
    """A clock that only moves when somebody sleeps, or when a question takes its time."""

    now: float = 1000.0
    naps: list[float] = field(default_factory=list)

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds


def told(*things: T) -> Callable[[], T]:
    """Return a function that gives one thing after the other, and then the last one for ever."""
    script: Iterator[T] = chain(things, repeat(things[-1]))
    return lambda: next(script)


def wait_for(
    time_: Time,
    ask: Callable[[], Answer],
    states: Callable[[], list[State]] = lambda: [UP],
    *,
    deadline: float = 10,
    confirmations: int = 1,
) -> Ready:
    return Wait(
        service="db",
        ask=ask,
        states=states,
        logs=lambda service: [f"log of {service}, line 1", "line 2"],
        deadline=deadline,
        confirmations=confirmations,
        clock=time_.clock,
        sleep=time_.sleep,
    ).until_ready()


def refused(
    time_: Time,
    ask: Callable[[], Answer],
    states: Callable[[], list[State]] = lambda: [UP],
    *,
    deadline: float = 10,
    confirmations: int = 1,
) -> StageFailed:
    with pytest.raises(StageFailed) as caught:
        wait_for(time_, ask, states, deadline=deadline, confirmations=confirmations)
    assert caught.value.exit_code == 1
    assert caught.value.hint
    return caught.value


# --- yes -----------------------------------------------------------------------------------------


def test_ready_at_once_costs_no_sleep() -> None:
    time_ = Time()
    assert wait_for(time_, told(YES)) == Ready(seconds=0.0, tries=1)
    assert time_.naps == []


def test_ready_after_some_tries_says_how_long_it_took() -> None:
    time_ = Time()
    ready = wait_for(time_, told(NO, NO, YES))
    assert ready.tries == 3
    assert ready.seconds == pytest.approx(sum(time_.naps))
    assert len(time_.naps) == 2


# --- when it is asked ----------------------------------------------------------------------------


def test_backoff_starts_at_50_ms_grows_and_is_capped() -> None:
    time_ = Time()
    refused(time_, told(NO), deadline=30)
    first, *_ = time_.naps
    assert FIRST_WAIT == 0.05
    assert 0.05 <= first <= 0.1
    assert max(time_.naps) <= LONGEST_WAIT
    for number, nap in enumerate(time_.naps[:-1]):  # the last is cut off by the deadline
        assert nap >= min(LONGEST_WAIT, FIRST_WAIT * 1.5**number)


def test_it_never_sleeps_beyond_the_deadline_and_asks_once_more_at_its_end() -> None:
    time_ = Time()
    failure = refused(time_, told(NO), deadline=1)
    assert time_.now == pytest.approx(1001.0)
    assert min(time_.naps) > 0
    assert f"(1.0 s of 1 s, {len(time_.naps) + 1} tries)" in failure.message


def test_the_last_moment_counts() -> None:
    time_ = Time()
    ready = wait_for(time_, lambda: YES if time_.now >= 1000.999 else NO, deadline=1)
    assert ready.seconds == pytest.approx(1.0)


def test_a_slow_question_uses_up_the_one_deadline() -> None:
    time_ = Time()

    def ask() -> Answer:
        time_.now += 4
        return NO

    failure = refused(time_, ask, deadline=10)
    assert "3 tries" in failure.message
    assert len(time_.naps) == 2


def test_confirmations_share_the_one_deadline() -> None:
    time_ = Time()

    def ask() -> Answer:
        time_.now += 4
        return YES if time_.now % 8 == 4 else NO  # yes, no, yes, no ...

    time_.now = 1000.0
    assert "s of 10 s, 2 tries" in refused(time_, ask, deadline=10, confirmations=2).message


def test_only_a_monotonic_clock_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    # A wall clock that goes back an hour at every look must change nothing.
    hours = iter(range(0, -(10**9), -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(hours)))
    naps: list[float] = []
    wait = Wait("db", told(NO, YES), lambda: [UP], lambda _: [], 60, sleep=naps.append)
    assert wait.clock is time.monotonic
    assert wait.until_ready().tries == 2
    assert 0.05 <= naps[0] <= 0.1


def test_it_really_sleeps_unless_told_otherwise() -> None:
    assert Wait("db", told(YES), lambda: [UP], lambda _: [], 60).sleep is time.sleep


# --- confirmations -------------------------------------------------------------------------------


def test_twice_in_a_row_is_asked_without_a_pause() -> None:
    time_ = Time()
    answers = iter([YES, YES])
    assert wait_for(time_, lambda: next(answers), confirmations=2) == Ready(0.0, tries=1)
    assert list(answers) == []


def test_yes_and_then_no_is_not_ready() -> None:
    time_ = Time()
    ready = wait_for(time_, told(YES, NO, YES, YES), confirmations=2)
    assert ready.tries == 2


def test_yes_alternating_with_no_is_never_ready() -> None:
    failure = refused(Time(), iter_answers(YES, NO), confirmations=2)
    assert "db was not ready in time" in failure.message


def iter_answers(*answers: Answer) -> Callable[[], Answer]:
    count = iter(range(10**9))
    return lambda: answers[next(count) % len(answers)]


@pytest.mark.parametrize(
    "states",
    [
        pytest.param([UP, AGAIN], id="before the first answer"),
        pytest.param([UP, UP, AGAIN], id="between the two answers"),
    ],
)
def test_another_start_between_the_answers_is_not_ready(states: list[State]) -> None:
    ready = wait_for(Time(), told(YES), told(*([state] for state in states)), confirmations=2)
    assert ready.tries == 2


def test_another_start_between_two_tries_is_fine() -> None:
    ready = wait_for(Time(), told(NO, YES, YES), told([UP], [UP], [AGAIN]), confirmations=2)
    assert ready.tries == 2


def test_one_that_starts_again_at_every_question_is_never_ready() -> None:
    starts = iter(range(10**9))
    failure = refused(
        Time(), told(YES), lambda: [State("db", "running", started_at=str(next(starts)))]
    )
    assert "db was started again while it was asked (10.0 s of 10 s" in failure.message


# --- no hope -------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["exited", "dead", "removing"])
def test_a_container_that_has_ended_fails_at_once(status: str) -> None:
    time_ = Time()
    asked: list[int] = []

    def ask() -> Answer:
        asked.append(1)
        return NO

    failure = refused(time_, ask, told([State("db", status, exit_code=137)]), deadline=60)
    assert (time_.naps, asked) == ([], [])
    assert failure.message == f"db will not get ready: db {status} 137 (0.0 s of 60 s, 1 tries)"
    assert "last answer: nothing" in failure.evidence


def test_one_that_ends_while_it_is_asked_fails_at_once() -> None:
    time_ = Time()
    failure = refused(time_, told(YES), told([UP], [State("db", "exited", 1, "t1")]))
    assert time_.naps == []
    assert "db will not get ready: db exited 1" in failure.message
    assert "last answer: 1" in failure.evidence


@pytest.mark.parametrize("status", ["running", "restarting", "created", "paused"])
def test_a_status_that_may_pass_is_waited_for(status: str) -> None:
    time_ = Time()
    ready = wait_for(time_, told(NO, YES), told([State("db", status, started_at="t1")], [UP]))
    assert ready.tries == 2


def test_one_restart_is_tolerated() -> None:
    assert wait_for(Time(), told(NO, YES), told([AGAIN])).tries == 2


def test_one_that_keeps_restarting_fails_at_once() -> None:
    time_ = Time()
    states = told([State("db", "running", 0, "t3", restarts=2)])
    failure = refused(time_, told(YES), states)
    assert time_.naps == []
    assert "db will not get ready: db running, started again 2 times" in failure.message


def test_the_dead_one_beside_it_is_named_and_its_log_shown() -> None:
    failure = refused(Time(), told(NO), told([UP, State("app", "exited", 3)]))
    assert failure.message.startswith("db will not get ready: app exited 3 (")
    assert "containers: db running, app exited 3" in failure.evidence
    assert "last log lines of app:" in failure.evidence
    assert "  log of app, line 1" in failure.evidence
    assert "log of app" in failure.hint


def test_a_living_one_beside_it_is_no_reason_to_fail() -> None:
    beside = State("app", "running", started_at="t9")
    assert wait_for(Time(), told(NO, YES), told([UP, beside])).tries == 2


def test_a_restart_of_the_one_beside_it_does_not_spoil_the_answer() -> None:
    starts = iter(range(10**9))
    ready = wait_for(
        Time(),
        told(YES),
        lambda: [UP, State("app", "running", started_at=str(next(starts)))],
        confirmations=2,
    )
    assert ready.tries == 1


# --- what it says --------------------------------------------------------------------------------


def test_the_message_says_all_that_is_known() -> None:
    failure = refused(Time(), told(Answer(yes=False, text=" refused \n")), deadline=2.5)
    assert failure.message.startswith("db was not ready in time (2.5 s of 2.5 s, ")
    assert failure.message.endswith(" tries)")
    assert failure.evidence == (
        "last answer: refused",
        "containers: db running",
        "last log lines of db:",
        "  log of db, line 1",
        "  line 2",
    )
    assert "_DEADLINE" in failure.hint


def test_the_last_answer_is_the_last_one() -> None:
    words = [Answer(yes=False, text=text) for text in ("first", "second", "")]
    assert "last answer: (none)" in refused(Time(), told(*words)).evidence
    assert "last answer: second" in refused(Time(), told(*words[:2])).evidence


# --- what is no answer at all --------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        Unavailable("the engine is gone"),
        StageFailed("the engine refused"),
        Interrupted(2, "SIGINT"),
        KeyError("State"),
        KeyboardInterrupt(),
    ],
    ids=repr,
)
@pytest.mark.parametrize("where", ["ask", "states"])
def test_other_errors_pass_through_and_are_not_retried(error: BaseException, where: str) -> None:
    time_ = Time()
    calls: list[str] = []

    def fail() -> Answer:
        calls.append(where)
        raise error

    def states() -> list[State]:
        if where == "states":
            fail()
        return [UP]

    with pytest.raises(type(error)) as caught:
        wait_for(time_, fail, states)
    assert caught.value is error
    assert (calls, time_.naps) == ([where], [])


def test_a_wait_can_be_had_again() -> None:
    time_ = Time()
    answers = told(NO, YES)
    wait = Wait("db", answers, lambda: [UP], lambda _: [], 10, clock=time_.clock, sleep=time_.sleep)
    assert [wait.until_ready().tries, wait.until_ready().tries] == [2, 1]


def test_jitter_keeps_two_waits_apart() -> None:
    naps: list[tuple[float, ...]] = []
    for _ in range(2):
        time_ = Time()
        refused(time_, told(NO), deadline=1)
        naps.append(tuple(time_.naps))
    assert all(one != other for one, other in pairwise(naps))


def test_what_it_raises_is_a_failure_a_user_can_act_on() -> None:
    assert isinstance(refused(Time(), told(NO)), Failure)
