"""Failures a user can act on: what happened, the evidence, what to do, the exit code.

Whoever finds the cause raises one of these; the console shows it once and the process ends with
its code. Everything else that escapes is a bug in the collection. This module imports nothing of
the collection.
"""

from __future__ import annotations

from collections.abc import Sequence


class Failure(Exception):  # noqa: N818  (the word of the contract: a stage *failed*)
    """Something a user can cause or fix.

    `message` says what happened in one sentence, `evidence` are the lines that show it (a log's
    last lines, for instance), `hint` says what to do about it.
    """

    exit_code = 1

    def __init__(self, message: str, *, evidence: Sequence[str] = (), hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.evidence = tuple(evidence)
        self.hint = hint
        self.shown = False  # whether the user has seen it


class StageFailed(Failure):
    """A stage did its work and the verdict is no."""


class UsageError(Failure):
    """The command line asks for something that does not exist."""

    exit_code = 2


class Unavailable(Failure):
    """A dependency (engine, registry, index, port, network) cannot be had: EX_UNAVAILABLE."""

    exit_code = 69


class DiskFailure(Failure):
    """Disk full, or another input/output error: EX_IOERR."""

    exit_code = 74


class Busy(Failure):
    """Somebody else is at work here; the same command may succeed later: EX_TEMPFAIL."""

    exit_code = 75


class NotAuthorised(Failure):
    """The counterpart knows us not, or does not allow it: EX_NOPERM."""

    exit_code = 77


class Misconfigured(Failure):
    """Settings, compose file or checkout are wrong: EX_CONFIG."""

    exit_code = 78


class Interrupted(Failure):
    """A signal asked the run to end; the exit code is 128 + its number."""

    def __init__(self, signal_number: int, name: str) -> None:
        super().__init__(f"interrupted by {name}")
        self.exit_code = 128 + signal_number
