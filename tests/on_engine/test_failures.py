"""The must-fail twins: what a user can break fails with one message, and leaves nothing."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.on_engine.conftest import CheckoutUnderTest, Proxy

pytestmark = pytest.mark.engine

IDLE = "[sh, -c, 'echo still asleep; sleep 3600']"
HANGING = "import time\n\n\ndef test_hanging():\n    time.sleep(3600)\n"


def test_failing_unit_test(changed: CheckoutUnderTest) -> None:
    changed.write(
        "app/tests/unit/test_broken.py", "def test_broken():\n    assert 'up' == 'down'\n"
    )
    changed.fails(
        1,
        "release.acceptance",
        says=("1 failed", "tests.unit.test_broken::test_broken", "assert 'up' == 'down'"),
    )
    # What does not depend on it may have been at work beside it; what does was never begun.
    stages = {stage["name"]: stage["result"] for stage in changed.record()["stages"]}
    assert stages["test.unit"] == "failed"
    assert not stages.keys() & {"test.all", "release.acceptance"}
    report = (changed.root / "target/reports/unit.xml").read_text()
    assert re.search(r'failures="1"', report)
    assert "unit | " in changed.log("-local-test.log")


def test_failing_spec(changed: CheckoutUnderTest) -> None:
    changed.write(
        "app/acceptance/test_broken.py", "def test_broken():\n    assert 'up' == 'down'\n"
    )
    changed.fails(
        1, "acceptance.run", says=("1 failed", "test_broken::test_broken", "assert 'up' == 'down'")
    )
    assert 'failures="1"' in (changed.root / "target/reports/acceptance.xml").read_text()
    assert not (changed.root / "target/receipts/acceptance.json").exists()
    logs = changed.log("-local-acceptance.log")
    assert all(f"{service} | " in logs for service in ("db", "app", "nginx", "test"))


def test_no_specs(changed: CheckoutUnderTest) -> None:
    changed.git("rm", "--quiet", "app/acceptance/test_*.py")
    changed.git("commit", "--quiet", "--message", "no specs")
    changed.fails(1, "acceptance.run", says=("0 tests passed in test", "exit code 5"))


def test_all_specs_skipped(changed: CheckoutUnderTest) -> None:
    changed.write(
        "app/acceptance/conftest.py",
        (changed.root / "app/acceptance/conftest.py").read_text()
        + "\n\n@pytest.fixture(autouse=True)\ndef skip():\n    pytest.skip('not today')\n",
    )
    changed.fails(1, "acceptance.run", says=("0 tests passed in test", "exit code 0"))


def test_broken_migration(changed: CheckoutUnderTest) -> None:
    changed.change(
        "app/todo/migrations/0001_initial.py",
        "operations = [",
        'operations = [\n        migrations.RunSQL("CREATE TABLE afloat (sunk oops)"),',
    )
    changed.fails(1, "acceptance.run", says=("migrate ended with 1", "todo.0001_initial", '"oops"'))
    assert "release.start | started" not in changed.log()
    assert "app | " not in changed.log("-local-acceptance.log")


CRASH = '\n\ndef when_ready(_server):\n    raise RuntimeError("taking on water")\n'


@pytest.mark.parametrize("restart", ["no", "always"])
def test_application_that_does_not_start(changed: CheckoutUnderTest, restart: str) -> None:
    gunicorn = "app/todo/gunicorn.py"
    changed.write(gunicorn, (changed.root / gunicorn).read_text() + CRASH)
    changed.change("compose/release.yaml", "  app:\n", f'  app:\n    restart: "{restart}"\n')
    began = time.monotonic()
    changed.fails(
        1,
        "acceptance.run",
        FRONTEND_DEADLINE="900",
        says=("nginx will not get ready: app ", "last log lines of app", "taking on water"),
    )
    assert time.monotonic() - began < 450


def test_front_end_that_answers_502(changed: CheckoutUnderTest) -> None:
    changed.change("app/todo/gunicorn.py", "0.0.0.0:8000", "0.0.0.0:8001")
    changed.fails(
        1,
        "acceptance.run",
        FRONTEND_DEADLINE="3",
        says=("nginx was not ready in time", "of 3 s", "error: 502", "app running"),
    )


def test_application_of_another_revision(changed: CheckoutUnderTest) -> None:
    changed.change("compose/app/Dockerfile", "REVISION=${REVISION}", "REVISION=another")
    revision = changed.git("rev-parse", "HEAD").strip()
    changed.fails(
        1,
        "acceptance.run",
        FRONTEND_DEADLINE="3",
        says=('"revision": "another"', f'expected: "revision": "{revision}"'),
    )


def test_database_that_never_gets_ready(changed: CheckoutUnderTest) -> None:
    changed.change("compose/release.yaml", "  db:\n", f"  db:\n    command: {IDLE}\n")
    changed.fails(
        1,
        "release.db",
        DATABASE_DEADLINE="3",
        says=(
            "db was not ready in time",
            "of 3 s",
            "Connection refused",
            "db running",
            "last log lines of db",
            "still asleep",
        ),
    )


def test_database_that_ends(changed: CheckoutUnderTest) -> None:
    changed.change("compose/release.yaml", "  db:\n", "  db:\n    command: [postgres, --oops]\n")
    began = time.monotonic()
    changed.fails(
        1,
        "release.db",
        DATABASE_DEADLINE="900",
        says=("db will not get ready: db exited 1", "last log lines of db", "oops"),
    )
    assert time.monotonic() - began < 450


def test_requirement_missing(changed: CheckoutUnderTest) -> None:
    lock = (changed.root / "app/requirements.lock").read_text()
    without = re.sub(r"^sqlparse==.*\n( .*\n)*", "", lock, flags=re.MULTILINE)
    assert without != lock
    changed.write("app/requirements.lock", without)
    result = changed.fails(
        1, "release.check", says=("the release image is not complete", "requires `sqlparse")
    )
    assert "docker buildx" not in result.err.partition("failed: ")[2]


def test_secret_missing(changed: CheckoutUnderTest) -> None:
    changed.fails(
        78,
        "release.start",
        INVOKE_ENV="production",
        APP_SECRET_KEY="x" * 50,
        says=("APP_DB_PASSWORD has no value", "env/production.secrets.env"),
    )


def test_unknown_service_in_a_role(changed: CheckoutUnderTest) -> None:
    changed.change("compose/release.yaml", "application: app", "application: skipper")
    changed.fails(78, "release.db", says=("compose/release.yaml", "skipper"))


TAMPER = """
from invoke.tasks import task
from tasks.stages import ROOT, Stage

