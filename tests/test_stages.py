"""The graph of stages: order, sides, failures; and the signals that ask it all to end."""

from __future__ import annotations

import contextvars
import copy
import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from invoke.collection import Collection
from invoke.config import Config
from invoke.exceptions import Exit
from invoke.tasks import Task, call, task

from tasks.errors import DiskFailure, Interrupted, Misconfigured, StageFailed
from tasks.stages import (
    Executor,
    Question,
    Removal,
    Stage,
    _disk_failures,
    _named,
    execute,
)

HERE = Path(__file__).parents[1]
LIMIT = 30.0  # seconds until a test that would hang fails instead


def stage(name: str, *needs: Stage, klass: type[Stage] = Stage) -> Stage:
    def body(_: object) -> None:
        """Do nothing."""

    return klass(body, name=name, pre=list(needs))


class Record:
    """A body that notes which stages were begun, in order, and what else is asked of it."""

    def __init__(self, **actions: Callable[[], object]) -> None:
        self.begun: list[str] = []
        self.most = 0
        self._now = 0
        self._actions = actions
        self._lock = threading.Lock()

    def __call__(self, stage: Stage) -> None:
        with self._lock:
            self.begun.append(stage.name)
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            self._actions.get(stage.name, lambda: None)()
        finally:
            with self._lock:
                self._now -= 1


def waits_for(event: threading.Event) -> Callable[[], None]:
    def wait() -> None:
        assert event.wait(LIMIT)

    return wait


def fails(message: str) -> Callable[[], None]:
    def fail() -> None:
        raise StageFailed(message)

    return fail


# --- order ---------------------------------------------------------------------------------------


def test_no_stages_are_no_work() -> None:
    record = Record()
    execute([], record, 2)
    assert record.begun == []


def test_one_after_the_other_in_the_order_given() -> None:
    base = stage("base")
    wheels, services = stage("wheels", base), stage("services", base)
    image = stage("image", wheels)
    for order in ([base, services, wheels, image], [base, wheels, image, services]):
        record = Record()
        execute(order, record, 1)
        assert record.begun == [one.name for one in order]
        assert record.most == 1


def test_what_the_longest_chain_waits_for_comes_first() -> None:
    base = stage("base")
    tests = stage("tests", base)
    services, wheels = stage("services", base), stage("wheels", base)
    image = stage("image", wheels)
    start = stage("start", image, services)
    begun: list[str] = []
    both = threading.Barrier(2)

    def body(one: Stage) -> None:
        begun.append(one.name)
        if one in {services, wheels}:
            both.wait(LIMIT)  # the tests, which nothing waits for, are not what is beside

    execute([base, tests, services, wheels, image, start], body, 2)
    assert set(begun[1:3]) == {"services", "wheels"}


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_each_once_and_after_those_it_needs(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 8))
    stages: list[Stage] = []
    for number in range(count):
        needs = data.draw(st.lists(st.sampled_from(stages), unique_by=id)) if stages else []
        klass = data.draw(st.sampled_from([Stage, Stage, Removal]))
        stages.append(stage(str(number), *needs, klass=klass))
    record = Record()
    jobs = data.draw(st.integers(1, 4))
    execute(stages, record, jobs)
    assert sorted(record.begun) == [str(number) for number in range(count)]
    assert record.most <= jobs
    place = {name: index for index, name in enumerate(record.begun)}
    for one in stages:
        assert all(place[need.name] < place[one.name] for need in one.needs)


def test_needs_may_be_calls_as_invoke_makes_them() -> None:
    first = stage("first")
    second = Stage(first.body, name="second", pre=[call(first)])
    assert second.needs == [first]
    record = Record()
    execute([first, second], record, 2)
    assert record.begun == ["first", "second"]


def test_needs_that_are_not_to_run_are_not_waited_for() -> None:
    spared = stage("spared")
    record = Record()
    execute([stage("image", spared)], record, 1)
    assert record.begun == ["image"]


# --- side by side --------------------------------------------------------------------------------


