"""Unchanged is not done again, and whatever results depend on makes it be done again.

What would be done is asked of `invoke plan`; that a run does as planned is asked of the last tests,
which take longer.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from docker.errors import ImageNotFound

if TYPE_CHECKING:
    import docker
    from docker.models.images import Image

    from tests.on_engine.conftest import CheckoutUnderTest, NewCheckout, Result

pytestmark = pytest.mark.engine

BASE = f"seatrial-spared-{os.getpid()}/base:latest"
STAGES = ("test.unit", "test.integration", "build.wheels", "release.image", "acceptance.run")
UNIT, INTEGRATION, WHEELS, IMAGE, ACCEPTANCE = STAGES
COLLECTING = {"test.all", "release.acceptance"}  # they do nothing themselves
WHEN = r"(\d{4}-\d\d-\d\d )?\d\d:\d\d"  # with the date, if midnight has come between
SINCE = f"since {WHEN}: "


@dataclass(frozen=True)
class Planned:
    """What a plan says of a stage."""

    runs: bool
    why: str


@dataclass
class Accepted:
    """A checkout whose release was accepted, and a copy of the state it was in then."""

    checkout: CheckoutUnderTest
    copy: Path
    stands: bool = False

    @property
    def root(self) -> Path:
        return self.checkout.root

    @property
    def target(self) -> Path:
        return self.root / "target"

    def restore(self) -> None:
        """Put all files back, `target/` too; release anew if a test has run anything."""
        self.restore_source()
        if self.stands:
            shutil.rmtree(self.target, ignore_errors=True)
            shutil.copytree(self.copy, self.target, symlinks=True)
        else:
            self.checkout.passes("release.acceptance", JOBS="4")
            shutil.rmtree(self.copy, ignore_errors=True)
            shutil.copytree(self.target, self.copy, symlinks=True)
            self.stands = True

    def restore_source(self) -> None:
        """Put all files back, but for `target/`."""
        self.checkout.git("reset", "--quiet", "--hard", "as-it-is")
        self.checkout.git("clean", "--quiet", "--force", "-d", "-x", "--exclude=/target")
        # What is changed later leaves the revision alone: it says "dirty" already.
        (self.root / "NOTES").write_text("not committed\n")

    def plan(self, *goals: str, **variables: str) -> dict[str, Planned]:
        """Return what `invoke plan` says of each stage."""
        lines = self.checkout.passes("plan", *goals, **variables).out.splitlines()
        fields = [line.split(maxsplit=2) for line in lines]
        return {name: Planned(runs == "run", why) for name, runs, why in fields}

    def reasons(self, **variables: str) -> dict[str, str]:
        """Return the stages with a receipt that would run again, each with the reason."""
        plan = self.plan(**variables)
        return {name: plan[name].why for name in STAGES if plan[name].runs}

    def run(self, *goals: str, **variables: str) -> tuple[Result, set[str]]:
        """Run what is planned for these goals; return the result and the stages that did run."""
        planned = {name for name, about in self.plan(*goals, **variables).items() if about.runs}
        self.stands = False
        result = self.checkout.passes(*goals, **variables)
        ran = {stage["name"] for stage in self.checkout.record()["stages"]}
        assert ran == planned
        return result, ran

    def receipt(self, stage: str) -> Path:
        return self.target / "receipts" / f"{stage}.json"

    def statement(self, stage: str) -> dict[str, Any]:
        """Return what a stage's receipt states."""
        envelope = json.loads(self.receipt(stage).read_text())
        statement: dict[str, Any] = json.loads(base64.b64decode(envelope["payload"]))
        return statement

    def image(self, role: str) -> Image:
        return self.checkout.client.images.get(self.checkout.image(role))


@pytest.fixture(scope="module")
def debian(client: docker.DockerClient) -> Image:
    """Return the image that base images are built from."""
    for name in ("debian:12-slim", "seatrial-bootstrapped/debian:12-slim"):
        try:
            return client.images.get(name)
        except ImageNotFound:
            continue
    raise AssertionError("there is no base image")


