"""Ready or not: one question asked again and again, with one deadline.

*When* to ask is a tenacity policy: exponential backoff with jitter from 50 ms up, never beyond the
time that is left. *Whether* to ask again is decided here: a service that is starting is worth a
retry; one whose container has exited or keeps restarting is not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tenacity import RetryCallState, Retrying, retry_if_exception_type
from tenacity.wait import wait_exponential_jitter

from tasks.errors import StageFailed

FIRST_WAIT = 0.05
LONGEST_WAIT = 0.4
RESTARTS_ALLOWED = 1  # a service may start once more while it initialises


@dataclass(frozen=True)
class Answer:
    """What a probe came back with: yes or no, and its words."""

    yes: bool
    text: str


@dataclass(frozen=True)
class State:
    """What the engine says of a container.

    Its status ("running", "exited", ...), exit code, when it was started last (which identifies
    a start), and how often the engine started it again.
    """

    service: str
    status: str
    exit_code: int = 0
    started_at: str = ""
    restarts: int = 0

    def __str__(self) -> str:
        ended = self.status not in {"running", "created", "restarting"}
        code = f" {self.exit_code}" if ended else ""
        again = f", started again {self.restarts} times" if self.restarts else ""
        return f"{self.service} {self.status}{code}{again}"

    @property
    def hopeless(self) -> bool:
        """Whether asking on makes no sense: it has exited, or it keeps restarting."""
        return self.status in {"exited", "dead", "removing"} or self.restarts > RESTARTS_ALLOWED


@dataclass(frozen=True)
class Ready:
    """How long it took, in seconds, and how many questions."""

    seconds: float
    tries: int


class NotYet(Exception):  # noqa: N818
    """The answer was no; worth another try."""


class Hopeless(Exception):  # noqa: N818
    """A container is in a state in which no answer will come."""


@dataclass
class Wait:
    """A wait for one service to get ready.

    `ask` puts the question; `states` tells of all containers that the answer depends on, the
    service's own first; `logs` gives the last lines of the container of a service. `confirmations`
    is how many times in a row yes must be the answer, by the same start of the container.
    `deadline` is in seconds. `clock` (monotonic) and `sleep` are there for the tests.
    """

    service: str
    ask: Callable[[], Answer]
    states: Callable[[], list[State]]
    logs: Callable[[str], list[str]]
    deadline: float
    confirmations: int = 1
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _began: float = field(default=0, init=False)
    _last: Answer = field(default=Answer(yes=False, text="nothing"), init=False)
    _states: list[State] = field(default_factory=list, init=False)

    def until_ready(self) -> Ready:
        """Return when the service is ready.

        Raises StageFailed at the deadline, or as soon as a container cannot get ready any more;
        its message names service, time, tries, the last answer, and the state of the container.
        """
        self._began = self.clock()
        policy = Retrying(
            retry=retry_if_exception_type(NotYet),
            stop=self._out_of_time,
            wait=self._pause,
            sleep=self.sleep,
            reraise=True,
        )
        tries = 0
        try:
            for attempt in policy:
                with attempt:
                    tries += 1
                    self._try()
        except (NotYet, Hopeless) as error:
            raise self._failure(str(error), tries) from None
        return Ready(self._elapsed(), tries)

    def _try(self) -> None:
        started = {self._checked_states()[0].started_at}
        for _ in range(self.confirmations):
            self._last = self.ask()
            started.add(self._checked_states()[0].started_at)
            if not self._last.yes:
                raise NotYet("was not ready in time")
            if len(started) > 1:
                raise NotYet("was started again while it was asked")

    def _checked_states(self) -> list[State]:
        self._states = self.states()
        for state in self._states:
            if state.hopeless:
                raise Hopeless(f"will not get ready: {state}")
        return self._states

    def _elapsed(self) -> float:
        return self.clock() - self._began

    def _out_of_time(self, _: RetryCallState) -> bool:
        return self._elapsed() >= self.deadline

    def _pause(self, state: RetryCallState) -> float:
        backoff = wait_exponential_jitter(
            multiplier=FIRST_WAIT, max=LONGEST_WAIT, exp_base=1.5, jitter=FIRST_WAIT
        )
        return max(0.0, min(backoff(state), self.deadline - self._elapsed()))

    def _failure(self, why: str, tries: int) -> StageFailed:
        culprit = next((s.service for s in self._states if s.hopeless), self.service)
        return StageFailed(
            f"{self.service} {why} ({self._elapsed():.1f} s of {self.deadline:g} s, {tries} tries)",
            evidence=[
                f"last answer: {self._last.text.strip() or '(none)'}",
                f"containers: {', '.join(map(str, self._states))}",
                f"last log lines of {culprit}:",
                *(f"  {line}" for line in self.logs(culprit)),
            ],
            hint=f"the log of {culprit} tells why; a longer deadline is a setting (*_DEADLINE)",
        )