def test_independent_stages_run_side_by_side() -> None:
    meeting = threading.Barrier(2, timeout=LIMIT)
    record = Record(unit=meeting.wait, wheels=meeting.wait)
    execute([stage("unit"), stage("wheels")], record, 2)
    assert record.most == 2


def test_no_more_than_jobs_at_a_time() -> None:
    meeting = threading.Barrier(2, timeout=LIMIT)
    names = ["a", "b", "c", "d"]
    record = Record(**dict.fromkeys(names, meeting.wait))  # two by two: one alone would wait
    execute([stage(name) for name in names], record, 2)
    assert record.most == 2


def test_a_stage_begins_as_soon_as_its_own_needs_have_passed() -> None:
    # It does not wait for others that merely began at the same time as those.
    passed = threading.Event()
    slow = stage("slow")
    base = stage("base")
    wheels = stage("wheels", base)
    record = Record(slow=waits_for(passed), wheels=passed.set)
    execute([slow, base, wheels], record, 2)
    assert sorted(record.begun[:2]) == ["base", "slow"]
    assert record.begun[2:] == ["wheels"]


def test_of_those_that_could_begin_the_first_one_given_does() -> None:
    base = stage("base")
    stages = [base, *(stage(name, base) for name in ("x", "a", "m"))]
    record = Record()
    execute(stages, record, 1)
    assert record.begun == ["base", "x", "a", "m"]


def test_each_has_a_context_of_its_own() -> None:
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="none")
    name.set("caller's")
    seen: list[str] = []

    def body(one: Stage) -> None:
        seen.append(name.get())
        name.set(one.name)

    execute([stage("a"), stage("b")], body, 1)
    assert seen == ["caller's", "caller's"]
    assert name.get() == "caller's"


# --- failures ------------------------------------------------------------------------------------


def test_a_failure_is_raised_as_it_is() -> None:
    error = StageFailed("no", evidence=["line"])

    def fail() -> None:
        raise error

    with pytest.raises(StageFailed) as caught:
        execute([stage("a")], Record(a=fail), 1)
    assert caught.value is error


def test_after_a_failure_none_is_begun() -> None:
    base = stage("base")
    stages = [base, stage("image", base), stage("other")]
    record = Record(base=fails("no"))
    with pytest.raises(StageFailed, match="no"):
        execute(stages, record, 1)
    assert record.begun == ["base"]


def test_without_a_failure_all_are_begun() -> None:
    base = stage("base")
    record = Record()
    execute([base, stage("image", base), stage("other")], record, 1)
    assert record.begun == ["base", "image", "other"]


def test_the_first_failure_is_the_cause_and_the_others_are_ended_by_it() -> None:
    both = threading.Barrier(2, timeout=LIMIT)
    cancelled = threading.Event()

    def cause() -> None:
        both.wait()
        raise StageFailed("the cause")

    def consequence() -> None:
        both.wait()
        assert cancelled.wait(LIMIT)
        raise StageFailed("the command was ended")

    record = Record(a=cause, b=consequence)
    with pytest.raises(StageFailed, match="the cause"):
        execute([stage("a"), stage("b"), stage("c")], record, 2, cancel=cancelled.set)
    assert sorted(record.begun) == ["a", "b"]
    assert record._now == 0  # raised when all have ended, not before


def test_cancel_is_called_once_however_many_fail() -> None:
    meeting = threading.Barrier(3, timeout=LIMIT)
    calls: list[str] = []

    def fail() -> None:
        meeting.wait()
        raise StageFailed("no")

    with pytest.raises(StageFailed):
        execute(
            [stage(name) for name in "abc"],
            Record(a=fail, b=fail, c=fail),
            3,
            cancel=lambda: calls.append("cancel"),
        )
    assert calls == ["cancel"]


def test_cancel_is_not_called_when_all_pass() -> None:
    calls: list[str] = []
    execute([stage("a")], Record(), 1, cancel=lambda: calls.append("cancel"))
    assert calls == []