@pytest.fixture(scope="module")
def _accepted(
    new_checkout: NewCheckout, debian: Image, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Accepted]:
    checkout = new_checkout("spared")
    settings = (checkout.root / "env" / "local.env").read_text()
    assert debian.tag(BASE)
    checkout.write("env/local.env", f"{settings}\nBASE_IMAGE={BASE}\n")
    checkout.git("tag", "--force", "as-it-is")
    yield Accepted(checkout, tmp_path_factory.mktemp("copies") / "target")
    checkout.client.images.remove(BASE)


@pytest.fixture
def accepted(_accepted: Accepted) -> Iterator[Accepted]:
    """Return a checkout whose release was just accepted; the test may do with it what it likes."""
    _accepted.restore()
    yield _accepted
    _accepted.checkout.give_up()


@pytest.fixture
def interrupted(_accepted: Accepted) -> Iterator[Accepted]:
    """Return a checkout in whatever state the last run has left it."""
    _accepted.restore_source()
    yield _accepted
    _accepted.checkout.give_up()


def every(pattern: str, reasons: dict[str, str]) -> bool:
    """Tell whether each stage runs again, for a reason that looks like this."""
    return set(reasons) == set(STAGES) and all(
        re.fullmatch(pattern, reason) for reason in reasons.values()
    )


def created(accepted: Accepted, since: float) -> list[str]:
    """Return the containers of a checkout that were created meanwhile."""
    labels = [f"{key}={value}" for key, value in accepted.checkout.labels.items()]
    period: Any = {"since": f"{since:.6f}", "until": f"{time.time():.6f}"}  # not whole seconds
    events = accepted.checkout.client.events(
        **period,
        filters={"type": "container", "event": "create", "label": labels},
        decode=True,
    )
    return [str(event["Actor"]["Attributes"]["name"]) for event in events]


# --- unchanged -----------------------------------------------------------------------------------


def test_an_accepted_release_is_not_accepted_again(accepted: Accepted) -> None:
    image = accepted.statement("acceptance")["subject"][0]["digest"]["sha256"]
    before = {stage: accepted.receipt(stage.split(".")[-1]) for stage in (UNIT, WHEELS)}
    content = {stage: path.read_bytes() for stage, path in before.items()}
    began = time.time()
    result = accepted.checkout.passes("release.acceptance")
    assert created(accepted, began) == []
    assert [stage["name"] for stage in accepted.checkout.record()["stages"]] == sorted(
        COLLECTING, reverse=True
    )
    for stage in (UNIT, INTEGRATION, ACCEPTANCE):
        said = rf"{re.escape(stage)} \| skipped: receipt of {WHEN}, \d+ (second|minute)s? old"
        assert re.search(said, result.err)
    assert f"accepted: sha256:{image}" in result.err
    assert "passed" not in result.err.replace("all | passed", "").replace("acceptance | passed", "")
    assert content == {stage: path.read_bytes() for stage, path in before.items()}


def test_the_events_of_containers_would_be_seen(accepted: Accepted) -> None:
    """The twin of the test above."""
    began = time.time()
    container = accepted.checkout.client.containers.create(
        accepted.image("base"), labels=accepted.checkout.labels
    )
    try:
        assert created(accepted, began) == [container.name]
    finally:
        container.remove()


def test_the_plan_of_what_is_unchanged(accepted: Accepted) -> None:
    runs_before = sorted((accepted.target / "runs").iterdir())
    plan = accepted.plan()
    assert {name for name, about in plan.items() if about.runs} == COLLECTING
    assert plan["release.acceptance"].why == "asked for"
    assert plan["test.all"].why == "release.acceptance needs it"
    for stage in (UNIT, INTEGRATION, ACCEPTANCE):
        assert re.fullmatch(rf"receipt of {WHEN}, \d+ (second|minute)s? old", plan[stage].why)
    others = plan.keys() - COLLECTING - {UNIT, INTEGRATION, ACCEPTANCE}
    assert {plan[name].why for name in others} == {"nothing that runs needs it"}
    assert sorted((accepted.target / "runs").iterdir()) == runs_before


def test_a_plan_of_other_goals(accepted: Accepted) -> None:
    plan = accepted.plan("release.start")
    assert plan["release.start"] == Planned(runs=True, why="asked for")
    assert plan["release.bootstrap"] == Planned(runs=True, why="release.start needs it")
    assert plan["release.image"].why.startswith("receipt of ")
    assert ACCEPTANCE not in plan


