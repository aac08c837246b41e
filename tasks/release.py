"""From the artifact to a running release."""

from __future__ import annotations

from typing import TYPE_CHECKING

from invoke.tasks import task

from tasks import build
from tasks.stages import Question, Removal, Stage

if TYPE_CHECKING:
    from tasks.engine.run import Run


@task(klass=Question)
def settings(run: Run) -> None:
    """Print every setting, its value and where it comes from."""
    for origin in run.settings.explain():
        run.console.result(f"{origin.key}={origin.value_shown}  # {origin.source}")


@task(klass=Stage, pre=[build.wheels], receipt="image", builds="release")
def image(run: Run) -> None:
    """Build the release image, from the wheelhouse alone."""
    run.images.release()
    run.witness.image(run.images.release_id(), run.images.base_id())


@task(klass=Stage, pre=[image], builds="check")
def check(run: Run) -> None:
    """Test the release image on its own: complete, configured, able to start."""
    run.images.check_release()
    run.release_environment.check()


@task(klass=Stage, pre=[build.services])
def db(run: Run) -> None:
    """Start the database of the release environment and wait until it is ready."""
    run.release_environment.start_database()


@task(klass=Stage, pre=[check, db])
def bootstrap(run: Run) -> None:
    """Put the static files into the webroot volume and the schema into the database."""
    run.release_environment.initialise()


@task(klass=Stage, pre=[bootstrap])
def start(run: Run) -> None:
    """Start the application behind the front end and wait until it answers; print its URL."""
    run.release_environment.start_application()
    run.release_started()


@task(klass=Question)
def url(run: Run) -> None:
    """Print the URL of the release environment that release.start left running."""
    run.console.result(run.own_release_environment.address())


@task(klass=Question)
def logs(run: Run) -> None:
    """Print the logs of the release environment that release.start left running."""
    for line in run.own_release_environment.logs():
        run.console.result(line)


@task(klass=Removal)
def stop(run: Run) -> None:
    """Remove the release environment that release.start left running, its data too."""
    run.own_release_environment.remove()
