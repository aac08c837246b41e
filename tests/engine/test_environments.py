"""Environments, on an engine made of paper: what is started, waited for, judged, and left."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tasks.engine import compose, environments
from tasks.engine.console import MASK, masker
from tasks.engine.readiness import Ready, Wait
from tasks.engine.roles import ReleaseRoles
from tasks.engine.roles import TestRoles as RolesOfTests
from tasks.errors import Misconfigured, StageFailed
from tests.engine.conftest import ContainerDouble

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from tests.engine.conftest import Workshop

PASSED = b"<testsuite><testcase name='a'/></testsuite>"
FAILED = b"<testsuite><testcase name='b'><failure message='no'/></testcase></testsuite>"
TEST: dict[str, Any] = {
    "x-seatrial": {
        "database": {"service": "db", "probe": ["say", "hello"]},
        "tests": [
            {"name": "integration", "service": "one", "report": "/i.xml"},
            {"name": "integration", "service": "two", "report": "/i.xml", "restart": "db"},
        ],
    },
    "services": {"db": {}, "one": {}, "two": {}},
}
RELEASE: dict[str, Any] = {
    "x-seatrial": {
        "database": {"service": "db", "probe": ["say", "hello"]},
        "check": [],
        "initialisation": ["schema", "static"],
        "application": "web",
        "frontend": {"service": "proxy", "port": 80, "probe": ["get"]},
        "tests": [{"name": "acceptance", "service": "specs", "report": "/r.xml", "restart": "web"}],
    },
    "services": {
        "db": {"image": "mine/db"},
        "schema": {"image": "mine/web"},
        "static": {"image": "mine/web"},
        "web": {"image": "mine/web"},
        "proxy": {"image": "mine/proxy"},
        "specs": {"image": "mine/specs"},
    },
}
UP = "up --detach --no-deps --no-build --pull never --timeout 0 --quiet-pull"


def answer_with(workshop: Workshop, configuration: dict[str, Any]) -> None:
    text = json.dumps(configuration)
    workshop.programs.put("docker", f"cat <<'JSON'\n{text}\nJSON")


def of_tests(
    workshop: Workshop, *, dry: bool = False, **settings: str
) -> environments.TestEnvironment:
    answer_with(workshop, TEST)
    return environments.TestEnvironment(
        workshop.tools(dry=dry, **settings), "test", "test.yaml", RolesOfTests,
        run="run-1", variables={}, made=lambda _: False,
    )  # fmt: skip


def of_release(
    workshop: Workshop,
    *,
    dry: bool = False,
    own: bool = False,
    made: Collection[str] = (),
    **settings: str,
) -> environments.ReleaseEnvironment:
    answer_with(workshop, RELEASE)
    return environments.ReleaseEnvironment(
        workshop.tools(dry=dry, **settings), "release", "release.yaml", ReleaseRoles,
        run="run-1", variables={"REVISION": "c0ffee"}, made=made.__contains__, own=own,
    )  # fmt: skip


def ups(workshop: Workshop) -> list[str]:
    """Return the services of each `up`, in order."""
    return [call.split(UP)[1].strip() for call in workshop.programs.calls if UP in call]


CREATE = "create --no-build --pull never"


def creations(workshop: Workshop) -> list[str]:
    """Return the services of each `create`, in order."""
    return [call.split(CREATE)[1].strip() for call in workshop.programs.calls if CREATE in call]


def good(service: str) -> ContainerDouble:
    return ContainerDouble(service, lines=("1 passed",), report=PASSED)


# --- steps ---------------------------------------------------------------------------------------


def test_steps_are_started_at_once_and_waited_for(
    workshop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    workshop.engine.put(
        ContainerDouble("schema", lines=("applied 1",)),
        ContainerDouble("static", lines=("3 files",)),
    )
    of_release(workshop).initialise()
    assert ups(workshop) == ["schema static"]
    shown = capsys.readouterr().err
    assert "applied 1" in shown
    assert "3 files" in shown
    # their logs would else be those of an earlier run
    assert all(container.removed for container in workshop.engine.there.values())


def test_a_step_that_fails_is_told_with_its_last_lines(workshop: Workshop) -> None:
    workshop.engine.put(
        ContainerDouble("schema", lines=("applying 1", "no such column"), code=3),
        ContainerDouble("static"),
    )
    with pytest.raises(StageFailed) as caught:
        of_release(workshop).initialise()
    assert caught.value.message == "schema ended with 3"
    assert caught.value.evidence == ("applying 1", "no such column")
    assert "compose/release.yaml" in caught.value.hint


def test_a_step_that_hangs_is_killed_and_told(workshop: Workshop) -> None:
    hanging = ContainerDouble("schema", lines=("waiting for a lock",), hangs=True)
    workshop.engine.put(hanging, ContainerDouble("static"))
    with pytest.raises(StageFailed) as caught:
        of_release(workshop, STEP_TIMEOUT="0.01").initialise()
    assert caught.value.message == "schema did not end within 0.01 s"
    assert caught.value.evidence == ("waiting for a lock",)
    assert "STEP_TIMEOUT" in caught.value.hint
    assert hanging.killed.is_set()


def test_no_steps_start_nothing(workshop: Workshop) -> None:
    of_release(workshop).check()
    assert ups(workshop) == []


# --- containers that are there before they are started ------------------------------------------


@pytest.fixture
def _creating(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what Compose was told to create be there."""
    argv = compose.create

    def create(project: str, file: str, services: Sequence[str]) -> list[str]:
        workshop.engine.put(*map(ContainerDouble, services))
        return argv(project, file, services)

    monkeypatch.setattr(compose, "create", create)


