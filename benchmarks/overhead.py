"""How long a user waits for the tool itself: for its listing, and until it notices readiness.

    python benchmarks/overhead.py

measures, in turns (ours, the other, ours, the other, ...) after one round to warm up:

- `invoke --list` here, against a project with Invoke and one task;
- the lag between a service's being ready and our noticing, against `docker compose up --wait`,
  which goes by the health check of the image. The containers, images and settings are the same,
  and in both cases an observer asks the service itself, every few milliseconds: the first answer
  it gets is the moment from which the lag counts. Ours is what `test.db` and `release.start` call.

Progress goes to standard error, the table to standard output. It judges nothing: goals that are
missed are shown, and the exit code is 0. The engine has to be of this machine, since the observer
asks the containers at their own addresses; and the machine has to be idle, or the figures tell of
the work of others.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import importlib.metadata
import io
import json
import multiprocessing
import os
import platform
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path

import docker

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tasks.engine import compose  # noqa: E402
from tasks.engine.environments import (  # noqa: E402
    Environment,
    ReleaseEnvironment,
    TestEnvironment,
)
from tasks.engine.roles import ReleaseRoles, Roles, TestRoles  # noqa: E402
from tasks.engine.run import Run  # noqa: E402
from tasks.errors import Failure  # noqa: E402

OBSERVER_PAUSE = 0.005
OBSERVER_PATIENCE = 120.0
QUESTION_TIMEOUT = 1.0

BARE_TASKS = '''\
from invoke import task


@task
def hello(c):
    """Say hello."""
    print("hello")
'''

_SPAWN = multiprocessing.get_context("spawn")


# --- the observer: a process of its own, so that it neither slows those measured nor waits for them


def database_answers(host: str, user: str, database: str) -> bool:
    """Say whether PostgreSQL lets clients in: whether it asks for a password.

    While it starts, it answers with an error in its place.
    """
    words = b"".join(word.encode() + b"\0" for word in ("user", user, "database", database)) + b"\0"
    with socket.create_connection((host, 5432), QUESTION_TIMEOUT) as connection:
        connection.sendall(struct.pack("!ii", 8 + len(words), 3 << 16) + words)
        return connection.recv(1) == b"R"


def application_answers(host: str, port: int, expected: str) -> bool:
    """Say whether the application answers through its front end, with what is `expected`."""
    connection = http.client.HTTPConnection(host, port, timeout=QUESTION_TIMEOUT)
    with contextlib.closing(connection):
        connection.request("GET", "/healthz")
        response = connection.getresponse()
        return response.status == http.HTTPStatus.OK and expected in response.read().decode()


def observe(
    report: Connection,
    project: str,
    service: str,
    question: Callable[..., bool],
    arguments: tuple[object, ...],
) -> None:
    """Send, once listening, None; then when `service` was first ready, by the monotonic clock."""
    client = docker.from_env()
    labels = [f"com.docker.compose.project={project}", f"com.docker.compose.service={service}"]
    starts = client.events(
        decode=True, filters={"type": "container", "event": "start", "label": labels}
    )
    report.send(None)
    inspected = client.api.inspect_container(next(iter(starts))["id"])
    host = next(iter(inspected["NetworkSettings"]["Networks"].values()))["IPAddress"]
    deadline = time.monotonic() + OBSERVER_PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if question(host, *arguments):
                report.send(time.monotonic())
                return
        time.sleep(OBSERVER_PAUSE)


@dataclass(frozen=True)
class Observed:
    """A service, and what the observer asks it."""

    title: str
    project: str
    service: str
    question: Callable[..., bool]
    arguments: tuple[object, ...]

    def lag(self, start: Callable[[], None]) -> tuple[float, float]:
        """Call `start`, which returns when it has noticed that the service is ready.

        Returns the seconds since it was, and the seconds that it took in all.
        """
        ours, theirs = _SPAWN.Pipe(duplex=False)
        observer = _SPAWN.Process(
            target=observe,
            args=(theirs, self.project, self.service, self.question, self.arguments),
            daemon=True,
        )
        observer.start()
        theirs.close()
        try:
            ours.recv()
            began = time.monotonic()
            start()
            noticed = time.monotonic()
            ready = float(ours.recv())
        finally:
            observer.kill()
            observer.join()
        return noticed - ready, noticed - began


# --- what is observed ----------------------------------------------------------------------------


class Waited(Environment[Roles]):
    """An environment whose services can be started the other way as well."""

    def up_and_wait(self, *services: str) -> None:
        """Start services as `up` does, with Compose's own wait for their health checks.

        These are as frequent as the images have them; nobody waits for those of our files.
        """
        frequent = {service: {"healthcheck": {"start_interval": "1s"}} for service in services}
        argv = compose.up(self.project, self._file, ())
        place = argv.index("up")
        with tempfile.NamedTemporaryFile("w", suffix=".json") as override:
            json.dump({"services": frequent}, override)
            override.flush()
            self._compose(
                [*argv[:place], "--file", override.name, *argv[place:], "--wait", *services]
            )


class WaitedTest(Waited[TestRoles], TestEnvironment):
    """The test environment, likewise."""


class WaitedRelease(Waited[ReleaseRoles], ReleaseEnvironment):
    """The release environment, likewise."""


@dataclass
class Comparison:
    """Measurements in pairs, in seconds."""

    title: str
    names: tuple[str, str]
    goal: float | None
    ours: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)

    def add(self, ours: float, other: float) -> None:
        """Add the measurements of a round."""
        self.ours.append(ours)
        self.others.append(other)

    def lines(self) -> Iterator[str]:
        """Yield it as lines of the table."""
        yield f"{self.title} ({len(self.ours)} rounds)"
        for name, values in zip(self.names, (self.ours, self.others), strict=True):
            yield f"  {name:<38}{_spread([1000 * value for value in values], 1)}  ms"
        ratios = [ours / other for ours, other in zip(self.ours, self.others, strict=True)]
        verdict = ""
        if self.goal is not None:
            met = "met" if statistics.median(ratios) <= self.goal else "missed"
            verdict = f"  goal <= {self.goal:.2f}: {met}"
        yield f"  {'ratio, pair by pair':<38}{_spread(ratios, 3)}{verdict}"


def _spread(values: Sequence[float], digits: int) -> str:
    figures = (min(values), statistics.median(values), max(values))
    return "".join(f"{figure:>10.{digits}f}" for figure in figures)


def listing(rounds: int) -> Iterator[Comparison]:
    """Compare `invoke --list` with that of a bare project."""
    comparison = Comparison("invoke --list", ("here", "bare Invoke, one task"), 1.25)
    with tempfile.TemporaryDirectory(prefix="bare-") as bare:
        Path(bare, "tasks.py").write_text(BARE_TASKS)
        for turn in range(rounds + 1):
            here, there = _listed(ROOT), _listed(Path(bare))
            if turn:
                comparison.add(here, there)
    yield comparison


def _listed(folder: Path) -> float:
    began = time.monotonic()
    _invoke(folder, "--list").check_returncode()
    return time.monotonic() - began


def _invoke(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("invoke")
    return subprocess.run(
        [sys.executable, program, *arguments],
        cwd=folder, env=as_for_users(os.environ), check=False, capture_output=True, text=True,
    )  # fmt: skip


def as_for_users(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of processes that are measured: Python may keep its bytecode."""
    return {name: value for name, value in environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def database(run: Run, rounds: int) -> Iterator[Comparison]:
    """Compare the lag for the database of the test environment."""
    environment = WaitedTest(
        run.tools, "overhead-test", "test.yaml", TestRoles,
        run=run.id, variables={}, made=run.images.made,
    )  # fmt: skip
    with _removed(environment):
        service = environment.roles.database.service
        application = run.settings.application
        observed = Observed(
            "database of the test environment",
            environment.project,
            service,
            database_answers,
            (application["APP_DB_USER"], application["APP_DB_NAME"]),
        )
        yield from _compared(
            observed,
            environment.start_database,
            lambda: environment.up_and_wait(service),
            environment.remove,
            rounds,
        )


def application(run: Run, rounds: int) -> Iterator[Comparison]:
    """Compare the lag for the application, started with its front end, asked through it."""
    environment = WaitedRelease(
        run.tools, "overhead-release", "release.yaml", ReleaseRoles,
        run=run.id, variables={"REVISION": run.source.revision}, made=run.images.made,
    )  # fmt: skip
    with _removed(environment):
        environment.start_database()
        environment.initialise()
        roles = environment.roles
        services = roles.application, roles.frontend.service

        def stop() -> None:
            containers = run.tools.engine.containers(environment.labels)
            for service in services:
                containers[service].remove(force=True)

        observed = Observed(
            "application through its front end, release environment",
            environment.project,
            roles.frontend.service,
            application_answers,
            (roles.frontend.port, roles.frontend.expect),
        )
        yield from _compared(
            observed,
            environment.start_application,
            lambda: environment.up_and_wait(*services),
            stop,
            rounds,
        )


def _compared(
    observed: Observed,
    ours: Callable[[], None],
    other: Callable[[], None],
    stop: Callable[[], None],
    rounds: int,
) -> Iterator[Comparison]:
    names = ("here", "docker compose up --wait")
    lags = Comparison(f"{observed.title}: from ready to noticed", names, 1 / 3)
    totals = Comparison(f"{observed.title}: from start to noticed", names, None)
    for turn in range(rounds + 1):
        pair = []
        for start in (ours, other):
            pair.append(observed.lag(start))
            stop()
        if turn:
            lags.add(pair[0][0], pair[1][0])
            totals.add(pair[0][1], pair[1][1])
    yield lags
    yield totals


@contextlib.contextmanager
def _removed(environment: WaitedTest | WaitedRelease) -> Iterator[None]:
    """Remove the environment, before and after."""
    environment.open()
    try:
        yield
    finally:
        environment.remove()


# --- the table -----------------------------------------------------------------------------------


def machine() -> Iterator[str]:
    """Yield what was measured where, and when."""
    engine = _output("docker", "version", "--format", "{{.Server.Version}}")
    plugin = _output("docker", "compose", "version", "--short")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load = os.getloadavg()[0]
    revision = _output("git", "describe", "--always", "--dirty")
    yield f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, revision {revision}"
    yield f"{os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release()}, load {load:.1f}"
    yield (
        f"Engine {engine}, Compose {plugin}, Python {platform.python_version()}, "
        f"Invoke {importlib.metadata.version('invoke')}"
    )


def _output(*argv: str) -> str:
    return subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=9, help="for each service (9)")
    parser.add_argument("--list-rounds", type=int, default=30, help="for invoke --list (30)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    load = os.getloadavg()[0]
    busy = load if load > (os.cpu_count() or 1) else 0.0
    _tell("building the images, if need be ...")
    built = _invoke(ROOT, "test.image", "build.services", "release.image")
    if built.returncode:
        sys.exit(built.stderr)
    print(*machine(), "", f"{'':40}{'min':>10}{'median':>10}{'max':>10}", sep="\n", flush=True)
    name = os.environ.get("INVOKE_ENV", "local")
    with Run(ROOT, name, [], os.environ, dry=False, changes=False) as run:
        measures: list[Callable[[], Iterator[Comparison]]] = [
            lambda: listing(options.list_rounds),
            lambda: database(run, options.rounds),
            lambda: application(run, options.rounds),
        ]
        for measure in measures:
            # What the product says meanwhile is of no interest, unless it fails.
            said = io.StringIO()
            try:
                with contextlib.redirect_stderr(said):
                    comparisons = list(measure())
            except Failure as failure:
                sys.exit("\n".join([said.getvalue(), failure.message, *failure.evidence]))
            for comparison in comparisons:
                print(*comparison.lines(), sep="\n", flush=True)
    if busy:
        print(f"The machine was busy when this began (load {busy:.1f}): repeat it when it is idle.")


if __name__ == "__main__":
    main()
