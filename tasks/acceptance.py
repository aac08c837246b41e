"""The release, tested from outside: the acceptance tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from invoke.tasks import task

from tasks import build, release
from tasks.stages import Stage

if TYPE_CHECKING:
    from tasks.engine.run import Run


@task(klass=Stage, pre=[build.base], builds="acceptance")
def image(run: Run) -> None:
    """Build the image of the acceptance tests."""
    run.images.build("acceptance")


@task(klass=Stage, pre=[image, release.start], default=True, receipt="acceptance")
def run(run: Run) -> None:
    """Run the acceptance tests against the release environment, through its front end."""
    counts = run.release_environment.accept()
    run.witness.acceptance(run.release_environment, counts)