@pytest.mark.usefixtures("_creating")
def test_with_the_first_service_all_are_created_whose_images_were_made(workshop: Workshop) -> None:
    environment = of_release(workshop, made={"mine/web", "mine/proxy"})
    environment.up("schema")
    environment.up("web", "proxy")
    assert creations(workshop) == ["proxy schema static web"]
    assert workshop.engine.started == ["schema", "web", "proxy"]
    assert ups(workshop) == []


@pytest.mark.usefixtures("_creating")
def test_what_was_created_is_started_once(workshop: Workshop) -> None:
    # the second time it may have another configuration: that is for Compose to see
    environment = of_release(workshop, made={"mine/proxy"})
    environment.up("proxy")
    environment.up("proxy")
    assert creations(workshop) == ["proxy"]
    assert workshop.engine.started == ["proxy"]
    assert ups(workshop) == ["proxy"]


@pytest.mark.usefixtures("_creating")
def test_what_is_there_already_is_not_created(workshop: Workshop) -> None:
    # of the user's own environment, where it may be running
    workshop.engine.put(ContainerDouble("web", status="running"))
    environment = of_release(workshop, own=True, made={"mine/web", "mine/proxy"})
    environment.up("web", "proxy")
    assert creations(workshop) == ["proxy schema static"]
    assert workshop.engine.started == ["proxy"]
    assert ups(workshop) == ["web"]


@pytest.mark.usefixtures("_creating")
def test_what_cannot_be_created_yet_has_nothing_else_created(workshop: Workshop) -> None:
    # an image of the same name may be there, of an earlier run: it is not to be taken
    made = {"mine/proxy"}
    environment = of_release(workshop, made=made)
    environment.up("db")
    assert creations(workshop) == []
    assert ups(workshop) == ["db"]
    made.add("mine/specs")
    environment.up("specs")
    assert creations(workshop) == ["proxy specs"]


@pytest.mark.usefixtures("_creating")
def test_containers_of_an_earlier_run_are_removed_and_those_just_created_are_not(
    workshop: Workshop,
) -> None:
    old = ContainerDouble("static")
    workshop.engine.put(old)
    environment = of_release(workshop, own=True, made={"mine/web"})
    environment.up("web")
    assert creations(workshop) == ["schema web"]
    environment.initialise()
    assert old.removed
    # the schema was not removed before it was started: it is of this run
    assert workshop.engine.started == ["web", "schema"]
    assert ups(workshop) == ["static"]


