"""From source to the artifact: the wheels, and the images that others stand on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from invoke.tasks import task

from tasks.stages import Stage

if TYPE_CHECKING:
    from tasks.engine.run import Run


@task(klass=Stage)
def base(run: Run) -> None:
    """Make the base image: it is there, or pulled, or bootstrapped from Debian packages."""
    run.images.base()


@task(klass=Stage, pre=[base], builds="services")
def services(run: Run) -> None:
    """Build the images that the application runs beside: database and front end."""
    run.images.build("services")


@task(klass=Stage, pre=[base], default=True, receipt="wheels", builds="wheelhouse")
def wheels(run: Run) -> None:
    """Build the application's wheel and collect its dependencies, in target/wheelhouse."""
    run.images.wheels()
    run.witness.wheels(run.images.base_id())
