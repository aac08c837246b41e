"""The application's own tests, in an environment of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from invoke.tasks import task

from tasks import build
from tasks.stages import Stage

if TYPE_CHECKING:
    from tasks.engine.run import Run


@task(klass=Stage, pre=[build.base], builds="tests")
def image(run: Run) -> None:
    """Build the image that holds the application's source and its tests."""
    run.images.build("tests")


@task(klass=Stage, pre=[build.services])
def db(run: Run) -> None:
    """Start the database of the test environment and wait until it is ready."""
    run.test_environment.start_database()


@task(klass=Stage, pre=[image], receipt="unit")
def unit(run: Run) -> None:
    """Run the unit tests, without a database."""
    counts = run.test_environment.run_tests("unit")
    run.witness.tests("unit", run.test_environment, counts)


@task(klass=Stage, pre=[image, db], receipt="integration")
def integration(run: Run) -> None:
    """Run the integration tests against the real database."""
    counts = run.test_environment.run_tests("integration")
    run.witness.tests("integration", run.test_environment, counts)


@task(klass=Stage, pre=[unit, integration], default=True, name="all")
def everything(_: Run) -> None:
    """Run all tests of the application."""