# --- services ------------------------------------------------------------------------------------


def test_a_database_is_started_and_asked_twice(
    workshop: Workshop, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = []

    class Noted(Wait):
        def until_ready(self) -> Ready:
            waits.append((self.service, self.deadline, self.confirmations))
            return super().until_ready()

    monkeypatch.setattr(environments, "Wait", Noted)
    workshop.engine.put(ContainerDouble("db", status="running"))
    of_release(workshop, DATABASE_DEADLINE="7").start_database()
    assert ups(workshop) == ["db"]
    assert waits == [("db", 7.0, 2)]
    assert "db is ready after 0.00 s, 1 try" in capsys.readouterr().err


def test_a_database_that_has_ended_is_not_waited_for(workshop: Workshop) -> None:
    workshop.engine.put(ContainerDouble("db", code=1, lines=("bad password",)))
    with pytest.raises(StageFailed, match="db will not get ready: db exited 1") as caught:
        of_release(workshop).start_database()
    assert "  bad password" in caught.value.evidence


def test_an_application_that_dies_ends_the_wait_for_the_front_end(workshop: Workshop) -> None:
    workshop.engine.put(
        ContainerDouble("proxy", status="running"),
        ContainerDouble("web", code=3, lines=("no SECRET_KEY",)),
    )
    with pytest.raises(StageFailed, match="proxy will not get ready: web exited 3") as caught:
        of_release(workshop).start_application()
    assert "  no SECRET_KEY" in caught.value.evidence
    assert ups(workshop) == ["web proxy"]


def test_a_service_that_is_not_there(workshop: Workshop) -> None:
    with pytest.raises(
        StageFailed, match="proxy of seatrial-0123456789-local-release does not run"
    ):
        of_release(workshop).address()


def test_the_address_is_a_url(workshop: Workshop) -> None:
    workshop.engine.put(ContainerDouble("proxy", status="running"))
    assert of_release(workshop).address() == "http://127.0.0.1:580/"


# --- tests ---------------------------------------------------------------------------------------


def test_the_reports_of_several_services_become_one(workshop: Workshop) -> None:
    workshop.engine.put(ContainerDouble("db", status="running"), good("one"), good("two"))
    counts = of_tests(workshop).run_tests("integration")
    assert counts is not None
    assert counts.passed == 2
    assert ups(workshop) == ["one", "two"]
    assert workshop.engine.restarted == ["db"]
    report = workshop.checkout.target / "reports" / "integration.xml"
    assert report.read_text().count("<testcase") == 2
    assert not report.with_suffix(".tmp").exists()


def test_a_report_of_an_earlier_run_is_gone_before_the_tests_begin(workshop: Workshop) -> None:
    report = workshop.checkout.target / "reports" / "integration.xml"
    report.parent.mkdir()
    report.write_bytes(PASSED)
    workshop.engine.put(ContainerDouble("db"), ContainerDouble("one", code=1), good("two"))
    with pytest.raises(StageFailed, match="left no JUnit file"):
        of_tests(workshop).run_tests("integration")
    assert not report.exists()


def test_a_failed_test_leaves_its_report(workshop: Workshop) -> None:
    workshop.engine.put(
        ContainerDouble("db", status="running"),
        good("one"),
        ContainerDouble("two", code=1, report=FAILED),
    )
    with pytest.raises(StageFailed) as caught:
        of_tests(workshop).run_tests("integration")
    assert caught.value.message == "tests: 1 passed, 1 failed"
    assert "target/reports/integration.xml" in caught.value.hint
    assert (workshop.checkout.target / "reports" / "integration.xml").exists()


def test_a_database_that_died_meanwhile_is_named(workshop: Workshop) -> None:
    workshop.engine.put(
        ContainerDouble("db", code=137),
        ContainerDouble("one", code=1, report=FAILED),
        ContainerDouble("two", code=1, report=FAILED),
    )
    with pytest.raises(StageFailed) as caught:
        of_tests(workshop).run_tests("integration")
    assert caught.value.message == "tests: 0 passed, 2 failed; db exited 137"


def test_tests_that_hang_are_killed_and_told(workshop: Workshop) -> None:
    workshop.engine.put(ContainerDouble("one", lines=("spec 1 ...",), hangs=True, report=PASSED))
    with pytest.raises(StageFailed, match=r"one did not end within 0\.01 s") as caught:
        of_tests(workshop, TEST_TIMEOUT="0.01").run_tests("integration")
    assert caught.value.evidence == ("spec 1 ...",)


def test_tests_that_nobody_runs(workshop: Workshop) -> None:
    with pytest.raises(StageFailed, match="0 tests passed: no service runs them"):
        of_tests(workshop).run_tests("unit")


def test_a_secret_in_a_report_is_masked(workshop: Workshop) -> None:
    secret = 'tr0ub4dor & "3"'  # noqa: S105
    quoted = secret.replace("&", "&amp;").replace('"', "&quot;")
    report = PASSED.replace(b"'a'/>", f'"a"><system-out>{quoted}</system-out></testcase>'.encode())
    workshop.console.mask = masker([secret])
    workshop.engine.put(
        ContainerDouble("db", status="running"),
        ContainerDouble("one", report=report),
        ContainerDouble("two", report=report, lines=(secret,)),
    )
    of_tests(workshop).run_tests("integration")
    text = (workshop.checkout.target / "reports" / "integration.xml").read_text()
    assert "tr0ub4dor" not in text
    assert text.count(MASK) == 2


def test_the_application_is_ready_again_before_the_specs_after_its_restart(
    workshop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    workshop.engine.put(
        ContainerDouble("proxy", status="running"), ContainerDouble("web", status="running"),
        good("specs"),
    )  # fmt: skip
    counts = of_release(workshop).accept()
    assert counts is not None
    assert workshop.engine.restarted == ["web"]
    assert "proxy is ready" in capsys.readouterr().err


# --- given up ------------------------------------------------------------------------------------


def test_tests_that_are_given_up_end_at_once(workshop: Workshop) -> None:
    running = threading.Event()
    hanging = ContainerDouble("one", lines=("spec 1 ...",), hangs=True, report=PASSED)
    hanging.followed = running.set
    workshop.engine.put(hanging)
    environment = of_tests(workshop)
    failures: list[StageFailed] = []

    def run_tests() -> None:
        with pytest.raises(StageFailed) as caught:
            environment.run_tests("integration")
        failures.append(caught.value)

    thread = threading.Thread(target=run_tests)
    thread.start()
    assert running.wait(30)
    environment.give_up()
    thread.join(30)
    assert [failure.message for failure in failures] == ["one was given up"]
    assert hanging.killed.is_set()


def test_a_wait_that_is_given_up_ends_at_once(workshop: Workshop) -> None:
    workshop.engine.put(ContainerDouble("db", status="running"))
    environment = of_release(workshop)
    environment.give_up()
    with pytest.raises(StageFailed, match="the wait for db was given up"):
        environment.start_database()


def test_what_is_given_up_is_not_begun_again(workshop: Workshop) -> None:
    hanging = ContainerDouble("schema", hangs=True)
    workshop.engine.put(hanging, ContainerDouble("static"))
    environment = of_release(workshop)
    environment.give_up()
    with pytest.raises(StageFailed, match="schema was given up"):
        environment.initialise()
    assert hanging.killed.is_set()


def test_services_that_nobody_waits_for_are_left_running(workshop: Workshop) -> None:
    database = ContainerDouble("db", status="running")
    workshop.engine.put(database)
    environment = of_release(workshop)
    environment.start_database()
    environment.give_up()
    assert not database.killed.is_set()


# --- its life ------------------------------------------------------------------------------------


def test_what_an_earlier_run_left_is_removed_first(
    workshop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    workshop.engine.put(ContainerDouble("db"))
    environment = of_tests(workshop).open()
    assert workshop.engine.removed == [environment.labels]
    assert "removing what an earlier run left" in capsys.readouterr().err


def test_the_users_own_is_taken_over_with_the_run_that_made_it(workshop: Workshop) -> None:
    workshop.engine.put(ContainerDouble("db", labels={"seatrial.run": "run-0"}))
    environment = of_release(workshop, own=True).open()
    assert workshop.engine.removed == []
    assert environment._environment["RUN"] == "run-0"


def test_it_is_removed_by_its_labels_alone(workshop: Workshop) -> None:
    environment = of_tests(workshop)
    environment.remove()
    assert workshop.engine.removed == [
        {
            "seatrial.project": "seatrial",
            "seatrial.checkout": "0123456789",
            "com.docker.compose.project": "seatrial-0123456789-local-test",
        }
    ]


def test_what_could_not_be_removed_is_named(workshop: Workshop) -> None:
    workshop.engine.left = ["network x: has active endpoints"]
    with pytest.raises(StageFailed, match="could not be removed") as caught:
        of_tests(workshop).remove()
    assert caught.value.evidence == ("network x: has active endpoints",)
    assert "invoke clean" in caught.value.hint


def test_logs_are_told_by_service(workshop: Workshop) -> None:
    workshop.engine.put(
        ContainerDouble("web", lines=("b",)), ContainerDouble("db", lines=("a", "c"))
    )
    assert of_release(workshop).logs() == ["db | a", "db | c", "web | b"]


def test_its_configuration_is_the_same_for_every_run_and_checkout(workshop: Workshop) -> None:
    environment = of_release(workshop)
    workshop.console.mask = masker(["tr0ub4dor"])
    told = {
        "run": environment._environment["RUN"],
        "owner": environment._environment["OWNER"],
        "network": f"{environment.project}_default",
        "image": "seatrial-0123456789-local/web",
        "label": "0123456789",
        "password": "tr0ub4dor",
    }
    answer_with(workshop, {**RELEASE, "told": told})
    assert json.loads(environment.configuration)["told"] == {
        "run": "RUN",
        "owner": "OWNER",
        "network": "PROJECT_default",
        "image": "IMAGE_PREFIX/web",
        "label": "CHECKOUT",
        "password": MASK,
    }


def test_a_compose_file_without_roles(workshop: Workshop) -> None:
    environment = of_tests(workshop)
    answer_with(workshop, {"services": {}})
    with pytest.raises(Misconfigured, match=r"compose/test\.yaml"):
        environment.start_database()


# --- dry -----------------------------------------------------------------------------------------


def test_a_dry_run_shows_all_of_it_and_touches_nothing(
    workshop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = of_release(workshop, dry=True).open()
    environment.start_database()
    environment.initialise()
    environment.start_application()
    assert environment.accept() is None
    environment.remove()
    project = "seatrial-0123456789-local-release"
    up = f"$ docker compose --env-file /dev/null --project-name {project} --file release.yaml {UP}"
    assert capsys.readouterr().out.splitlines() == [
        f"{up} db",
        "ask in db until ready: say hello",
        f"{up} schema static",
        "wait until schema has ended with 0",
        "wait until static has ended with 0",
        f"{up} web proxy",
        "ask in proxy until ready: get",
        "restart web",
        "ask in proxy until ready: get",
        f"{up} specs",
        "wait for specs, copy /r.xml out of it",
        "judge the exit codes and acceptance.xml",
        f"remove all containers, networks, volumes of {project}",
    ]
    assert ups(workshop) == []
    assert workshop.engine.removed == []
    assert list(workshop.checkout.target.iterdir()) == []


def test_a_dry_run_creates_each_container_once(
    workshop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    made: set[str] = {"mine/web"}
    environment = of_release(workshop, dry=True, made=made)
    environment.initialise()
    made |= {"mine/db", "mine/proxy", "mine/specs"}
    environment.start_database()
    environment.start_application()
    shown = capsys.readouterr().out.splitlines()
    assert [line.split(CREATE)[1].split() for line in shown if CREATE in line] == [
        ["schema", "static", "web"],
        ["db", "proxy", "specs"],
    ]
    assert [line for line in shown if line.startswith("start ")] == [
        "start schema, static",
        "start db",
        "start web, proxy",
    ]