def test_a_bug_is_raised_too() -> None:
    def bug() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        execute([stage("a"), stage("b")], Record(a=bug), 1)


def test_a_signal_in_the_main_thread_ends_those_that_run() -> None:
    cancelled = threading.Event()

    def interrupt(number: int, _: object) -> None:
        raise Interrupted(number, "SIGUSR1")

    def ask_to_end() -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert cancelled.wait(LIMIT)

    record = Record(b=ask_to_end)
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pytest.raises(Interrupted) as caught:
            execute([stage(name) for name in "abc"], record, 1, cancel=cancelled.set)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert caught.value.exit_code == 128 + signal.SIGUSR1
    assert (record.begun, record._now) == (["a", "b"], 0)


def close_circle(first: Stage, last: Stage) -> None:
    # Invoke's annotation says that these were names.
    cast("list[Stage]", first.pre).append(last)


def test_a_circle_is_told() -> None:
    a = stage("a")
    b = stage("b", a)
    close_circle(a, b)
    record = Record()
    with pytest.raises(Misconfigured, match="in a circle") as caught:
        execute([a, b], record, 1)
    assert caught.value.exit_code == 78
    assert record.begun == []


def test_one_that_needs_itself_is_a_circle() -> None:
    a = stage("a")
    close_circle(a, a)
    with pytest.raises(Misconfigured, match="in a circle"):
        execute([a], Record(), 1)


# --- alone ---------------------------------------------------------------------------------------


def test_removals_and_questions_are_alone() -> None:
    assert (Stage.alone, Removal.alone, Question.alone) == (False, True, True)
    assert (Stage.changes, Removal.changes, Question.changes) == (True, True, False)


@pytest.mark.parametrize("klass", [Removal, Question])
def test_one_that_is_alone_is_a_wall(klass: type[Stage]) -> None:
    before = threading.Barrier(2, timeout=LIMIT)
    after = threading.Barrier(2, timeout=LIMIT)
    stages = [stage("a"), stage("b"), stage("alone", klass=klass), stage("c"), stage("d")]
    most_while_alone: list[int] = []
    record = Record(
        a=before.wait, b=before.wait, alone=lambda: most_while_alone.append(record._now),
        c=after.wait, d=after.wait,
    )  # fmt: skip
    execute(stages, record, 4)
    assert sorted(record.begun[:2]) == ["a", "b"]
    assert record.begun[2] == "alone"
    assert sorted(record.begun[3:]) == ["c", "d"]
    assert most_while_alone == [1]


def test_two_that_are_alone_keep_their_order() -> None:
    record = Record()
    execute([stage(name, klass=Removal) for name in ("stop", "clean")], record, 4)
    assert record.begun == ["stop", "clean"]
    assert record.most == 1


# --- what a stage is -----------------------------------------------------------------------------


def twins(klass: type[Task[Any]]) -> tuple[Task[Any], Task[Any]]:
    """Return two tasks that look alike: of one name, from one line of code."""

    def make() -> Task[Any]:
        def image(_: object) -> None:
            """Build an image."""

        return klass(image, name="image")

    return make(), make()


def test_a_stage_is_itself_and_nothing_else() -> None:
    one, other = twins(Stage)
    assert one == one  # noqa: PLR0124
    assert one != other
    assert len({one, other}) == 2
    assert copy.deepcopy(one) is one
    assert copy.deepcopy({"pre": [one]})["pre"][0] is one


def test_invokes_own_tasks_are_taken_for_one_another() -> None:
    one, other = twins(Task)
    assert one == other
    assert copy.deepcopy(one) is not one


def test_invoke_does_not_drop_one_of_two_stages_that_look_alike() -> None:
    one, other = twins(Stage)
    both = stage("both", one, other)  # type: ignore[arg-type]
    tree = Collection("root", both)
    executor = Executor(tree, Config())
    calls = executor.dedupe(executor.expand_calls(executor.normalize(("both",))))
    assert [call.task for call in calls] == [one, other, both]


