"""Whether, and for how long, to try again: one tenacity policy for what crosses the network."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type
from tenacity.wait import wait_random_exponential

from tasks.errors import Unavailable

FIRST_WAIT = 0.25
LONGEST_WAIT = 10.0

Result = TypeVar("Result")


class Again(Exception):  # noqa: N818
    """What failed may succeed later. `after` is how many seconds the counterpart asked for."""

    def __init__(self, message: str, after: float = 0) -> None:
        super().__init__(message)
        self.after = after


@dataclass
class Deadline:
    """One deadline, in seconds from now on the monotonic clock, for all that is tried under it."""

    seconds: float
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        self._end = self.clock() + self.seconds

    @property
    def left(self) -> float:
        """Seconds left, 0 at the least."""
        return max(0.0, self._end - self.clock())

    def tried(self, what: str, operation: Callable[[], Result]) -> Result:
        """Return what `operation` returns.

        It is tried again, with backoff and jitter, while it raises Again and time is left. Raises
        Unavailable when there will be no time for another try, which is at once if the counterpart
        asks for more than is left; `what` names the operation there.
        """
        backoff = wait_random_exponential(FIRST_WAIT, LONGEST_WAIT)

        def pause(state: RetryCallState) -> float:
            return max(_asked_for(state), backoff(state))

        def hopeless(state: RetryCallState) -> bool:
            return state.upcoming_sleep >= self.left

        policy = Retrying(
            retry=retry_if_exception_type(Again),
            stop=hopeless,
            wait=pause,
            sleep=self.sleep,
            reraise=True,
        )
        try:
            return policy(operation)
        except Again as error:
            tries = policy.statistics["attempt_number"]
            raise Unavailable(
                f"{what}: {error} ({tries} tries, deadline {self.seconds:g} s)",
                hint="try again later; what is there already is not sent again",
            ) from error


def retry_after(value: str | None) -> float:
    """Return the seconds that a Retry-After header asks for, 0 without one (RFC 9110, 10.2.3)."""
    if not value:
        return 0
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return 0
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _asked_for(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    return error.after if isinstance(error, Again) else 0