def test_how_it_is_run_makes_nothing_run_again(accepted: Accepted) -> None:
    variables = {"KEEP": "always", "JOBS": "1", "LOCK_TIMEOUT": "9", "PUBLISH": "off",
                 "REGISTRY": "registry.example.org", "INDEX_PASSWORD": "secret", "UNKNOWN": "x",
                 "FRESH": "off"}  # fmt: skip
    assert accepted.reasons(**variables) == {}


def test_what_results_do_not_depend_on_makes_nothing_run_again(accepted: Accepted) -> None:
    for path in ("README.md", "tests/conftest.py", "new/file", "env/example.env",
                 "app/__pycache__/x", "target/x"):  # fmt: skip
        file = accepted.root / path
        file.parent.mkdir(exist_ok=True)
        file.write_text("other\n")
    assert accepted.reasons() == {}


def test_fresh_spares_nothing(accepted: Accepted) -> None:
    assert every("FRESH is on", accepted.reasons(FRESH="1"))


def test_beside_clean_nothing_is_spared(accepted: Accepted) -> None:
    plan = accepted.plan("clean", "release.acceptance")
    assert all(about.runs for about in plan.values())
    assert plan[UNIT].why == "nothing is spared beside clean"


# --- a file changed ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "app/acceptance/test_todos.py",  # a spec
        "app/tests/unit/test_health.py",
        "app/tests/integration/test_api.py",
        "app/todo/views.py",
        "app/requirements.lock",
        "compose/release.yaml",
        "compose/test.yaml",
        "compose/app/Dockerfile",
        "compose/db/start-db",
        "tasks/release.py",  # the collection itself
        "tasks/engine/reports.py",
        "tasks.py",
        "invoke.yaml",
        "requirements.lock",
    ],
)
def test_a_changed_file(accepted: Accepted, path: str) -> None:
    with (accepted.root / path).open("a") as file:
        file.write("\n# changed\n")
    assert every(f"{SINCE}{re.escape(path)} changed", accepted.reasons())


def test_a_version_of_the_collection(accepted: Accepted) -> None:
    path = accepted.root / "tasks" / "engine" / "witness.py"
    text = re.sub(r'VERSION = "[^"]+"', 'VERSION = "99.9.9"', path.read_text())
    assert "99.9.9" in text
    path.write_text(text)
    assert every(f"{SINCE}tasks/engine/witness.py changed", accepted.reasons())


def test_a_file_that_is_new_and_one_that_is_gone(accepted: Accepted) -> None:
    (accepted.root / "app" / "todo" / "admin.py").rename(accepted.root / "app" / "todo" / "boss.py")
    changes = "app/todo/boss.py is new, app/todo/admin.py is gone"
    assert every(f"{SINCE}{changes}", accepted.reasons())


def test_a_file_that_git_ignores_and_a_build_copies(accepted: Accepted) -> None:
    exclude = accepted.root / ".git" / "info" / "exclude"
    exclude.write_text("/app/tests/unit/local_settings.py\n")
    (accepted.root / "app" / "tests" / "unit" / "local_settings.py").write_text("DEBUG = True\n")
    assert "local_settings" not in accepted.checkout.git("status", "--porcelain")
    assert every(f"{SINCE}app/tests/unit/local_settings.py is new", accepted.reasons())


@pytest.mark.parametrize("path", ["app/manage.py", "app/todo", "compose/db/start-db"])
def test_a_mode(accepted: Accepted, path: str) -> None:
    mode = (accepted.root / path).stat().st_mode
    (accepted.root / path).chmod(mode ^ 0o011)
    try:
        assert every(f"{SINCE}{path} changed", accepted.reasons())
    finally:
        (accepted.root / path).chmod(mode)


def test_a_link_in_place_of_a_file(accepted: Accepted) -> None:
    path = accepted.root / "app" / "todo" / "views.py"
    path.rename(path.with_name("others.py"))
    path.symlink_to("others.py")
    changes = "app/todo/views.py changed, app/todo/others.py is new"
    assert every(f"{SINCE}{changes}", accepted.reasons())


