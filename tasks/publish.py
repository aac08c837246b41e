"""What was accepted, for others to have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from invoke.tasks import task

from tasks.stages import Question

if TYPE_CHECKING:
    from tasks.engine.run import Run


@task(klass=Question, default=True)
def candidate(run: Run) -> None:
    """Print what could be published: the image that passed its acceptance tests, if any did."""
    run.console.result(run.candidate())
