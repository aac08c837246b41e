"""The checkout at hand: who it is on a shared engine, and who is at work in it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from tasks.errors import Busy

MACHINE_ID = Path("/etc/machine-id")


@dataclass(frozen=True)
class Checkout:
    """A folder with the project in it; `id` tells it from all others that use the same engine."""

    root: Path
    project: str
    id: str

    @property
    def target(self) -> Path:
        """Where all that is produced goes."""
        return self.root / "target"

    @property
    def labels(self) -> dict[str, str]:
        """The labels of everything that this checkout makes on the engine."""
        return {"seatrial.project": self.project, "seatrial.checkout": self.id}


def identify(root: Path, project: str) -> Checkout:
    """Return the identity of the checkout at `root`: of the path, on this machine.

    The machine counts, since one remote engine may serve many whose paths are all alike.
    """
    machine = MACHINE_ID.read_text().strip() if MACHINE_ID.exists() else ""
    text = f"{machine or platform.node()}:{root.resolve()}"
    return Checkout(root, project, hashlib.sha256(text.encode()).hexdigest()[:10])


def owner() -> str:
    """Return who makes something, as a label's value: the user, on this machine."""
    return f"{os.getuid()}@{platform.node()}"


@contextmanager
def locked(checkout: Checkout, timeout: float, stage: str) -> Iterator[None]:
    """Hold the checkout for one run.

    The operating system gives the lock back when its holder ends, however it ends; so a lock is
    never stale, and a living holder's is never taken. Raises Busy after `timeout` seconds, naming
    the holder.
    """
    checkout.target.mkdir(exist_ok=True)
    holder = checkout.target / "holder.json"
    lock = FileLock(checkout.target / "lock")
    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        raise Busy(
            f"another run is at work in this checkout: {_described(holder)}",
            hint="wait for it (LOCK_TIMEOUT=600 does), or stop it",
        ) from None
    try:
        holder.write_text(_about(stage))
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def note_stage(checkout: Checkout, stage: str) -> None:
    """Tell those who wait for the lock at which stage its holder is."""
    holder = checkout.target / "holder.json"
    holder.write_text(_about(stage))


def _about(stage: str) -> str:
    return json.dumps({"pid": os.getpid(), "stage": stage, "since": time.time()}) + "\n"


def _described(holder: Path) -> str:
    try:
        about = json.loads(holder.read_text())
        since = datetime.fromtimestamp(about["since"], UTC).astimezone()
        return f"process {about['pid']}, in stage {about['stage']} since {since:%H:%M:%S}"
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return "it does not say who it is"
