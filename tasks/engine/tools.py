"""What the machinery works with: handed from room to room as one thing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tasks.engine.api import Engine
from tasks.engine.checkout import Checkout
from tasks.engine.console import Console
from tasks.engine.process import Processes
from tasks.settings import Settings


@dataclass(frozen=True)
class Tools:
    """The tools of one run.

    `environ` is the process environment, for what is not a setting (pip's configuration). With
    `dry`, whoever is about to change something shows it instead (`console.would`).
    """

    settings: Settings
    console: Console
    processes: Processes
    engine: Engine
    checkout: Checkout
    environ: Mapping[str, str]
    dry: bool

    @property
    def compose_folder(self) -> Path:
        """Where the compose files are."""
        return self.checkout.root / "compose"

    @property
    def image_prefix(self) -> str:
        """What the names of all images of this checkout and environment begin with."""
        return f"{self.checkout.project}-{self.checkout.id}-{self.settings.name}"
