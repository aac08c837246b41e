"""What the tests of the machinery share: a console, a door, a checkout in a folder of its own."""

from __future__ import annotations

import os
import shlex
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import hypothesis
import pytest

from tasks.engine.api import Engine, Image
from tasks.engine.checkout import Checkout
from tasks.engine.console import Console
from tasks.engine.process import Processes
from tasks.engine.readiness import Answer, State
from tasks.engine.tools import Tools
from tasks.engine.waits import Waits
from tasks.settings import load

HERE = Path(__file__).parents[2]

# A machine that is busy with something else is no failure.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


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


class Programs:
    """Programs that take the place of the real ones: shell scripts in a folder of their own.

    Each notes how it was called, and does what its script says.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._calls = folder / ".calls"
        folder.mkdir()

    @property
    def calls(self) -> list[str]:
        """The commands that were run, in their order."""
        return self._calls.read_text().splitlines() if self._calls.exists() else []

    def put(self, name: str, script: str = "") -> None:
        """Make a program of this name; without a script it does nothing and ends with 0."""
        program = self.folder / name
        note = f'echo "{name} $*" >>{shlex.quote(str(self._calls))}'
        program.write_text(f"#!/bin/sh\n{note}\n{script}\n")
        program.chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """Return the programs that are found first, here and by whatever is run."""
    programs = Programs(tmp_path / "programs")
    monkeypatch.setenv("PATH", f"{programs.folder}:/usr/bin:/bin")
    return programs


@dataclass
class ContainerDouble:
    """A container: what it prints, what it ends with, what it leaves.

    One that `hangs` ends when it is killed.
    """

    service: str
    lines: tuple[str, ...] = ()
    code: int = 0
    report: bytes | None = None
    status: str = "exited"
    hangs: bool = False
    labels: dict[str, str] = field(default_factory=dict)
    followed: Callable[[], None] = lambda: None
    killed: threading.Event = field(default_factory=threading.Event)
    removed: bool = False

    @property
    def name(self) -> str:
        return f"seatrial-{self.service}-1"


@dataclass
class EngineDouble:
    """An engine that has the images and containers it is given, and notes what is done to them."""

    images: dict[str, Image] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    images_removed: list[tuple[Mapping[str, str], bool]] = field(default_factory=list)
    there: dict[str, ContainerDouble] = field(default_factory=dict)
    started: list[str] = field(default_factory=list)
    restarted: list[str] = field(default_factory=list)
    removed: list[Mapping[str, str]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    waits: Waits = field(default_factory=lambda: Waits("engine"))

    def put(self, *containers: ContainerDouble) -> None:
        self.there |= {container.service: container for container in containers}

    @property
    def as_engine(self) -> Engine:
        return cast("Engine", self)

    # What the real one has:

    def image(self, reference: str) -> Image | None:
        return self.images.get(reference)

    def history(self, _: str) -> list[str]:
        return self.commands

    def architecture(self) -> str:
        return "amd64"

    def remove_images(self, labels: Mapping[str, str], *, untagged_only: bool = False) -> list[str]:
        self.images_removed.append((labels, untagged_only))
        return []

    def containers(self, _: Mapping[str, str]) -> dict[str, ContainerDouble]:
        return dict(self.there)

    def containers_by_id(self, _: Mapping[str, str]) -> list[ContainerDouble]:
        return list(self.there.values())

    def ask(self, container: ContainerDouble, command: tuple[str, ...], _: str) -> Answer:
        return Answer(yes=True, text=f"{container.service} was asked to {' '.join(command)}")

    def state(self, service: str, container: ContainerDouble) -> State:
        return State(service, container.status, container.code, "t1")

    def last_lines(self, container: ContainerDouble, count: int) -> list[str]:
        return list(container.lines)[-count:]

    def follow(self, container: ContainerDouble) -> Iterator[str]:
        container.followed()
        yield from container.lines
        if container.hangs:
            assert container.killed.wait(30)

    def exit_code(self, container: ContainerDouble, timeout: float) -> int:
        assert timeout
        return container.code

    def kill(self, container: ContainerDouble) -> None:
        container.killed.set()

    def discard(self, container: ContainerDouble) -> None:
        container.removed = True

    def start(self, containers: Iterable[ContainerDouble]) -> None:
        self.started += [container.service for container in containers]

    def restart(self, container: ContainerDouble) -> None:
        self.restarted.append(container.service)

    def file(self, container: ContainerDouble, _: str) -> bytes | None:
        return container.report

    def address(self, container: ContainerDouble, port: int) -> str:
        return f"127.0.0.1:{len(container.service)}{port}"

    def remove(self, labels: Mapping[str, str]) -> list[str]:
        self.removed.append(labels)
        return self.left


@pytest.fixture
def engine() -> EngineDouble:
    return EngineDouble()


@dataclass
class Workshop:
    """Tools whose programs and engine are doubles."""

    checkout: Checkout
    console: Console
    programs: Programs
    engine: EngineDouble

    def tools(self, *, dry: bool = False, **settings: str) -> Tools:
        """Return tools with these settings, given as the process environment gives them."""
        root = self.checkout.root
        (root / "compose").mkdir(exist_ok=True)
        (root / "env").mkdir(exist_ok=True)
        (root / "env" / "local.env").touch()
        shutil.copy(HERE / "bootstrap", root)
        return Tools(
            settings=load("local", root, settings),
            console=self.console,
            processes=Processes(
                self.console, {"PATH": os.environ["PATH"]}, self.checkout.root, dry=dry
            ),
            engine=self.engine.as_engine,
            checkout=self.checkout,
            environ={"PIP_CONFIG_FILE": os.devnull},
            dry=dry,
        )


@pytest.fixture
def workshop(
    checkout: Checkout, console: Console, programs: Programs, engine: EngineDouble
) -> Workshop:
    return Workshop(checkout, console, programs, engine)
