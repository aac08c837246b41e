"""Many releases in a row, each in a checkout of its own, with another number and order of jobs.

    python tests/soak.py [how many] [--seed N]

A line is printed for each; the exit code is 0 if all passed. Of one that failed the checkout stays,
to be looked into.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LAST_LINES = 20

# What a release consists of, but for the stages that leave an environment to the user if named.
STAGES = (
    "build.services",
    "build.wheels",
    "test.image",
    "test.unit",
    "test.integration",
    "release.image",
    "release.check",
    "acceptance.image",
    "release.acceptance",
)


def main() -> int:
    """Run the releases; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("count", nargs="?", type=int, default=20, help="how many releases")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    arguments = parser.parse_args()
    jobs = random.Random(arguments.seed)  # noqa: S311  (no secret depends on it)
    print(f"{arguments.count} releases, seed {arguments.seed}", flush=True)
    failed = 0
    for number in range(1, arguments.count + 1):
        folder = Path(tempfile.mkdtemp(prefix="seatrial-soak-")) / "checkout"
        at_once = jobs.randint(1, 6)
        began = time.monotonic()
        order = jobs.sample(STAGES, len(STAGES))
        problem = released(folder, at_once, order)
        told = f"{number:3}  JOBS={at_once}  {time.monotonic() - began:5.1f} s  {' '.join(order)}"
        print(f"{told}  {f'FAILED in {folder}' if problem else 'passed'}", flush=True)
        if problem:
            failed += 1
            print(problem, flush=True)
        else:
            shutil.rmtree(folder.parent)
    print(f"{arguments.count - failed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


def released(folder: Path, jobs: int, order: Sequence[str]) -> str:
    """Release from a new checkout, and clean it; return what went wrong, if anything did.

    `order` is that of the stages on the command line.
    """
    run("git", "clone", "--quiet", str(ROOT), str(folder), at=ROOT)
    release = run("invoke", *order, at=folder, FRESH="1", JOBS=str(jobs))
    if release.returncode:
        return told(release)
    if "accepted: sha256:" not in release.stdout:
        return f"nothing was accepted\n{told(release)}"
    clean = run("invoke", "clean", at=folder)
    return told(clean) if clean.returncode else ""


def run(*command: str, at: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, and return what it did."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command, cwd=at, env={**os.environ, "PATH": path, **variables}, check=False, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def told(done: subprocess.CompletedProcess[str]) -> str:
    """Return how a command ended, and its last lines."""
    lines = [f"{' '.join(done.args)} ended with {done.returncode}", *done.stdout.splitlines()]
    return "\n".join(f"     {line}" for line in lines[:1] + lines[1:][-LAST_LINES:])


if __name__ == "__main__":
    sys.exit(main())
