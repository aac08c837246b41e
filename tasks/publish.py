"""What was accepted, for others to have: exactly that, with the evidence beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from invoke.tasks import task

from tasks import build, workflow
from tasks.stages import Question, Stage

if TYPE_CHECKING:
    from tasks.engine.run import Run


@task(klass=Stage)
def check(run: Run) -> None:
    """Check that this environment may publish: its settings, its keys, a clean tree."""
    run.publisher.require_permission()


@task(klass=Stage, pre=[build.base], builds="publishing")
def local(run: Run) -> None:
    """Start a registry and an index on this machine, if the settings name no others."""
    run.start_local_registry()


@task(klass=Stage, pre=[check, local])
def artifact(run: Run) -> None:
    """Publish the accepted wheels to the Python index."""
    run.publisher.artifact()


@task(klass=Stage, pre=[check, local])
def image(run: Run) -> None:
    """Publish the accepted image to the registry, and read it back."""
    run.publisher.image()


@task(klass=Stage, pre=[image])
def evidence(run: Run) -> None:
    """Attach receipts, test reports and bill of materials to the published image."""
    run.publisher.evidence()


@task(klass=Question)
def verify(run: Run) -> None:
    """Verify a published image from the registry alone: PASSED, or which check failed."""
    run.console.result(run.publisher.verify())


@task(klass=Stage, pre=[check, local, workflow.acceptance], default=True, name="all")
def everything(run: Run) -> None:
    """Accept the release, publish wheels, image and evidence, and verify them."""
    run.console.result(run.publisher.everything())