def test_a_stage_writes_the_receipt_it_names() -> None:
    @task(klass=Stage, receipt="unit")
    def unit(_: object) -> None:
        """Test."""

    assert unit.receipt == "unit"
    assert stage("db").receipt == ""


def test_a_task_that_is_no_stage_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    @task
    def plain(_: object) -> None:
        """Do something in Invoke's own way."""

    with pytest.raises(Exit) as caught:
        Executor(Collection("root", plain), Config()).execute("plain")
    assert caught.value.code == 78
    assert "['plain'] are no stages" in capsys.readouterr().err


def test_tasks_are_named_with_their_folders() -> None:
    inner = Collection("inner", stage("a"))
    outer = Collection("outer", inner, stage("b"))
    assert sorted(name for _, name in _named(Collection("root", outer, stage("c")))) == [
        "c", "outer.b", "outer.inner.a",
    ]  # fmt: skip


# --- the disk ------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_a_disk_that_fails_is_told(number: int) -> None:
    with pytest.raises(DiskFailure, match="cannot write") as caught, _disk_failures():
        raise OSError(number, os.strerror(number), "target/x")
    assert caught.value.exit_code == 74
    assert "target/x" in caught.value.message


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_a_place_that_is_somebody_elses_is_told(number: int) -> None:
    with pytest.raises(DiskFailure, match="not allowed") as caught, _disk_failures():
        raise OSError(number, os.strerror(number), "target/lock")
    assert caught.value.exit_code == 74
    assert "target/lock" in caught.value.message
    assert "read and write" in caught.value.hint


def test_other_errors_are_not_the_disks() -> None:
    with pytest.raises(FileNotFoundError), _disk_failures():
        raise FileNotFoundError(errno.ENOENT, "no such file")
    with pytest.raises(KeyError), _disk_failures():
        raise KeyError


# --- signals -------------------------------------------------------------------------------------

PREAMBLE = """
import os, signal, sys, threading
for number in (signal.SIGINT, signal.SIGTERM):  # whatever the tests themselves were started with
    signal.signal(number, signal.SIG_DFL)
from tasks.errors import Failure
from tasks.stages import Stage, _signals_raise, execute
say = lambda *words: print(*words, flush=True)
"""
RUN = """
try:
    with _signals_raise() as signals:
        try:
            with signals.until_teardown(lambda: ["container one", "network two"]):
                say("working")
                sys.stdin.readline()
                say("done")
        finally:
            say("tearing down")
            sys.stdin.readline()
            say("torn down")
except Failure as failure:
    say(failure.message)
    sys.exit(failure.exit_code)
"""
SIGNALS = [
    (signal.SIGINT, "SIGINT", 130),
    (signal.SIGTERM, "SIGTERM", 143),
    (signal.SIGHUP, "SIGHUP", 129),
]


