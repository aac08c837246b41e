"""What would be run: the argv of every Docker CLI call. Pure functions that run nothing.

Files are named as seen from the folder `compose/`, where the commands are run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def config(project: str, file: str) -> list[str]:
    """Print the compose file with all variables resolved, as JSON."""
    return [*_compose(project, file), "config", "--format", "json"]


def up(project: str, file: str, services: Sequence[str]) -> list[str]:
    """Start exactly these services, detached, with the images that are there."""
    return [*_compose(project, file), "up", "--detach", "--no-deps", "--no-build",
            "--pull", "never", "--timeout", "0", "--quiet-pull", *services]  # fmt: skip


def create(project: str, file: str, services: Sequence[str]) -> list[str]:
    """Create the containers of exactly these services, to be started later."""
    return [*_compose(project, file), "create", "--no-build", "--pull", "never", *services]


def bake(file: str, targets: Sequence[str], cache_from: str = "", cache_to: str = "") -> list[str]:
    """Build all `targets` in one graph; a cache elsewhere may be read and written."""
    cache = [
        part
        for option, value in (("cache-from", cache_from), ("cache-to", cache_to))
        if value
        for part in ("--set", f"*.{option}={value}")
    ]
    return ["docker", "buildx", "bake", "--file", file, "--progress", "plain",
            *cache, *targets]  # fmt: skip


def pull(reference: str) -> list[str]:
    """Pull an image from its registry."""
    return ["docker", "pull", "--quiet", reference]


def import_image(archive: Path, reference: str, labels: dict[str, str]) -> list[str]:
    """Make an image of one layer from a root file system in a tar archive."""
    changes = [
        part for key, value in labels.items() for part in ("--change", f"LABEL {key}={value}")
    ]
    return ["docker", "import", "--change", 'CMD ["bash"]', *changes, str(archive), reference]


def _compose(project: str, file: str) -> list[str]:
    # No env file beside the compose file may add to what the settings say.
    return ["docker", "compose", "--env-file", "/dev/null", "--project-name", project,
            "--file", file]  # fmt: skip
