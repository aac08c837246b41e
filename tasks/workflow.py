"""The workflow as a whole, and the way back to nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from invoke.tasks import task

from tasks import acceptance as acceptance_tests
from tasks import test
from tasks.stages import Plan, Removal, Stage

if TYPE_CHECKING:
    from tasks.engine.run import Run


@task(klass=Stage, pre=[test.everything, acceptance_tests.run])
def acceptance(run: Run) -> None:
    """Take the application from source to an acceptance-tested release image: all of the above."""
    run.accepted()


@task(klass=Plan)
def plan(_: Run) -> None:
    """Show what the tasks named after it would run, what they would skip, and why."""


@task(klass=Removal)
def clean(run: Run) -> None:
    """Remove all that this checkout made on the engine, and target/."""
    run.clean()