def test_many_changes_are_told_in_short(accepted: Accepted) -> None:
    for number in range(10):
        (accepted.root / "app" / f"new-{number}.py").touch()
    changes = "app/new-0.py is new, app/new-1.py is new, app/new-2.py is new and 7 more"
    assert every(f"{SINCE}{changes}", accepted.reasons())


# --- a revert ------------------------------------------------------------------------------------


def test_a_change_that_was_taken_back_was_none(accepted: Accepted) -> None:
    path = accepted.root / "app" / "todo" / "views.py"
    text = path.read_text()
    path.write_text(f"{text}\n# changed\n")
    assert every(f"{SINCE}app/todo/views.py changed", accepted.reasons())
    path.write_text(text)
    assert accepted.reasons() == {}


# --- settings and secrets ------------------------------------------------------------------------


def test_a_setting_in_the_file(accepted: Accepted) -> None:
    with (accepted.root / "env" / "local.env").open("a") as file:
        file.write("TEST_TIMEOUT=901\n")
    assert every(f"{SINCE}setting TEST_TIMEOUT changed", accepted.reasons())


def test_a_setting_in_the_process_environment(accepted: Accepted) -> None:
    changed = every(f"{SINCE}setting TEST_TIMEOUT changed", accepted.reasons(TEST_TIMEOUT="901"))
    assert changed
    assert every(f"{SINCE}setting APP_NEW is new", accepted.reasons(APP_NEW="x"))
    hosts = accepted.reasons(APP_ALLOWED_HOSTS="nginx,localhost,127.0.0.1")
    assert every(f"{SINCE}setting APP_ALLOWED_HOSTS changed", hosts)
    assert accepted.reasons(TEST_TIMEOUT="900") == {}  # as it was


def test_a_setting_said_elsewhere_is_the_same(accepted: Accepted) -> None:
    with (accepted.root / "env" / "local.env").open("a") as file:
        file.write("TEST_TIMEOUT=900 # the default\n")
    assert accepted.reasons() == {}


def test_a_secret_in_its_file(accepted: Accepted) -> None:
    path = accepted.root / "env" / "local.secrets.env"
    path.touch(mode=0o600)
    path.write_text("APP_DB_PASSWORD=correct-horse-battery\n")
    result = accepted.checkout.passes("plan")
    assert "secrets changed" in result.out
    assert "correct-horse-battery" not in result.text
    assert every(f"{SINCE}secrets changed", accepted.reasons())


def test_secrets_generated_anew(accepted: Accepted) -> None:
    (accepted.target / "secrets" / "local.env").unlink()
    assert every(f"{SINCE}secrets changed", accepted.reasons())


def test_a_secret_in_the_process_environment(accepted: Accepted) -> None:
    assert every(f"{SINCE}secrets changed", accepted.reasons(APP_SECRET_KEY="x" * 50))


def test_another_environment(accepted: Accepted) -> None:
    assert every(f"{SINCE}environment changed, .*", accepted.reasons(INVOKE_ENV="ci"))


def test_a_commit(accepted: Accepted) -> None:
    accepted.checkout.git("commit", "--quiet", "--allow-empty", "--message", "nothing")
    assert every(f"{SINCE}commit changed", accepted.reasons())


def test_a_tree_that_is_clean_now(accepted: Accepted) -> None:
    (accepted.root / "NOTES").unlink()
    assert every(f"{SINCE}commit changed", accepted.reasons())


# --- images --------------------------------------------------------------------------------------


def test_another_image_under_the_name_of_the_base_image(accepted: Accepted, debian: Image) -> None:
    client = accepted.checkout.client
    container = client.containers.create(
        str(debian.id), labels={"seatrial.spared": str(os.getpid())}
    )
    repository, _, tag = BASE.rpartition(":")
    try:
        other = container.commit(repository=repository, tag=tag, message="another base")
    finally:
        container.remove()
    try:
        assert client.images.get(BASE).id == other.id != debian.id
        assert every(f"{SINCE}base image changed", accepted.reasons())
    finally:
        assert debian.tag(BASE)
        client.images.remove(str(other.id))
    assert accepted.reasons() == {}


def test_another_name_of_the_base_image(accepted: Accepted, debian: Image) -> None:
    name = BASE.replace("/base", "/other")
    assert debian.tag(name)
    try:
        reasons = accepted.reasons(BASE_IMAGE=name)
    finally:
        accepted.checkout.client.images.remove(name)
    assert every(f"{SINCE}setting BASE_IMAGE changed", reasons)


