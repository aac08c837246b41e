"""One run of the collection: what its stages share, its record, and its end."""

from __future__ import annotations

import json
import secrets
import shutil
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from tasks import settings as settings_room
from tasks.engine import plan, shelf, source
from tasks.engine.api import Engine
from tasks.engine.checkout import identify, locked, note_stage
from tasks.engine.console import Console, masker
from tasks.engine.environments import PublishEnvironment, ReleaseEnvironment, TestEnvironment
from tasks.engine.images import Images
from tasks.engine.inputs import Ledger, gather
from tasks.engine.plan import Decision, Node
from tasks.engine.process import Processes
from tasks.engine.roles import PublishRoles, ReleaseRoles, TestRoles
from tasks.engine.tools import Tools
from tasks.errors import Failure, StageFailed

if TYPE_CHECKING:
    from tasks.engine.publishing import Publisher
    from tasks.engine.witness import Witness

SomeEnvironment = TestEnvironment | ReleaseEnvironment | PublishEnvironment
AnyEnvironment = TypeVar("AnyEnvironment", TestEnvironment, ReleaseEnvironment, PublishEnvironment)

RUNS_KEPT = 20

# Variables that Docker, its credential helpers, git and TLS need. Nothing else of the process
# environment reaches a command: Compose is to see what the settings say, and only that.
_PASSED_ON = ("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "LANG", "TERM", "SYSTEMROOT", "NO_COLOR")
_PASSED_ON_PREFIXES = (
    "LC_", "XDG_", "DOCKER_", "BUILDX_", "BUILDKIT_", "SSH_", "SSL_", "GIT_", "AWS_", "GOOGLE_",
    "AZURE_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
)  # fmt: skip

# Stages that leave a release environment to the user if they are asked for by name.
_OWN_STAGES = frozenset({"release.db", "release.bootstrap", "release.start"})


class Run:
    """What the stages of one run share.

    `goals` are the stages asked for by name; `environment` the name of the settings; `environ` the
    process environment. With `changes` false the run only asks: it takes no lock and leaves no
    record. As a context manager it tears down, at the end of its block, what is not to be kept.
    """

    def __init__(
        self,
        root: Path,
        environment: str,
        goals: Collection[str],
        environ: Mapping[str, str],
        *,
        dry: bool,
        changes: bool,
    ) -> None:
        self.console = Console()
        self._goals = frozenset(goals)
        self._changes = changes and not dry
        self._began = time.time()
        self.id = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        passed_on = {
            name: value
            for name, value in environ.items()
            if name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIXES)
        }
        processes = Processes(self.console, passed_on, root, dry=dry)
        self.settings = settings_room.load(
            environment,
            root,
            environ,
            generate=not dry,
            tracked=lambda path: _tracked(processes, path),
        )
        self.console.mask = masker(self.settings.secrets())
        self.tools = Tools(
            settings=self.settings,
            console=self.console,
            processes=processes,
            engine=Engine(passed_on),
            checkout=identify(root, self.settings.project),
            environ=environ,
            dry=dry,
        )
        # Whether `target/` goes at the end, this run's record with it: nothing came after `clean`.
        self.forgotten = False
        self._stack = ExitStack()
        self._environments: dict[str, SomeEnvironment] = {}
        self._opening = threading.Lock()
        self._stages: list[dict[str, Any]] = []

    # --- what stages use -------------------------------------------------------------------------

    @property
    def dry(self) -> bool:
        """Whether this run shows what it would do, and does nothing."""
        return self.tools.dry

    @cached_property
    def source(self) -> source.Source:
        """The commit this run is about."""
        return source.inspect(self.tools.checkout.root, self.tools.processes)

    @cached_property
    def images(self) -> Images:
        """The project's images."""
        return Images(self.tools, self.source)

    @cached_property
    def witness(self) -> Witness:
        """Who writes the receipts of this run."""
        # As below: it is needed, if at all, while the engine is at work.
        from tasks.engine.witness import Witness  # noqa: PLC0415

        return Witness(self.tools, self.source, self.id)

    @cached_property
    def local_registry(self) -> PublishEnvironment:
        """The registry and the index of this machine; they stay until `clean`."""
        return PublishEnvironment(
            self.tools, "publish", "publish.yaml", PublishRoles, run=self.id, variables={},
            made=self.images.made, own=True,
        )  # fmt: skip

    @cached_property
    def publisher(self) -> Publisher:
        """Who publishes what was accepted."""
        # Most runs publish nothing, and its libraries take as long to load as all the others.
        from tasks.engine.publishing import Publisher  # noqa: PLC0415

        return Publisher(self.tools, self.source, self.local_registry)

    @cached_property
    def test_environment(self) -> TestEnvironment:
        """The environment of the application's own tests."""
        return self._opened(
            TestEnvironment(
                self.tools, "test", "test.yaml", TestRoles, run=self.id, variables={},
                made=self.images.made, own="test.db" in self._goals,
            )
        )  # fmt: skip

    @cached_property
    def release_environment(self) -> ReleaseEnvironment:
        """The release environment of this run.

        The user's own if it was asked for by name, or if acceptance tests alone are asked for
        while it runs; else one that lasts as long as this run.
        """
        own = self.own_release_environment
        if self._goals & _OWN_STAGES or ("acceptance.run" in self._goals and own.exists):
            return self._opened(own)
        return self._opened(self._release("acceptance", own=False))

    @cached_property
    def own_release_environment(self) -> ReleaseEnvironment:
        """The release environment that `release.start` starts and `release.stop` removes."""
        return self._release("release", own=True)

    def release_started(self) -> None:
        """Print the URL of the release environment, if it was asked to be left running."""
        if self.release_environment.own and not self.dry:
            self.release_environment.in_use = True
            self.console.result(self.release_environment.address())

    def accepted(self) -> None:
        """Tell which image has passed."""
        target = self.tools.checkout.target
        if shelf.path(target, "acceptance").exists() and not self.dry:
            image = self.images.accepted_id()
            self.console.note(f"accepted: {image}, revision {self.source.revision}")

    def start_local_registry(self) -> None:
        """Start the registry and the index of this machine, unless the settings name others."""
        if not (self.settings.registry and self.settings.index_url):
            self.images.build("publishing")
            self._opened(self.local_registry).start()
            self.local_registry.in_use = True  # whatever becomes of this run

    def clean(self) -> None:
        """Remove all that this checkout made, on the engine and in `target/`.

        What this run itself uses of `target/` goes when it ends, unless other stages come after.
        Raises StageFailed, naming it, if something could not be removed.
        """
        labels = self.tools.checkout.labels
        if self.dry:
            self.console.would(f"remove everything with the labels {labels}, and target/")
            return
        # What users themselves start from our images has the labels of these, but is of no run.
        left = self.tools.engine.remove({**labels, "seatrial.run": ""})
        left += self.tools.engine.remove_images(labels)
        if left:
            raise StageFailed(
                "not everything could be removed",
                evidence=left,
                hint="remove what is in the way, which is yours, and then invoke clean",
            )
        self._forget_results()
        self.ledger = Ledger(self.tools, gather(self.tools, self.source))
        self.forgotten = True

    # --- what is spared --------------------------------------------------------------------------

    @cached_property
    def ledger(self) -> Ledger:
        """What is known of earlier results. First asked before anything runs."""
        return Ledger(self.tools, gather(self.tools, self.source))

    def show_plan(self, nodes: Sequence[Node], *, fresh: str) -> None:
        """Print what `spare` would decide: what would run, what would be skipped, and why."""
        for line in plan.shown(self._decisions(nodes, fresh)):
            self.console.result(line)

    def spare(self, nodes: Sequence[Node], *, fresh: str) -> set[str]:
        """Return the names of the stages that have to run, and tell which are spared.

        None is if `fresh` says why, whatever the settings say.
        """
        names = {node.name for node in nodes}
        if self._changes:
            names = self._spared(nodes, fresh)
        if any(node.builds for node in nodes):
            needed = (node.builds for node in nodes if node.name in names)
            self.images.expected = frozenset(filter(None, needed))
        return names

    def _spared(self, nodes: Sequence[Node], fresh: str) -> set[str]:
        decisions = self._decisions(nodes, fresh)
        for decision in decisions.values():
            if decision.spared:
                with self.console.stage(decision.name):
                    self.console.skipped(decision.why)
        # What receipts say of an earlier time is not true any more, or not yet again; whichever
        # stage fails, those after it have none.
        again = [node for node in nodes if decisions[node.name].runs]
        shelf.remove(self.tools.checkout.target, *(n.receipt for n in again if n.receipt))
        return {node.name for node in again}

    def _decisions(self, nodes: Sequence[Node], fresh: str) -> dict[str, Decision]:
        fresh = fresh or ("FRESH is on" if self.settings.fresh else "")
        return plan.decide(nodes, self.ledger.reason_to_run, self.ledger.age, fresh=fresh)

    # --- its course ------------------------------------------------------------------------------

    @contextmanager
    def stage(self, name: str, receipt: str = "") -> Iterator[None]:
        """Show and record a stage, while its block lasts; `receipt` is what it writes."""
        began = time.monotonic()
        record: dict[str, Any] = {"name": name, "result": "failed"}
        with self.console.stage(name):
            if self._changes:
                note_stage(self.tools.checkout, name)
                self._stages.append(record)
                self.forgotten = False
                self.console.started()
            yield
            if receipt and self._changes:
                self.ledger.note(receipt)
            seconds = time.monotonic() - began
            record |= {"result": "passed", "seconds": round(seconds, 3)}
            if self._changes:
                self.console.passed(seconds)

    def __enter__(self) -> Self:
        for warning in self.settings.warnings:
            self.console.warning(warning)
        if self._changes:
            checkout = self.tools.checkout
            stage = ", ".join(sorted(self._goals))
            self._stack.enter_context(locked(checkout, self.settings.lock_timeout, stage))
            self._folder.mkdir(parents=True)
            _forget_old_runs(self._folder.parent)
            log = self._stack.enter_context((self._folder / "log.txt").open("w", encoding="utf-8"))
            self.console.log_to(log)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._stack:
            self.tools.processes.stop_all()
            problem: Failure | None = None
            try:
                self._tear_down(failed=error is not None)
            except Failure as failure:
                problem = failure
            if self._changes:
                self._write_record(error or problem)
            # Here, where secrets are masked and the log is still open.
            for what in (problem, error):
                if isinstance(what, Failure):
                    self.console.failure(what)
            if problem is not None and error is None:
                raise problem
            # Still under the lock: whoever waits for it begins to write there at once.
            if self.forgotten and error is None:
                shutil.rmtree(self.tools.checkout.target)

    def give_up(self) -> None:
        """End what stages wait for, commands and containers: this run is lost."""
        for environment in list(self._environments.values()):
            with suppress(Failure):
                environment.give_up()
        self.tools.processes.stop_all()

    def left(self) -> list[str]:
        """Return the names of what this run has made and not removed, as far as can be told."""
        with suppress(Failure):
            return [
                str(container.name)
                for environment in self._environments.values()
                for container in self.tools.engine.containers_by_id(environment.labels)
            ]
        return []

    def _opened(self, environment: AnyEnvironment) -> AnyEnvironment:
        """Open an environment, once, whichever stage comes first."""
        with self._opening:
            first = self._environments.setdefault(environment.project, environment)
            if first is environment:
                environment.open()
        return cast(AnyEnvironment, first)

    def _forget_results(self) -> None:
        """Remove what earlier runs left in `target/`, but for the secrets: they are in use."""
        target = self.tools.checkout.target
        kept = {target / name for name in ("lock", "holder.json", "secrets", "runs")}
        for path in {*target.iterdir(), *self._folder.parent.iterdir()} - kept - {self._folder}:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _release(self, stage: str, *, own: bool) -> ReleaseEnvironment:
        return ReleaseEnvironment(
            self.tools, stage, "release.yaml", ReleaseRoles, run=self.id,
            variables={"REVISION": self.source.revision}, made=self.images.made, own=own,
        )  # fmt: skip

    def _tear_down(self, *, failed: bool) -> None:
        with ThreadPoolExecutor() as pool:
            removals = [
                pool.submit(self._taken_down, environment, failed=failed)
                for environment in self._environments.values()
            ]
            if "images" in vars(self):
                pool.submit(self.images.remove_replaced)
        problems = [problem for removal in removals for problem in removal.result()]
        if problems:
            raise StageFailed(
                "not everything could be removed",
                evidence=problems,
                hint="invoke clean tries again",
            )

    def _taken_down(self, environment: SomeEnvironment, *, failed: bool) -> list[str]:
        """Remove an environment, unless it is to be kept; return what could not be."""
        keep = self.settings.keep == "always" or (failed and self.settings.keep == "failure")
        if failed and self._changes:
            self._save_logs(environment)
        keep |= environment.own and (not failed or environment.in_use)
        try:
            if not keep:
                environment.remove()
            elif not self.dry and environment.exists:
                stop = "release.stop" if isinstance(environment, ReleaseEnvironment) else "clean"
                stop = stop if environment.own else "clean"
                self.console.note(
                    f"{environment.project} goes on running; invoke {stop} removes it"
                )
        except Failure as failure:
            return [failure.message, *failure.evidence]
        return []

    def _save_logs(self, environment: SomeEnvironment) -> None:
        with suppress(Failure):
            text = "\n".join(environment.logs())
            path = self._folder / f"{environment.project}.log"
            path.write_text(self.console.mask(text) + "\n", encoding="utf-8")

    @property
    def _folder(self) -> Path:
        return self.tools.checkout.target / "runs" / self.id

    def _write_record(self, error: BaseException | None) -> None:
        code = 0 if error is None else getattr(error, "exit_code", 1)
        record = {
            "id": self.id,
            "goals": sorted(self._goals),
            "environment": self.settings.name,
            "revision": self.source.revision,
            "began": datetime.fromtimestamp(self._began, UTC).isoformat(timespec="seconds"),
            "seconds": round(time.time() - self._began, 3),
            "exit_code": code,
            "failure": self.console.mask(str(error)) if error else "",
            "stages": self._stages,
        }
        waits = sorted([*self.tools.processes.waits.intervals, *self.tools.engine.waits.intervals])
        lines = [json.dumps(wait) + "\n" for wait in waits]
        (self._folder / "waits.jsonl").write_text("".join(lines), encoding="utf-8")
        temporary = self._folder / "run.json.tmp"
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        temporary.replace(self._folder / "run.json")


def _tracked(processes: Processes, path: Path) -> bool:
    try:
        processes.read(["git", "ls-files", "--error-unmatch", "--", str(path)])
    except Failure:
        return False
    return True


def _forget_old_runs(folder: Path) -> None:
    for old in sorted(folder.iterdir())[:-RUNS_KEPT]:
        shutil.rmtree(old, ignore_errors=True)
