"""What is being released: the commit, as git tells."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from packaging.version import Version

from tasks.engine.process import CommandFailed, Processes

UNVERSIONED = "unversioned"


@dataclass(frozen=True)
class Source:
    """The commit.

    Its full hash (with `-dirty` if the tree is not what was committed), its time in seconds since
    1970, the address of the repository (no credentials in it), and when the application was
    changed last: the time of that commit.
    """

    revision: str
    time: int
    address: str
    changed: int = 0

    @property
    def dirty(self) -> bool:
        """Whether the revision does not say all there is to the source."""
        return self.revision.endswith("-dirty") or self.revision == UNVERSIONED

    @property
    def created(self) -> str:
        """The commit's time, as OCI annotations want it (RFC 3339)."""
        return datetime.fromtimestamp(self.time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def inspect(root: Path, processes: Processes) -> Source:
    """Return what git says of the checkout at `root`.

    Outside of git the revision is "unversioned": such a release can be tested, not published.
    Raises CommandFailed if git refuses (a checkout of another owner, for instance).
    """
    if not (root / ".git").exists():
        return Source(UNVERSIONED, 0, "")
    # Of the user's configuration nothing that changes what git answers.
    git = ["git", "-C", str(root), "-c", "log.showSignature=false"]
    try:
        revision, seconds = processes.read(
            [*git, "log", "-1", "--format=%H %ct"], environment={"LC_ALL": "C"}
        ).split()
    except CommandFailed as error:
        if "does not have any commits yet" in " ".join(error.output):
            return Source(UNVERSIONED, 0, "")
        raise
    changed = processes.read([*git, "log", "-1", "--format=%ct", "--", "app"]).strip()
    changes = processes.read([*git, "status", "--porcelain", "--untracked-files=normal"])
    return Source(
        f"{revision}-dirty" if changes else revision,
        int(seconds),
        _address(git, processes),
        int(changed or seconds),
    )


def version(root: Path) -> str:
    """Return the version that `app/pyproject.toml` gives the application, as its wheel has it.

    Empty if it is not written there, but made by the build.
    Source: https://packaging.python.org/en/latest/specifications/pyproject-toml/#version
    """
    try:
        project = tomllib.loads((root / "app" / "pyproject.toml").read_text(encoding="utf-8"))
        return str(Version(project["project"]["version"]))
    except (OSError, ValueError, LookupError, TypeError):  # the build will tell
        return ""


def names(root: Path, processes: Processes) -> tuple[list[str], str]:
    """Return git's tags of the commit, and the branch it is on ("" for none, or outside of git)."""
    if not (root / ".git").exists():
        return [], ""
    git = ["git", "-C", str(root)]
    exact = processes.read([*git, "tag", "--points-at", "HEAD"]).split()
    return exact, processes.read([*git, "branch", "--show-current"]).strip()


def _address(git: list[str], processes: Processes) -> str:
    try:
        address = processes.read([*git, "config", "--get", "remote.origin.url"]).strip()
    except CommandFailed:  # there is no remote
        return ""
    return re.sub(r"(?<=://)[^/]*@", "", address)
