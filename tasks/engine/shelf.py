"""The shelf of receipts: where each stage's receipt is kept, whatever is in it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tasks.errors import StageFailed

Stage = Literal["unit", "integration", "wheels", "image", "acceptance"]
STAGES: tuple[Stage, ...] = ("unit", "integration", "wheels", "image", "acceptance")


def path(target: Path, stage: str) -> Path:
    """Return where the receipt of a stage is, in the folder `target`."""
    return target / "receipts" / f"{stage}.json"


def write(target: Path, stage: str, content: bytes) -> None:
    """Put a receipt in its place, all of it or nothing."""
    place = path(target, stage)
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_suffix(".tmp")
    temporary.write_bytes(content)
    temporary.replace(place)


def remove(target: Path, *stages: str) -> None:
    """Forget receipts: what they tell of is about to be done anew."""
    for stage in stages:
        path(target, stage).unlink(missing_ok=True)


def content(target: Path, stage: str) -> bytes:
    """Return a receipt's envelope. Raises StageFailed if there is none."""
    place = path(target, stage)
    if not place.exists():
        raise StageFailed(
            f"there is no receipt of {stage}", hint="invoke release.acceptance writes them"
        )
    return place.read_bytes()
