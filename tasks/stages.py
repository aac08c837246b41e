"""What makes an Invoke task a stage, and how the graph of stages is executed.

Invoke runs a task's `pre` tasks one after the other. Here they are a graph: a stage starts as soon
as those it depends on have passed, independent ones side by side, each of them once. The first
failure ends the run, and whatever way a run ends, its environments are taken down.
"""

from __future__ import annotations

import contextvars
import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Self, cast

import invoke.executor
from invoke.collection import Collection
from invoke.exceptions import Exit, ParseError
from invoke.main import program
from invoke.tasks import Call, Task

from tasks.engine.plan import Node
from tasks.errors import DiskFailure, Failure, Interrupted, Misconfigured, UsageError

if TYPE_CHECKING:
    from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LONGEST_SLEEP = 0.5
Events = SimpleQueue[Future[None] | Interrupted]
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}


class Stage(Task[Any]):
    """A task that does something. Its body gets the run, and has no parameters.

    `receipt` names what it writes when it passes: a stage with a receipt for unchanged inputs is
    not run again. `builds` is the role of the images it builds, so that one build can make all that
    a run needs. `alone` stages wait for all that were named before them, and those named after
    wait for them.
    """

    alone = False
    changes = True

    def __init__(self, *args: Any, receipt: str = "", builds: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.receipt = receipt
        self.builds = builds

    @property
    def needs(self) -> list[Stage]:
        """The stages it depends on."""
        tasks = (call.task if isinstance(call, Call) else call for call in self.pre)
        return [cast("Stage", task) for task in tasks]

    # Invoke takes two tasks of one name whose bodies look alike for the same one, and copies tasks
    # as it loads the tree. A stage is itself, and nothing else.
    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __deepcopy__(self, memo: object) -> Self:
        return self


class Removal(Stage):
    """A stage that takes away what others have made: never side by side with them."""

    alone = True


class Question(Stage):
    """A task that prints an answer and changes nothing: it waits for no other run."""

    alone = True
    changes = False


class Plan(Question):
    """Named before other tasks, it has them planned instead of executed."""


class Executor(invoke.executor.Executor):
    """Executes the graph of all tasks on the command line."""

    def execute(self, *tasks: Any) -> dict[Any, Any]:
        """Run the tasks; raises Exit with the exit code of the first failure."""
        self.config.load_collection(self.collection.configuration())
        self.config.load_shell_env()
        try:
            with _signals_raise() as signals:
                self._run(self.normalize(tasks), signals)
        except Failure as failure:
            _show(failure)
            raise Exit(code=failure.exit_code) from failure
        return {}

    def _run(self, asked: list[Call], signals: _Signals) -> None:
        from tasks.engine.run import Run  # noqa: PLC0415  (`invoke --list` needs none of it)

        names = dict(_named(self.collection))
        planned = any(isinstance(call.task, Plan) for call in asked)
        asked = [call for call in asked if not isinstance(call.task, Plan)]
        if planned and not asked:
            asked = self.normalize((self.config.plan,))
        stages = _stages(self.dedupe(self.expand_calls(asked)))
        goals = {names[call.task] for call in asked}
        nodes = [
            Node(names[s], tuple(names[n] for n in s.needs), s.receipt, names[s] in goals, s.builds)
            for s in stages
        ]
        dry = self.config.run.dry or planned
        changes = any(stage.changes for stage in stages)
        # What is removed first cannot stand in for what comes after.
        removals = [names[stage] for stage in stages if isinstance(stage, Removal)]
        fresh = f"nothing is spared beside {removals[0]}" if removals else ""
        with (
            _disk_failures(),
            Run(ROOT, self.config.env, goals, os.environ, dry=dry, changes=changes) as run,
            signals.until_teardown(run.left),
        ):
            if planned:
                run.show_plan(nodes, fresh=fresh)
                return
            runs = run.spare(nodes, fresh=fresh)

            def enter(stage: Stage) -> None:
                with run.stage(names[stage], stage.receipt) if stage.changes else nullcontext():
                    stage.body(run)

            execute(
                [stage for stage in stages if names[stage] in runs],
                enter,
                1 if dry else run.settings.jobs,
                cancel=run.give_up,
                signals=signals,
            )


def execute(
    stages: Sequence[Stage],
    body: Callable[[Stage], None],
    jobs: int,
    cancel: Callable[[], None] = lambda: None,
    signals: _Signals | None = None,
) -> None:
    """Call `body` with each of `stages`, as soon as those it depends on have passed.

    `stages` are in an order in which they could run one by one, and do if `jobs` is 1; else that
    many run at a time, those first that the longest chain of others waits for.
    After a failure, or the first of `signals`, none is started any more, `cancel` is called, and
    the failure is raised when those that run have ended. Raises Misconfigured if the stages depend
    on one another in a circle.
    """
    dependencies = _dependencies(stages)
    sorter = TopologicalSorter(dependencies)
    try:
        sorter.prepare()
    except CycleError as error:
        raise Misconfigured(f"stages depend on one another in a circle: {error.args[1]}") from None
    # One by one, nothing is won by another order than the one that was asked for.
    behind = _behind(stages, dependencies) if jobs > 1 else dict.fromkeys(stages, 0)
    waiting: list[Stage] = []
    running: dict[Future[None], Stage] = {}
    failure: BaseException | None = None
    events: Events = SimpleQueue()
    with (
        (signals or _Signals()).told_to(events.put),
        ThreadPoolExecutor(jobs, thread_name_prefix="stage") as pool,
    ):
        try:
            while sorter.is_active():
                waiting.extend(sorter.get_ready())
                waiting.sort(key=lambda stage: (-behind[stage], stages.index(stage)))
                while waiting and len(running) < jobs and failure is None:
                    stage = waiting.pop(0)
                    context = contextvars.copy_context()
                    future = pool.submit(context.run, body, stage)
                    running[future] = stage
                    future.add_done_callback(events.put)
                if not running:
                    break
                ended = _next_end(events)
                sorter.done(running.pop(ended))
                if failure is None and (failure := ended.exception()) is not None:
                    cancel()
        except BaseException:
            cancel()
            raise
    if failure is not None:
        raise failure


def _next_end(events: Events) -> Future[None]:
    """Wait for the next stage to end and return it; raises Interrupted if that comes before."""
    while True:
        # Now and then awake: a signal that came just before we sleep wakes nobody.
        with suppress(Empty):
            event = events.get(timeout=LONGEST_SLEEP)
            if isinstance(event, Interrupted):
                raise event
            return event


def _stages(calls: Sequence[Call]) -> list[Stage]:
    strangers = [call.task.name for call in calls if not isinstance(call.task, Stage)]
    if strangers:
        raise Misconfigured(f"{strangers} are no stages", hint="@task(klass=Stage)")
    return [cast("Stage", call.task) for call in calls]


def _dependencies(stages: Sequence[Stage]) -> dict[Stage, set[Stage]]:
    there = set(stages)
    graph: dict[Stage, set[Stage]] = {stage: there & set(stage.needs) for stage in stages}
    for index, stage in enumerate(stages):
        if stage.alone:
            graph[stage] |= set(stages[:index])
            for later in stages[index + 1 :]:
                graph[later].add(stage)
    return graph


def _behind(stages: Sequence[Stage], dependencies: Mapping[Stage, set[Stage]]) -> dict[Stage, int]:
    """Return, by stage, the length of the longest chain of stages that waits for it."""
    behind = dict.fromkeys(stages, 0)
    for stage in reversed(stages):
        for needed in dependencies[stage]:
            behind[needed] = max(behind[needed], behind[stage] + 1)
    return behind


def _named(collection: Collection, prefix: str = "") -> Iterator[tuple[Task[Any], str]]:
    """Yield all tasks of a tree with their full names."""
    for name, task in collection.tasks.items():
        yield task, prefix + name
    for name, inner in collection.collections.items():
        yield from _named(inner, f"{prefix}{name}.")


def usage_errors_end_with_2() -> None:
    """Have Invoke end with 2, not 1, on a command line that it does not understand.

    1 is for stages that failed, and the two are not the same to a script.
    """
    parse = program.parse_tasks

    def parse_tasks() -> None:
        try:
            parse()
        except ParseError as error:
            raise Exit(str(error), code=UsageError.exit_code) from error

    program.parse_tasks = parse_tasks  # type: ignore[method-assign]


def listings_may_be_cut_short() -> None:
    """Have Invoke end quietly when nobody reads its listing any more (`invoke --list | head`)."""
    list_tasks = program.list_tasks

    def listed() -> None:
        try:
            list_tasks()
            if sys.stdout:  # None if it was closed before we began
                sys.stdout.flush()
        except BrokenPipeError:
            # What is not written yet would be tried again at the end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    program.list_tasks = listed  # type: ignore[method-assign]


def _raise(interrupted: Interrupted) -> None:
    raise interrupted


class _Signals:
    """The signals that ask us to end, and how often they did.

    The first raises Interrupted, but not while the run is taken down, which is to be done to its
    end. Those that follow are ignored then, but for Ctrl-C: it forces the end at once and lists
    what is left.

    While threads are at work it is told and not raised: raised anywhere in the main thread, it may
    come between the taking of a lock and its giving back.
    """

    def __init__(self) -> None:
        self.first = 0
        self._teardown = False
        self._left: Callable[[], list[str]] = list
        self._tell: Callable[[Interrupted], None] = _raise

    @contextmanager
    def until_teardown(self, left: Callable[[], list[str]]) -> Iterator[None]:
        """Let the teardown begin where the block ends; `left` lists what there is to take down."""
        self._left = left
        try:
            yield
        finally:
            self._teardown = True

    @contextmanager
    def told_to(self, listener: Callable[[Interrupted], None]) -> Iterator[None]:
        """Have the first signal told to `listener` while the block lasts."""
        self._tell = listener
        try:
            yield
        finally:
            self._tell = _raise

    def interrupted(self) -> Interrupted:
        """Return the failure that the first signal is."""
        return Interrupted(self.first, signal.Signals(self.first).name)

    def handle(self, number: int, _: FrameType | None) -> None:
        """Handle a signal."""
        if not self.first:
            self.first = number
            if not self._teardown:
                self._tell(self.interrupted())
        elif number == signal.SIGINT:
            left = self._left() or ["nothing"]
            print("forced; left behind:", *left, sep="\n  ", file=sys.stderr)  # noqa: T201
            os._exit(128 + number)


@contextmanager
def _signals_raise() -> Iterator[_Signals]:
    """Turn the first signal that asks us to end into Interrupted, in the main thread."""
    signals = _Signals()
    # What is ignored (nohup) stays ignored.
    before = {s: signal.getsignal(s) for s in _SIGNALS if signal.getsignal(s) != signal.SIG_IGN}
    for number in before:
        signal.signal(number, signals.handle)
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if signals.first:
        raise signals.interrupted()


@contextmanager
def _disk_failures() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _DISK:
            raise DiskFailure(f"cannot write: {error}", hint="make room and try again") from error
        if error.errno in {errno.EACCES, errno.EPERM}:
            # A target/ that root made, for instance.
            hint = f"let user {os.getuid()} read and write there, and try again"
            raise DiskFailure(f"not allowed: {error}", hint=hint) from error
        raise


def _show(failure: Failure) -> None:
    from tasks.engine.console import Console  # noqa: PLC0415

    Console().failure(failure)