class Child:
    """A process that works until it is told otherwise."""

    def __init__(self, script: str, before: str = "") -> None:
        code = PREAMBLE + textwrap.dedent(script)
        self.process = subprocess.Popen(
            ["sh", "-c", f'{before or "trap - HUP"}; exec "$@"', "sh", sys.executable, "-c", code],
            cwd=HERE,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def tell(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go on\n")
        self.process.stdin.flush()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def ends(self) -> tuple[int, list[str], str]:
        """Return its exit code, what else it said, and what it complained about."""
        out, err = self.process.communicate(timeout=LIMIT)
        return self.process.returncode, out.splitlines(), err


@pytest.fixture
def start() -> Iterator[Callable[..., Child]]:
    children: list[Child] = []

    def start(script: str, before: str = "") -> Child:
        children.append(Child(script, before))
        return children[-1]

    yield start
    for child in children:
        child.process.kill()
        child.process.communicate()


Start = Callable[..., Child]


def test_without_a_signal_the_work_is_done(start: Start) -> None:
    child = start(RUN)
    assert child.says() == "working"
    child.tell()
    child.tell()
    assert child.ends() == (0, ["done", "tearing down", "torn down"], "")


@pytest.mark.parametrize(("number", "name", "code"), SIGNALS)
def test_a_signal_ends_the_work_and_has_it_torn_down(
    start: Start, number: int, name: str, code: int
) -> None:
    child = start(RUN)
    assert child.says() == "working"
    child.signal(number)
    assert child.says() == "tearing down"
    child.tell()
    assert child.ends() == (code, ["torn down", f"interrupted by {name}"], "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_does_not_disturb_the_teardown(start: Start, number: int) -> None:
    child = start(RUN)
    assert child.says() == "working"
    child.signal(signal.SIGINT)
    assert child.says() == "tearing down"
    child.signal(number)
    child.tell()
    assert child.ends() == (130, ["torn down", "interrupted by SIGINT"], "")


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_in_the_teardown_forces_the_end_and_lists_what_is_left(
    start: Start, first: int
) -> None:
    child = start(RUN)
    assert child.says() == "working"
    child.signal(first)
    assert child.says() == "tearing down"
    child.signal(signal.SIGINT)
    assert child.ends() == (130, [], "forced; left behind:\n  container one\n  network two\n")


@pytest.mark.parametrize(("number", "name", "code"), SIGNALS)
def test_the_first_signal_does_not_disturb_the_teardown_either(
    start: Start, number: int, name: str, code: int
) -> None:
    child = start(RUN)
    assert child.says() == "working"
    child.tell()
    assert child.says() == "done"
    assert child.says() == "tearing down"
    child.signal(number)
    child.tell()
    assert child.ends() == (code, ["torn down", f"interrupted by {name}"], "")


def test_a_failure_is_not_hidden_by_a_signal_in_the_teardown(start: Start) -> None:
    script = RUN.replace('say("done")', 'raise Failure("the stage failed")')
    child = start(script)
    assert child.says() == "working"
    child.tell()
    assert child.says() == "tearing down"
    child.signal(signal.SIGTERM)
    child.tell()
    assert child.ends() == (1, ["torn down", "the stage failed"], "")


def test_forced_with_nothing_left(start: Start) -> None:
    child = start(RUN.replace('["container one", "network two"]', "[]"))
    assert child.says() == "working"
    child.signal(signal.SIGINT)
    assert child.says() == "tearing down"
    child.signal(signal.SIGINT)
    assert child.ends() == (130, [], "forced; left behind:\n  nothing\n")


def test_a_hangup_that_is_ignored_stays_ignored(start: Start) -> None:
    child = start(RUN, before='trap "" HUP')  # as nohup does
    assert child.says() == "working"
    child.signal(signal.SIGHUP)
    child.signal(signal.SIGTERM)
    assert child.says() == "tearing down"
    child.signal(signal.SIGHUP)
    child.tell()
    assert child.ends() == (143, ["torn down", "interrupted by SIGTERM"], "")


def test_afterwards_signals_are_what_they_were(start: Start) -> None:
    child = start("""
        with _signals_raise():
            pass
        say("working")
        sys.stdin.readline()
    """)
    assert child.says() == "working"
    child.signal(signal.SIGTERM)
    assert child.ends() == (-signal.SIGTERM, [], "")


@pytest.mark.parametrize(("number", "name", "code"), SIGNALS)
def test_a_signal_ends_stages_that_run_side_by_side(
    start: Start, number: int, name: str, code: int
) -> None:
    child = start("""
        cancelled = threading.Event()
        both = threading.Barrier(2)
        def body(stage):
            if both.wait() == 0:
                say("working")
            cancelled.wait()
        stages = [Stage(lambda run: None, name=name) for name in "abc"]
        try:
            with _signals_raise() as signals:
                execute(stages, body, 2, cancel=cancelled.set, signals=signals)
        except Failure as failure:
            say(failure.message)
            sys.exit(failure.exit_code)
    """)
    assert child.says() == "working"
    child.signal(number)
    assert child.ends() == (code, [f"interrupted by {name}"], "")