def test_an_image_that_was_removed(accepted: Accepted, tmp_path: Path) -> None:
    """The release image is, further below, where a run makes it again."""
    images = accepted.checkout.client.images
    image = accepted.image("test")
    with (tmp_path / "image.tar").open("w+b") as archive:
        for chunk in image.save(named=True):
            archive.write(chunk)
        archive.seek(0)
        for tag in image.tags:
            images.remove(tag)
        try:
            reasons = accepted.reasons()
        finally:
            images.load(archive)
    (tmp_path / "image.tar").unlink()
    reason = "the engine has the image tests no more"
    assert reasons == {UNIT: reason, INTEGRATION: reason}
    assert accepted.reasons() == {}


def test_a_release_image_that_has_lost_its_name(accepted: Accepted) -> None:
    image = accepted.image("app")
    accepted.checkout.client.images.remove(f"{accepted.checkout.image('app')}:latest")
    try:
        reasons = accepted.reasons()
    finally:
        assert image.tag(accepted.checkout.image("app"), "latest")
    assert reasons == {
        IMAGE: "the engine has the image release no more",
        ACCEPTANCE: "release.image runs again",
    }


# --- what results left behind --------------------------------------------------------------------


RECEIPTS = dict(zip(STAGES, ("unit", "integration", "wheels", "image", "acceptance"), strict=True))
FOLLOWING = {WHEELS: {IMAGE, ACCEPTANCE}, IMAGE: {ACCEPTANCE}}


def test_a_report_that_is_gone(accepted: Accepted) -> None:
    for stage in (UNIT, INTEGRATION, ACCEPTANCE):
        name = f"reports/{RECEIPTS[stage]}.xml"
        (accepted.target / name).rename(accepted.root / "report")
        assert accepted.reasons() == {stage: f"target/{name} is not the one that was made"}
        (accepted.root / "report").rename(accepted.target / name)


def test_a_report_that_was_edited(accepted: Accepted) -> None:
    path = accepted.target / "reports" / "acceptance.xml"
    text = path.read_text()
    path.write_text(text.replace('failures="0"', 'failures="1"'))
    assert path.read_text() != text
    reason = "target/reports/acceptance.xml is not the one that was made"
    assert accepted.reasons() == {ACCEPTANCE: reason}


