"""What the tests of the machinery share: a console, a door, a checkout in a folder of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tasks.engine.checkout import Checkout
from tasks.engine.console import Console
from tasks.engine.process import Processes


@pytest.fixture
def console() -> Console:
    return Console()


@pytest.fixture
def processes(console: Console, tmp_path: Path) -> Processes:
    """Return a door whose programs see PATH and nothing else, in an empty folder."""
    return Processes(console, {"PATH": os.environ["PATH"], "LC_ALL": "C"}, tmp_path)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    (tmp_path / "target").mkdir()
    return Checkout(tmp_path, "seatrial", "0123456789")
