"""A test or release environment: a compose project that is started, asked, and taken down again."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Self

from junitparser import JUnitXml

from tasks.engine import compose, reports
from tasks.engine.checkout import owner
from tasks.engine.images import read_config
from tasks.engine.process import EVIDENCE_LINES
from tasks.engine.readiness import Ready, State, Wait
from tasks.engine.roles import (
    FrontEnd,
    Probed,
    PublishRoles,
    ReleaseRoles,
    Roles,
    TestRoles,
    Tests,
    parse,
)
from tasks.engine.tools import Tools
from tasks.errors import Failure, StageFailed

if TYPE_CHECKING:
    from docker.models.containers import Container

PROJECT_LABEL = "com.docker.compose.project"


class Environment(Generic[Roles]):
    """A running compose project of this checkout.

    As a context manager it leaves nothing on the engine when its block ends, however it ends,
    unless `keep` says otherwise; what a killed run left behind it removes first. `run` is the ID of
    the run that makes it, `variables` are what the compose file needs beside the settings, `made`
    tells of an image's name whether this run has made it.
    """

    def __init__(
        self,
        tools: Tools,
        stage: str,
        file: str,
        kind: type[Roles],
        *,
        run: str,
        variables: dict[str, str],
        made: Callable[[str], bool],
        own: bool = False,
    ) -> None:
        self.project = f"{tools.image_prefix}-{stage}"
        self.own = own
        self.in_use = False  # whether the user has it already: it then outlives a failed run too
        self._tools = tools
        self._file = file
        self._kind = kind
        self._run = run
        self._variables = variables
        self._made = made
        self._given_up = threading.Event()
        self._awaited: list[Container] = []
        self._created: set[str] = set()  # services to be started yet
        self._composing = threading.Lock()  # two at a time would both make the network

    # --- its life --------------------------------------------------------------------------------

    def open(self) -> Self:
        """Remove what is left of an earlier run, unless the environment is the user's own."""
        if self._tools.dry:
            return self
        if self.own:
            made_by = self._made_by()
            self._run = made_by or self._run
            self.in_use = bool(made_by)
        elif self._tools.engine.containers_by_id(self.labels):
            self._tools.console.note(f"removing what an earlier run left of {self.project}")
            self.remove()
        return self

    def remove(self) -> None:
        """Remove all of it: containers, networks, volumes. Raises StageFailed if any is left."""
        if self._tools.dry:
            self._tools.console.would(f"remove all containers, networks, volumes of {self.project}")
            return
        left = self._tools.engine.remove(self.labels)
        if left:
            raise StageFailed(
                f"{self.project} could not be removed",
                evidence=left,
                hint="invoke clean tries again",
            )

    def give_up(self) -> None:
        """End what others wait for in it: they wait no longer, and fail."""
        self._given_up.set()
        for container in list(self._awaited):
            self._tools.engine.kill(container)

    @property
    def labels(self) -> dict[str, str]:
        """The labels that tell what is of this environment."""
        return {**self._tools.checkout.labels, PROJECT_LABEL: self.project}

    @property
    def exists(self) -> bool:
        """Whether it has any container."""
        return bool(self._tools.engine.containers_by_id(self.labels))

    @cached_property
    def roles(self) -> Roles:
        """Which service plays which role."""
        return parse(self._configuration, self._kind, self._file)

    @property
    def configuration(self) -> str:
        """The compose file with all variables resolved, the same for each run and checkout.

        Secrets are masked, and the names that belong to a run or checkout are neutral.
        """
        text = self._tools.console.mask(self._configuration)
        names = {
            self._run: "RUN",
            owner(): "OWNER",
            self.project: "PROJECT",
            self._tools.image_prefix: "IMAGE_PREFIX",
            self._tools.checkout.id: "CHECKOUT",
        }
        for name, neutral in names.items():
            text = text.replace(name, neutral)
        return text

    @cached_property
    def _configuration(self) -> str:
        return read_config(self._tools, self.project, self._file, self._environment)

    # --- what can be done with it ----------------------------------------------------------------

    def up(self, *services: str) -> None:
        """Start services, detached; those that run with the same configuration are left alone."""
        with self._composing:
            self._create(services)
            created = [service for service in services if service in self._created]
            if not self._tools.dry:  # where nothing else would tell later that they are there
                self._created.difference_update(created)
            others = [service for service in services if service not in created]
            if others:
                self._compose(compose.up(self.project, self._file, others))
        if created:
            self._start(created)

    def _create(self, services: Sequence[str]) -> None:
        """Create, for `services` and in the same call of Compose, whatever can be.

        That is every service whose image this run has made; the API starts a container in a tenth
        of the time of a call. Those that are there already are left alone: they may be running.
        """
        if not set(services) - self._created:
            return
        known = json.loads(self._configuration)["services"]
        can_be = {name for name, known_as in known.items() if self._made(known_as.get("image", ""))}
        there = {} if self._tools.dry else self._tools.engine.containers(self.labels)
        new = sorted(can_be - self._created - there.keys())
        if set(services) & set(new):
            self._compose(compose.create(self.project, self._file, new))
            self._created.update(new)

    def _start(self, created: Sequence[str]) -> None:
        if self._tools.dry:
            self._tools.console.would(f"start {', '.join(created)}")
        else:
            self._tools.engine.start(self._containers(*created).values())

    def _compose(self, argv: list[str]) -> None:
        self._tools.processes.run(
            argv,
            environment=self._environment,
            folder=self._tools.compose_folder,
            show=lambda _: "",
        )

    def ready(self, probed: Probed, deadline: float, *beside: str, confirmations: int = 1) -> None:
        """Wait until a service is ready; `beside` are services that its answer depends on.

        `deadline` is in seconds. Raises StageFailed at the deadline, or as soon as one of the
        containers cannot get ready any more.
        """
        console = self._tools.console
        if self._tools.dry:
            console.would(f"ask in {probed.service} until ready: {' '.join(probed.probe)}")
            return
        containers = self._containers(probed.service, *beside)
        engine = self._tools.engine

        def states() -> list[State]:
            if self._given_up.is_set():
                raise StageFailed(f"the wait for {probed.service} was given up")
            return [engine.state(*item) for item in containers.items()]

        ready = Wait(
            service=probed.service,
            ask=lambda: engine.ask(containers[probed.service], probed.probe, probed.expect),
            states=states,
            logs=lambda service: engine.last_lines(containers[service], EVIDENCE_LINES),
            deadline=deadline,
            confirmations=confirmations,
        ).until_ready()
        console.note(_told(probed.service, ready))

    def steps(self, *services: str) -> None:
        """Run services that end by themselves, all at once; their lines are shown.

        Raises StageFailed for the first that fails or takes too long, with its last lines.
        """
        if not services:  # none named would be all of them
            return
        self._fresh(*services)
        self.up(*services)
        timeout = self._tools.settings.step_timeout
        for service in services:
            if self._tools.dry:
                self._tools.console.would(f"wait until {service} has ended with 0")
                continue
            container = self._containers(service)[service]
            code = self._finished(service, container, timeout)
            if code:
                raise StageFailed(
                    f"{service} ended with {code}",
                    evidence=self._tools.engine.last_lines(container, EVIDENCE_LINES),
                    hint=f"the service {service} in compose/{self._file} says what was run",
                )

    def tests(
        self, name: str, tests: Sequence[Tests], restarted: Callable[[str], None]
    ) -> reports.Counts | None:
        """Run the test services of one report, `target/reports/<name>.xml`; return the counts.

        `restarted` is called with a service that has to be started again before. Returns None in a
        dry run. Raises StageFailed if not all tests passed, or none did; the report is there then,
        too, if the tests left one.
        """
        report = self._tools.checkout.target / "reports" / f"{name}.xml"
        if not self._tools.dry:
            report.unlink(missing_ok=True)
            report.parent.mkdir(parents=True, exist_ok=True)
        self._fresh(*(one.service for one in tests))
        finished = []
        for one in tests:
            if one.restart:
                restarted(one.restart)
            finished.append(self._tested(one))
        if self._tools.dry:
            self._tools.console.would(f"judge the exit codes and {report.name}")
            return None
        try:
            merged = reports.merge(finished)
            self._write(merged, report)
            return reports.judge(merged, finished)
        except StageFailed as failure:
            dead = self._dead({one.service for one in tests})
            raise StageFailed(
                f"{failure.message}{'; ' + ', '.join(dead) if dead else ''}",
                evidence=failure.evidence,
                hint=failure.hint or f"target/reports/{name}.xml and the lines above tell more",
            ) from None

    def restart(self, service: str) -> None:
        """Stop a service and start it again."""
        if self._tools.dry:
            self._tools.console.would(f"restart {service}")
            return
        self._tools.engine.restart(self._containers(service)[service])

    def url(self, frontend: FrontEnd) -> str:
        """Return where the front end is to be reached from here.

        Raises StageFailed if the environment does not run.
        """
        return f"http://{self.address_of(frontend)}/"

    def address_of(self, service: FrontEnd) -> str:
        """Return host:port at which a service is to be reached from here."""
        container = self._containers(service.service)[service.service]
        return self._tools.engine.address(container, service.port)

    def images_in_use(self) -> dict[str, str]:
        """Return the IDs of the images that the containers run, by service."""
        engine = self._tools.engine
        there = sorted(engine.containers(self.labels).items())
        return {service: engine.image_of(container) for service, container in there}

    def logs(self) -> list[str]:
        """Return all lines of all containers, by service."""
        return [
            f"{service} | {line}"
            for service, container in sorted(self._tools.engine.containers(self.labels).items())
            for line in self._tools.engine.last_lines(container, 10_000)
        ]

    # --- beneath ---------------------------------------------------------------------------------

    @property
    def _environment(self) -> dict[str, str]:
        return {
            **self._tools.settings.compose_environment(),
            **self._variables,
            "CHECKOUT": self._tools.checkout.id,
            "IMAGE_PREFIX": self._tools.image_prefix,
            "RUN": self._run,
            "OWNER": owner(),
        }

    def _made_by(self) -> str:
        """Return the run that made it: as a label of it, the ID must not change."""
        there = self._tools.engine.containers_by_id(self.labels)
        return str(there[0].labels.get("seatrial.run", "")) if there else ""

    def _containers(self, *services: str) -> dict[str, Container]:
        there = self._tools.engine.containers(self.labels)
        missing = [service for service in services if service not in there]
        if missing:
            raise StageFailed(
                f"{', '.join(missing)} of {self.project} does not run",
                hint="invoke release.start starts the release environment",
            )
        return {service: there[service] for service in services}

    def _fresh(self, *services: str) -> None:
        """Remove containers of an earlier time: their log and files are not those of this run."""
        with self._composing:
            old = set(services) - self._created
            if old and not self._tools.dry:
                there = self._tools.engine.containers(self.labels)
                for service in old & there.keys():
                    self._tools.engine.discard(there[service])

    def _tested(self, one: Tests) -> reports.Finished:
        self.up(one.service)
        if self._tools.dry:
            self._tools.console.would(f"wait for {one.service}, copy {one.report} out of it")
            return reports.Finished(one.service, 0, None)
        container = self._containers(one.service)[one.service]
        code = self._finished(one.service, container, self._tools.settings.test_timeout)
        return reports.Finished(one.service, code, self._tools.engine.file(container, one.report))

    def _finished(self, service: str, container: Container, timeout: float) -> int:
        """Show a container's lines until it ends, and return its exit code.

        Raises StageFailed after `timeout` seconds; the container is killed then.
        """
        engine = self._tools.engine
        late = threading.Event()

        def kill() -> None:
            late.set()
            with suppress(Failure):  # then the engine is gone, which is felt below
                engine.kill(container)

        watch = threading.Timer(timeout, kill)
        watch.daemon = True
        watch.start()
        self._awaited.append(container)
        try:
            if self._given_up.is_set():
                engine.kill(container)
            for line in engine.follow(container):
                self._tools.console.line(line)
            # The lines may have ended before the container, with the connection that they came by.
            code = engine.exit_code(container, timeout + 60)
        finally:
            watch.cancel()
            self._awaited.remove(container)
        if self._given_up.is_set():
            raise StageFailed(f"{service} was given up")
        if late.is_set():
            raise StageFailed(
                f"{service} did not end within {timeout:g} s",
                evidence=engine.last_lines(container, EVIDENCE_LINES),
                hint="a longer timeout is a setting (TEST_TIMEOUT, STEP_TIMEOUT)",
            )
        return code

    def _dead(self, but: set[str]) -> list[str]:
        """Return the services that have ended with an error, which tests only feel."""
        engine = self._tools.engine
        states = [engine.state(*item) for item in engine.containers(self.labels).items()]
        return [str(s) for s in states if s.hopeless and s.exit_code and s.service not in but]

    def _write(self, report: JUnitXml, path: Path) -> None:
        text = report.tostring()  # type: ignore[no-untyped-call]
        text = text.decode() if isinstance(text, bytes) else text
        temporary = path.with_suffix(".tmp")
        temporary.write_text(self._tools.console.mask(text), encoding="utf-8")
        temporary.replace(path)


