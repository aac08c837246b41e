"""One run: its record, what it tears down and what it keeps, whatever way it ends."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tasks.engine import run as run_room
from tasks.engine.checkout import locked
from tasks.engine.run import RUNS_KEPT, Run
from tasks.errors import Busy, Failure, Misconfigured, StageFailed
from tests.engine.conftest import ContainerDouble

if TYPE_CHECKING:
    from tests.engine.conftest import EngineDouble, Programs

HERE = Path(__file__).parents[2]

Start = Callable[..., Run]

PASSWORD = {"APP_DB_PASSWORD": "tr0ub4dor"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    (root / "env").mkdir(parents=True)
    (root / "env" / "local.env").touch()
    (root / "compose").mkdir()
    shutil.copy(HERE / "bootstrap", root)
    return root


@pytest.fixture
def start(
    root: Path, engine: EngineDouble, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> Start:
    """Return a function that makes a run, whose engine and programs are doubles."""
    monkeypatch.setattr(run_room, "Engine", lambda _: engine.as_engine)
    assert programs.calls == []

    def start(*goals: str, dry: bool = False, changes: bool = True, **environ: str) -> Run:
        environ = {"PATH": os.environ["PATH"], **environ}
        return Run(root, "local", goals, environ, dry=dry, changes=changes)

    return start


def record(root: Path) -> dict[str, Any]:
    (path,) = (root / "target" / "runs").glob("*/run.json")
    about: dict[str, Any] = json.loads(path.read_text())
    return about


def log(root: Path) -> str:
    (path,) = (root / "target" / "runs").glob("*/log.txt")
    return path.read_text()


def open_tests(run: Run) -> None:
    assert run.test_environment


def open_release(run: Run) -> None:
    assert run.release_environment.own


def fail(run: Run, failure: BaseException, *before: Callable[[Run], object]) -> None:
    """Run a stage that does something, and fails."""
    with run, run.stage("test.unit"):
        for action in before or (open_tests,):
            action(run)
        raise failure


# --- its record ----------------------------------------------------------------------------------


def test_a_run_that_passes_is_recorded(start: Start, root: Path) -> None:
    with start("test.unit") as run:
        with run.stage("build.base"):
            run.console.line("a line")
        with run.stage("test.unit"):
            pass
    about = record(root)
    assert about["id"] == run.id
    assert about["goals"] == ["test.unit"]
    assert (about["environment"], about["revision"]) == ("local", "unversioned")
    assert (about["exit_code"], about["failure"]) == (0, "")
    assert [(one["name"], one["result"]) for one in about["stages"]] == [
        ("build.base", "passed"),
        ("test.unit", "passed"),
    ]
    lines = log(root).splitlines()
    assert lines[:3] == ["build.base | started", "build.base | a line", lines[2]]
    assert lines[2].startswith("build.base | passed in ")
    assert not (root / "target" / "holder.json").exists()


@pytest.mark.parametrize(
    ("failure", "code"),
    [(StageFailed("tests: 1 failed"), 1), (Misconfigured("tests: 1 failed"), 78)],
)
def test_a_run_that_fails_is_recorded(
    start: Start, root: Path, failure: Failure, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(type(failure)) as caught:
        fail(start("test.unit"), failure)
    assert caught.value is failure
    about = record(root)
    assert (about["exit_code"], about["failure"]) == (code, "tests: 1 failed")
    assert [(one["name"], one["result"]) for one in about["stages"]] == [("test.unit", "failed")]
    # told once, on the terminal and in the log
    assert capsys.readouterr().err.count("failed: tests: 1 failed") == 1
    assert "failed: tests: 1 failed" in log(root)


def test_a_bug_is_recorded_too(start: Start, root: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        fail(start("test.unit"), ZeroDivisionError("division by zero"))
    assert record(root)["exit_code"] == 1


def test_a_secret_is_masked_in_record_and_log(start: Start, root: Path) -> None:
    with pytest.raises(StageFailed):
        fail(start("test.unit", **PASSWORD), StageFailed("refused: tr0ub4dor"))
    assert record(root)["failure"] == "refused: ********"
    assert "tr0ub4dor" not in log(root)


def test_old_runs_are_forgotten(start: Start, root: Path) -> None:
    runs = root / "target" / "runs"
    for number in range(RUNS_KEPT + 5):
        (runs / f"20200101-0000{number:02}-abcd").mkdir(parents=True)
    with start("test.unit") as run:
        pass
    left = sorted(path.name for path in runs.iterdir())
    assert len(left) == RUNS_KEPT
    assert left[-1] == run.id
    assert left[0] == "20200101-000006-abcd"


# --- who may run ---------------------------------------------------------------------------------


def test_two_runs_do_not_change_one_checkout(start: Start, root: Path) -> None:
    with start("build.wheels") as first, first.stage("build.wheels"):
        with pytest.raises(Busy, match=r"in stage build\.wheels"), start("test.unit"):
            pytest.fail("a second run got in")
        with start("release.settings", changes=False), start("test.unit", dry=True):
            pass  # those that change nothing need not wait
    assert len(list((root / "target" / "runs").iterdir())) == 1


@pytest.mark.parametrize("way", ["question", "dry"])
@pytest.mark.parametrize("ends", ["well", "badly"])
def test_a_run_that_changes_nothing_leaves_nothing(
    start: Start, root: Path, engine: EngineDouble, way: str, ends: str
) -> None:
    engine.put(ContainerDouble("db", lines=("a line",)))
    run = start("test.unit", dry=way == "dry", changes=way == "dry")
    if ends == "well":
        with run, run.stage("test.unit"):
            pass
    else:
        with pytest.raises(StageFailed):
            fail(run, StageFailed("no"))
    assert not (root / "target").exists()


def test_programs_see_of_the_environment_what_they_need_and_no_more(start: Start) -> None:
    given = {
        "HOME": "/home/me", "DOCKER_HOST": "ssh://elsewhere", "SSH_AUTH_SOCK": "/s", "LC_ALL": "C",
        "https_proxy": "http://proxy", "APP_X": "1", "HTTP_PORT": "80", "PYTHONPATH": "/x",
        "COMPOSE_FILE": "other.yaml", "COMPOSE_PROFILES": "debug",
    }  # fmt: skip
    run = start("test.unit", changes=False, **given)
    lines = run.tools.processes.read(["env"]).splitlines()
    seen = {line.partition("=")[0] for line in lines}
    assert seen - {"PWD", "SHLVL", "_"} == {
        "PATH", "HOME", "DOCKER_HOST", "SSH_AUTH_SOCK", "LC_ALL", "https_proxy",
    }  # fmt: skip


# --- its end -------------------------------------------------------------------------------------


def removed(engine: EngineDouble) -> list[str]:
    return [labels["com.docker.compose.project"].rpartition("-")[2] for labels in engine.removed]


def test_its_environments_are_removed(start: Start, engine: EngineDouble) -> None:
    with start("release.acceptance") as run:
        assert run.test_environment is run.test_environment
        assert run.release_environment
        assert removed(engine) == []
    assert removed(engine) == ["test", "acceptance"]


def test_those_it_did_not_open_are_left_alone(start: Start, engine: EngineDouble) -> None:
    with start("build.wheels"):
        pass
    assert removed(engine) == []


@pytest.mark.parametrize("error", [StageFailed("no"), KeyboardInterrupt(), ZeroDivisionError()])
def test_they_are_removed_whatever_happened(
    start: Start, engine: EngineDouble, error: BaseException
) -> None:
    with pytest.raises(type(error)):
        fail(start("test.unit"), error)
    assert removed(engine) == ["test"]


def test_logs_are_kept_of_a_run_that_failed(start: Start, root: Path, engine: EngineDouble) -> None:
    def print_password(_: Run) -> None:
        engine.put(ContainerDouble("db", lines=("ready", "password is tr0ub4dor")))

    with pytest.raises(StageFailed):
        fail(start("test.unit", **PASSWORD), StageFailed("no"), open_tests, print_password)
    (saved,) = (root / "target" / "runs").glob("*/seatrial-*-local-test.log")
    assert saved.read_text() == "db | ready\ndb | password is ********\n"


def test_none_are_kept_of_one_that_passed(start: Start, root: Path) -> None:
    with start("test.unit") as run:
        assert run.test_environment
    assert list((root / "target" / "runs").glob("*/seatrial-*.log")) == []


@pytest.mark.parametrize(("keep", "kept"), [("never", False), ("failure", True), ("always", True)])
def test_what_is_kept_of_a_run_that_failed(
    start: Start, engine: EngineDouble, capsys: pytest.CaptureFixture[str], keep: str, *, kept: bool
) -> None:
    with pytest.raises(StageFailed):
        fail(
            start("test.unit", KEEP=keep), StageFailed("no"),
            open_tests, lambda _: engine.put(ContainerDouble("db")),
        )  # fmt: skip
    assert (removed(engine) == []) == kept
    told = "-local-test goes on running; invoke clean removes it"
    assert (told in capsys.readouterr().err) == kept


@pytest.mark.parametrize(("keep", "kept"), [("never", False), ("failure", False), ("always", True)])
def test_what_is_kept_of_one_that_passed(
    start: Start, engine: EngineDouble, keep: str, *, kept: bool
) -> None:
    with start("test.unit", KEEP=keep) as run:
        open_tests(run)
    assert (removed(engine) == []) == kept


@pytest.mark.parametrize("goal", ["release.start", "release.db", "release.bootstrap"])
def test_the_users_own_release_goes_on_running(
    start: Start, engine: EngineDouble, capsys: pytest.CaptureFixture[str], goal: str
) -> None:
    with start(goal) as run:
        assert run.release_environment.own
        engine.put(ContainerDouble("db"))
    assert removed(engine) == []
    assert "-local-release goes on running; invoke release.stop" in capsys.readouterr().err


def test_one_that_could_not_be_started_does_not(start: Start, engine: EngineDouble) -> None:
    with pytest.raises(StageFailed):
        fail(start("release.start"), StageFailed("no"), open_release)
    assert removed(engine) == ["release"]


def test_one_that_ran_before_outlives_a_failure(start: Start, engine: EngineDouble) -> None:
    engine.put(ContainerDouble("db", labels={"seatrial.run": "run-0"}))
    with pytest.raises(StageFailed):
        fail(start("release.start"), StageFailed("no"), open_release)
    assert removed(engine) == []


def test_an_acceptance_leaves_the_users_own_release_alone(
    start: Start, engine: EngineDouble
) -> None:
    with start("release.acceptance") as run:
        assert not run.release_environment.own
    assert removed(engine) == ["acceptance"]


def test_a_teardown_that_fails_is_loud_though_all_tests_passed(
    start: Start, root: Path, engine: EngineDouble, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.left = ["network x: has active endpoints"]
    with pytest.raises(StageFailed, match="not everything could") as caught, start("test") as run:
        open_tests(run)
    assert "network x: has active endpoints" in caught.value.evidence
    assert "invoke clean" in caught.value.hint
    assert record(root)["exit_code"] == 1
    assert "network x: has active endpoints" in capsys.readouterr().err


def test_a_teardown_that_fails_does_not_hide_why_the_run_did(
    start: Start, root: Path, engine: EngineDouble, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.left = ["network x: has active endpoints"]
    with pytest.raises(Misconfigured, match="the cause"):
        fail(start("test.unit"), Misconfigured("the cause"))
    told = capsys.readouterr().err
    assert "failed: not everything could be removed" in told
    assert "failed: the cause" in told
    assert record(root)["exit_code"] == 78


def test_what_is_left_can_be_listed_before_it_is_removed(
    start: Start, engine: EngineDouble
) -> None:
    with start("test.unit") as run:
        assert run.left() == []
        assert run.test_environment
        engine.put(ContainerDouble("db"))
        assert run.left() == ["seatrial-db-1"]


def test_given_up_it_starts_nothing_more(
    start: Start, programs: Programs, engine: EngineDouble
) -> None:
    programs.put("docker", """echo '{"services": {}}'""")
    with start("test.unit") as run:
        environment = run.test_environment
        run.give_up()
        with pytest.raises(StageFailed, match="the run is ending"):
            environment.up("db")
    assert not [call for call in programs.calls if " config " not in call]
    assert removed(engine) == ["test"]


# --- clean ---------------------------------------------------------------------------------------


def test_clean_leaves_nothing(start: Start, root: Path, engine: EngineDouble) -> None:
    (root / "target" / "reports").mkdir(parents=True)
    with start("clean") as run, run.stage("clean"):
        run.clean()
    assert not (root / "target").exists()
    assert len(engine.removed) == 1
    assert engine.images_removed == [(run.tools.checkout.labels, False)]


def test_clean_removes_under_the_lock(
    start: Start, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whoever waits for the lock begins to write as soon as it is free.
    rmtree = shutil.rmtree
    seen: list[Path] = []

    def watched(path: Path, *arguments: Any, **named: Any) -> None:
        if Path(path) == root / "target":
            seen.append(path)
            with pytest.raises(Busy), locked(run.tools.checkout, 0, "test.unit"):
                pytest.fail("somebody else got in")
        rmtree(path, *arguments, **named)

    monkeypatch.setattr(shutil, "rmtree", watched)
    with start("clean") as run, run.stage("clean"):
        run.clean()
    assert seen == [root / "target"]


def test_a_clean_that_fails_keeps_its_record(
    start: Start, root: Path, engine: EngineDouble
) -> None:
    engine.left = ["volume x: in use"]
    with pytest.raises(StageFailed, match="not everything could") as caught, start("clean") as run:
        run.clean()
    assert caught.value.evidence == ("volume x: in use",)
    assert record(root)["exit_code"] == 1


def test_what_comes_after_clean_keeps_its_record(start: Start, root: Path) -> None:
    with start("clean", "build.base") as run:
        with run.stage("clean"):
            run.clean()
        with run.stage("build.base"):
            pass
    assert [one["name"] for one in record(root)["stages"]] == ["clean", "build.base"]


def test_a_dry_clean_removes_nothing(
    start: Start, root: Path, engine: EngineDouble, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "target" / "reports").mkdir(parents=True)
    with start("clean", dry=True) as run, run.stage("clean"):
        run.clean()
    assert (root / "target" / "reports").is_dir()
    assert engine.removed == []
    assert "remove everything with the labels" in capsys.readouterr().out