@task(klass=Stage, pre=[build.wheels])
def tamper(_run):
    with next(ROOT.glob("target/wheelhouse/asgiref*.whl")).open("ab") as wheel:
        wheel.write(b"a gift")

release.image.pre.append(tamper)
namespace.add_task(tamper)
"""


def test_wheel_tampered_with(changed: CheckoutUnderTest) -> None:
    changed.write("tasks.py", (changed.root / "tasks.py").read_text() + TAMPER)
    changed.fails(
        1, "release.image", says=("target/wheelhouse is not what was built", "asgiref", "sha256:")
    )


def test_test_that_hangs(changed: CheckoutUnderTest) -> None:
    changed.write("app/tests/unit/test_hanging.py", HANGING)
    changed.fails(
        1,
        "test.unit",
        TEST_TIMEOUT="5",
        says=("unit did not end within 5 s", "test_hanging.py", "TEST_TIMEOUT"),
    )


def test_database_killed_during_the_tests(changed: CheckoutUnderTest) -> None:
    changed.write(
        "app/tests/integration/test_zero.py",
        "import time\nfrom todo.models import Todo\n\n\ndef test_forever():\n"
        "    while True:\n        Todo.objects.count()\n        time.sleep(0.1)\n",
    )
    run = changed.start("test.integration")
    run.until_said("test_operation.py")
    database = changed.running("db")
    assert database is not None
    database.kill()
    changed.failed(run.ended(), 1, says=("test_zero::test_forever", "db exited 137"))


def test_engine_out_of_reach(changed: CheckoutUnderTest) -> None:
    changed.fails(
        69,
        "release.acceptance",
        DOCKER_HOST="unix:///nonexistent",
        says=("does not answer at unix:///nonexistent", "DOCKER_HOST"),
    )


def test_engine_lost_in_the_middle(changed: CheckoutUnderTest, proxy: Proxy) -> None:
    changed.write("app/tests/unit/test_hanging.py", HANGING)
    run = changed.start("test.unit", DOCKER_HOST=proxy.address)
    run.until(lambda: changed.running("unit"), "the tests run")
    proxy.cut()
    changed.failed(run.ended(), 69, says=("the Docker engine", "void"), keeps=True)
    # The next run finds what this one could not remove any more.
    changed.git("reset", "--quiet", "--hard", "as-it-is")
    assert "removing what an earlier run left" in changed.passes("test.unit", FRESH="on").err


def test_secret_in_the_release_image(changed: CheckoutUnderTest) -> None:
    secret = "the-combination-of-the-safe-in-the-captains-cabin-0123456789"  # noqa: S105
    dockerfile = "compose/app/Dockerfile"
    changed.change(dockerfile, "ENV REVISION=", f"ENV BAGGAGE={secret}\nENV REVISION=")
    result = changed.fails(
        1,
        "release.check",
        APP_SECRET_KEY=secret,
        says=("the release image has a secret in its configuration or history",),
    )
    assert secret not in result.text
    assert secret not in changed.log()