class TestEnvironment(Environment[TestRoles]):
    """The environment of the application's own tests."""

    __test__ = False  # for pytest: not a test

    def start_database(self) -> None:
        """Start the database and wait until it is ready."""
        _start_database(self, self.roles.database, self._tools.settings.database_deadline)

    def run_tests(self, name: str) -> reports.Counts | None:
        """Run the tests of one report: unit, integration."""
        return self.tests(name, [t for t in self.roles.tests if t.name == name], self.restart)


class ReleaseEnvironment(Environment[ReleaseRoles]):
    """The environment in which the release image is accepted, or looked at."""

    def check(self) -> None:
        """Run the checks that need nothing but the release image."""
        self.steps(*self.roles.check)

    def start_database(self) -> None:
        """Start the database and wait until it is ready."""
        _start_database(self, self.roles.database, self._tools.settings.database_deadline)

    def initialise(self) -> None:
        """Run the initialisation steps: static files, schema."""
        self.steps(*self.roles.initialisation)

    def start_application(self) -> None:
        """Start application and front end, and wait until the one answers through the other."""
        self.up(self.roles.application, self.roles.frontend.service)
        self._application_ready()

    def accept(self) -> reports.Counts | None:
        """Run the acceptance tests."""
        return self.tests("acceptance", self.roles.tests, self._restart_application)

    def address(self) -> str:
        """Return the URL of the front end."""
        return self.url(self.roles.frontend)

    def image_in_use(self) -> str:
        """Return the ID of the image that the application's container runs."""
        return self.images_in_use()[self.roles.application]

    def _application_ready(self) -> None:
        self.ready(
            self.roles.frontend, self._tools.settings.frontend_deadline, self.roles.application
        )

    def _restart_application(self, service: str) -> None:
        self.restart(service)
        self._application_ready()


class PublishEnvironment(Environment[PublishRoles]):
    """The registry and the index of this machine."""

    def start(self) -> None:
        """Start both, and wait until they answer."""
        deadline = self._tools.settings.frontend_deadline
        self.up(self.roles.registry.service, self.roles.index.service)
        self.ready(self.roles.registry, deadline)
        self.ready(self.roles.index, deadline)

    def registry_address(self) -> str:
        """Return host:port of the registry."""
        return self.address_of(self.roles.registry)

    def index_url(self) -> str:
        """Return the URL that the index takes uploads at."""
        return f"http://{self.address_of(self.roles.index)}/"


def _start_database(
    environment: TestEnvironment | ReleaseEnvironment, database: Probed, deadline: float
) -> None:
    environment.up(database.service)
    # Twice: a database that initialises itself answers, stops, and starts again.
    environment.ready(database, deadline, confirmations=2)


def _told(service: str, ready: Ready) -> str:
    tries = "1 try" if ready.tries == 1 else f"{ready.tries} tries"
    return f"{service} is ready after {ready.seconds:.2f} s, {tries}"
