"""Checkouts of the project, for the tests that run it on the real engine as a user does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest

from tasks.engine.checkout import identify

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Result:
    """What a command did: its exit code, standard output and standard error."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return f"{self.out}\n{self.err}"


@dataclass(frozen=True)
class CheckoutUnderTest:
    """A clone of the project in a folder of its own."""

    root: Path

    @property
    def labels(self) -> dict[str, str]:
        return identify(self.root, "seatrial").labels

    def environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, "PATH": path, **variables}

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Start invoke; for tests that send signals."""
        return subprocess.Popen(
            ["invoke", *arguments],
            cwd=self.root,
            env=self.environment(variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def invoke(self, *arguments: str, **variables: str) -> Result:
        """Run invoke with these arguments, and these variables in the environment."""
        with self.start(*arguments, **variables) as process:
            out, err = process.communicate()
        return Result(process.returncode, out, err)

    def git(self, *arguments: str) -> str:
        identity = ["-c", "user.name=tester", "-c", "user.email=tester@example.org"]
        return subprocess.run(
            ["git", *identity, *arguments],
            cwd=self.root,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    def change(self, path: str, old: str, new: str) -> None:
        """Replace text in a file, and commit."""
        file = self.root / path
        text = file.read_text()
        assert old in text, f"{old!r} is not in {path}"
        file.write_text(text.replace(old, new))
        self.git("commit", "--quiet", "--all", "--message", f"change {path}")

    def on_engine(self, *, images: bool = False) -> list[str]:
        """Return the names of all that the engine holds of this checkout."""
        client = docker.from_env()
        filters: Any = {"label": [f"{key}={value}" for key, value in self.labels.items()]}
        try:
            things: list[Any] = [
                *client.containers.list(all=True, filters=filters, ignore_removed=True),
                *client.networks.list(filters=filters),
                *client.volumes.list(filters=filters),
            ]
            names = [str(thing.name) for thing in things]
            if images:
                names += [str(image.id) for image in client.images.list(filters=filters)]
            return names
        finally:
            client.close()


@pytest.fixture(scope="session")
def base_image() -> None:
    """Make sure of the base image once, as belonging to this checkout: it takes a while."""
    result = CheckoutUnderTest(ROOT).invoke("build.base")
    assert result.code == 0, result.text


@pytest.fixture(scope="session")
def new_checkout(
    tmp_path_factory: pytest.TempPathFactory,
    base_image: None,  # noqa: ARG001  (made before the first checkout)
) -> Iterator[Callable[[str], CheckoutUnderTest]]:
    """Return a function that makes a checkout, committed and clean, in a folder of the given name.

    All of them are cleaned at the end of the session.
    """
    made: list[CheckoutUnderTest] = []

    def make(name: str) -> CheckoutUnderTest:
        root = tmp_path_factory.mktemp("checkouts") / name
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for file in filter(None, listed.split("\0")):
            if (ROOT / file).is_file():
                (root / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / file, root / file)
        checkout = CheckoutUnderTest(root)
        checkout.git("init", "--quiet", "--initial-branch=main")
        checkout.git("add", "--all")
        checkout.git("commit", "--quiet", "--message", "as it is")
        made.append(checkout)
        return checkout

    yield make
    for checkout in made:
        checkout.git("checkout", "--quiet", "--force", "main")
        result = checkout.invoke("clean")
        assert result.code == 0, result.text
        assert checkout.on_engine(images=True) == []


@pytest.fixture
def checkout(new_checkout: Callable[[str], CheckoutUnderTest]) -> CheckoutUnderTest:
    """Return a checkout for one test."""
    return new_checkout("checkout")