@pytest.mark.parametrize("stage", STAGES)
def test_a_receipt_that_was_edited(accepted: Accepted, stage: str) -> None:
    path = accepted.receipt(RECEIPTS[stage])
    envelope = json.loads(path.read_text())
    statement = accepted.statement(RECEIPTS[stage])
    statement["subject"][0]["digest"]["sha256"] = "0" * 64
    envelope["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    path.write_text(json.dumps(envelope))
    reasons = accepted.reasons()
    assert reasons.pop(stage) == "its receipt is not the one that was written"
    assert reasons.keys() == FOLLOWING.get(stage, set())
    assert all(reason.endswith(" runs again") for reason in reasons.values())


@pytest.mark.parametrize("stage", [UNIT, WHEELS])
def test_a_receipt_that_is_gone(accepted: Accepted, stage: str) -> None:
    accepted.receipt(RECEIPTS[stage]).unlink()
    reasons = accepted.reasons()
    assert reasons.pop(stage) == "it has no receipt"
    assert reasons.keys() == FOLLOWING.get(stage, set())


@pytest.mark.parametrize("content", [None, '{"receipt": "x", "inputs": "y", "at": "z"}'])
def test_a_note_that_was_edited_or_is_gone(accepted: Accepted, content: str | None) -> None:
    path = accepted.target / "inputs" / "unit.json"
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    assert accepted.reasons() == {UNIT: "what its receipt was made from is not known"}


def delete(wheel: Path) -> None:
    wheel.unlink()


def tamper(wheel: Path) -> None:
    wheel.write_bytes(wheel.read_bytes() + b"\0")


def link(wheel: Path) -> None:
    elsewhere = wheel.parent.parent / wheel.name
    wheel.rename(elsewhere)
    wheel.symlink_to(elsewhere)


def add(wheel: Path) -> None:
    shutil.copy(wheel, wheel.with_name("other-1.0-py3-none-any.whl"))


def forget(wheel: Path) -> None:
    (wheel.parent.parent / "wheelhouse.json").unlink()


@pytest.mark.parametrize("change", [delete, tamper, link, add, forget])
def test_a_wheel(accepted: Accepted, change: Callable[[Path], None]) -> None:
    change(next((accepted.target / "wheelhouse").glob("todo*.whl")))
    reasons = accepted.reasons()
    assert reasons.keys() == {WHEELS, IMAGE, ACCEPTANCE}
    assert re.search("wheelhouse|[.]whl", reasons[WHEELS])


def test_nothing_is_left_behind(accepted: Accepted) -> None:
    shutil.rmtree(accepted.target)
    assert every("it has no receipt", accepted.reasons())


# --- the clock -----------------------------------------------------------------------------------


@pytest.mark.parametrize("when", [0, 4_000_000_000])
def test_times_of_files_say_nothing(accepted: Accepted, when: int) -> None:
    path = accepted.root / "app" / "todo" / "views.py"
    os.utime(path, (when, when))
    assert accepted.reasons() == {}
    with path.open("a") as file:
        file.write("\n# changed\n")
    os.utime(path, (when, when))
    assert every(f"{SINCE}app/todo/views.py changed", accepted.reasons())


def test_a_change_of_the_same_size_and_time_is_noticed(accepted: Accepted) -> None:
    path = accepted.root / "app" / "todo" / "views.py"
    before = path.stat()
    text = path.read_text()
    path.write_text(text[:-1] + " ")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert every(f"{SINCE}app/todo/views.py changed", accepted.reasons())


@pytest.mark.parametrize("at", [1_000_000_000, 4_000_000_000])
def test_times_of_receipts_say_nothing(accepted: Accepted, at: int) -> None:
    for note in (accepted.target / "inputs").glob("*.json"):
        document = json.loads(note.read_text())
        if "at" in document:
            note.write_text(json.dumps(document | {"at": at}))
            os.utime(note, (at, at))
    age = "which is still to come by this clock" if at > time.time() else r"\d+ days old"
    assert re.fullmatch(
        rf"receipt of \d{{4}}-\d\d-\d\d \d\d:\d\d, {age}", accepted.plan()[UNIT].why
    )
    assert accepted.reasons() == {}
    (accepted.root / "app" / "new.py").touch()
    pattern = r"since \d{4}-\d\d-\d\d \d\d:\d\d: app/new.py is new"
    assert every(pattern, accepted.reasons())


# --- what was planned is done --------------------------------------------------------------------


def comparable(statement: dict[str, Any]) -> dict[str, Any]:
    """Return a statement without what tells of the run, its times, and the report's, with times."""
    predicate = statement["predicate"]
    predicate.pop("runDetails", None)
    if "configuration" in predicate:
        parts = predicate["configuration"]
        predicate["configuration"] = [part for part in parts if part["name"] != "run"]
        for part in parts:
            if part["name"].endswith(".xml"):
                del part["digest"]
    return statement


def test_jobs_change_nothing_and_fresh_runs_everything(accepted: Accepted) -> None:
    with_four = {name: comparable(accepted.statement(name)) for name in RECEIPTS.values()}
    before = {name: accepted.receipt(name).read_bytes() for name in RECEIPTS.values()}
    _, ran = accepted.run("release.acceptance", FRESH="1", JOBS="1")
    assert ran == accepted.plan(FRESH="1").keys()
    assert not any(accepted.receipt(name).read_bytes() == before[name] for name in before)
    assert {name: comparable(accepted.statement(name)) for name in RECEIPTS.values()} == with_four
    assert accepted.reasons() == {}


def test_a_change_that_was_tested_and_taken_back_is_spared_what_still_stands(
    accepted: Accepted,
) -> None:
    path = accepted.root / "app" / "todo" / "views.py"
    text = path.read_text()
    path.write_text(f"{text}\n# changed\n")
    assert accepted.run("test.unit")[1] == {"build.base", "test.image", UNIT}
    reasons = accepted.reasons()
    assert UNIT not in reasons
    assert {INTEGRATION, WHEELS, IMAGE, ACCEPTANCE} == reasons.keys()
    path.write_text(text)
    reasons = accepted.reasons()
    assert re.fullmatch(f"{SINCE}app/todo/views.py changed", reasons.pop(UNIT))
    # The image that held the tests is another now.
    assert reasons.pop(INTEGRATION, "").endswith("the engine has the image tests no more")
    assert reasons == {}


def test_what_is_missing_is_made_again_and_nothing_else(accepted: Accepted) -> None:
    shutil.copy(
        next((accepted.target / "wheelhouse").glob("todo*.whl")),
        accepted.target / "wheelhouse" / "other-1.0-py3-none-any.whl",
    )
    image = accepted.image("app")
    for tag in image.tags:
        accepted.checkout.client.images.remove(tag)
    result, ran = accepted.run("release.acceptance")
    assert {WHEELS, IMAGE, ACCEPTANCE} <= ran
    assert not {UNIT, INTEGRATION, "test.db", "test.image"} & ran
    assert f"{UNIT} | skipped: receipt of " in result.err
    assert not (accepted.target / "wheelhouse" / "other-1.0-py3-none-any.whl").exists()
    assert accepted.reasons() == {}


def test_a_failure_ends_what_runs_beside_it_and_locks_publishing(accepted: Accepted) -> None:
    accepted.stands = False
    (accepted.root / "NOTES").unlink()
    # The way to the acceptance leads through a stage that would take an hour.
    check = "[manage.py, check, --deploy, --fail-level, WARNING]"
    accepted.checkout.change("compose/release.yaml", check, '[sleep, "3600"]')
    accepted.checkout.write(
        "app/tests/unit/test_broken.py", "def test_broken():\n    assert 6 * 9 == 42\n"
    )
    says = ("1 failed", "tests.unit.test_broken::test_broken")
    result = accepted.checkout.fails(1, "release.acceptance", says=says, JOBS="4")
    assert result.err.count("failed: ") == 1
    record = accepted.checkout.record()
    passed = {stage["name"] for stage in record["stages"] if stage["result"] == "passed"}
    assert UNIT not in passed
    assert not {ACCEPTANCE, *COLLECTING} & {stage["name"] for stage in record["stages"]}
    assert not accepted.receipt("unit").exists()
    assert not accepted.receipt("acceptance").exists()
    publish = {"REGISTRY": "127.0.0.1:1", "INDEX_URL": "http://127.0.0.1:1/"}
    refused = accepted.checkout.invoke("publish.image", **publish)
    assert refused.code == 1
    assert "there is no receipt of unit" in refused.err
    reasons = accepted.reasons()
    assert reasons[UNIT] == reasons[ACCEPTANCE] == "it has no receipt"


def test_what_failed_is_not_spared_and_neither_is_what_would_have_followed(
    accepted: Accepted,
) -> None:
    """Nothing changed, it was only asked to run again, and did not get to the end."""
    accepted.stands = False
    started = accepted.checkout.start("release.acceptance", FRESH="1")
    started.until_said(f"{IMAGE} | passed")
    assert started.signalled(signal.SIGTERM).code == 128 + signal.SIGTERM
    assert accepted.checkout.on_engine() == []
    assert accepted.reasons()[ACCEPTANCE] == "it has no receipt"
    publish = {"REGISTRY": "127.0.0.1:1", "INDEX_URL": "http://127.0.0.1:1/"}
    (accepted.root / "NOTES").unlink()  # others get nothing that is not committed
    result = accepted.checkout.invoke("publish.image", **publish)
    assert result.code == 1
    assert "there is no receipt of" in result.err


def test_clean_first_and_then_everything(interrupted: Accepted) -> None:
    accepted = interrupted
    accepted.checkout.passes("build.base")
    secrets = (accepted.target / "secrets" / "local.env").read_text()
    (accepted.target / "old").mkdir()
    _, ran = accepted.run("clean", "release.acceptance")
    assert ran == {"clean", *accepted.plan(FRESH="1")}
    assert not (accepted.target / "old").exists()
    assert len(list((accepted.target / "runs").iterdir())) == 1
    assert list((accepted.target / "wheelhouse").glob("todo*.whl"))
    assert (accepted.target / "secrets" / "local.env").read_text() == secrets
    assert accepted.checkout.on_engine() == []
    assert accepted.reasons() == {}
