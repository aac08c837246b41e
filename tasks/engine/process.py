"""The one door through which processes are run."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tasks.engine.console import Console
from tasks.engine.waits import Waits
from tasks.errors import DiskFailure, Failure, Misconfigured, StageFailed, Unavailable

EVIDENCE_LINES = 20
GRACE_SECONDS = 10.0

# The words with which programs say that the disk is to blame.
_DISK_WORDS = ("no space left on device", "input/output error", "disk quota exceeded")


class CommandFailed(StageFailed):
    """A command ended with another code than 0; holds `argv`, `code` and its `output` lines.

    `late`: it took longer than it may, and was ended.
    """

    def __init__(
        self, argv: Sequence[str], code: int, output: Sequence[str], *, late: bool = False
    ) -> None:
        how = "took too long" if late else f"ended with {code}"
        super().__init__(f"{shlex.join(argv)} {how}", evidence=list(output)[-EVIDENCE_LINES:])
        self.argv = tuple(argv)
        self.code = code
        self.output = tuple(output)
        self.late = late


class Processes:
    """Runs commands, argv lists without a shell, for one run of the collection.

    `environment` is what they see, `folder` where they run. With `dry` a command that changes
    something is shown and not run.
    """

    def __init__(
        self, console: Console, environment: Mapping[str, str], folder: Path, *, dry: bool = False
    ) -> None:
        self._console = console
        self._environment = dict(environment)
        self._folder = folder
        self._dry = dry
        self.waits = Waits("command")
        self._running: set[subprocess.Popen[str]] = set()
        self._ending = False
        self._lock = threading.Lock()

    def read(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> str:
        """Run a command that changes nothing, even in a dry run; return its standard output.

        Raises CommandFailed, or Unavailable if there is no such program.
        """
        self._console.detail(f"$ {shlex.join(argv)}")
        with self._child(argv, environment, folder, reads=True) as child:
            output, errors = child.communicate()
        if child.returncode:
            lines = errors.splitlines()
            raise classified(CommandFailed(argv, child.returncode, lines), lines)
        return output

    def run(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        show: Callable[[str], str] = str,
        timeout: float | None = None,
    ) -> None:
        """Run a command; of each line is shown what `show` makes of it, and all are in the log.

        After `timeout` seconds, if given, it is ended. Raises CommandFailed, or Unavailable if
        there is no such program.
        """
        if self._dry:
            self._console.would(f"$ {shlex.join(argv)}")
            return
        self._console.command(shlex.join(argv))
        last: deque[str] = deque(maxlen=200)
        with (
            self._child(argv, environment, folder) as child,
            _ended_after(timeout, child) as late,
        ):
            assert child.stdout is not None  # noqa: S101  (asked for as a pipe)
            for raw in child.stdout:
                line = raw.rstrip("\n")
                last.append(line)
                if shown := show(line):
                    self._console.line(shown)
                else:
                    self._console.detail(line)
        if child.returncode and late.is_set():
            raise CommandFailed(argv, child.returncode, list(last), late=True)
        if child.returncode:
            raise classified(CommandFailed(argv, child.returncode, list(last)), list(last))

    def stop_all(self) -> None:
        """End all commands that are running: asked first, forced after a while.

        From now on none that changes something is run: what follows a command that was ended would
        take its end for a failure, and do something else instead.
        """
        with self._lock:
            self._ending = True
            running = list(self._running)
        for child in running:
            _signal_group(child, signal.SIGTERM)
        for child in running:
            _force(child)

    @contextmanager
    def _child(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str] | None,
        folder: Path | None,
        *,
        reads: bool = False,
    ) -> Iterator[subprocess.Popen[str]]:
        try:
            with self._lock:  # no child may be missed by `stop_all`
                if self._ending and not reads:
                    raise StageFailed(f"the run is ending, {shlex.join(argv)} is not run any more")
                # In a session of its own: a Ctrl-C at the terminal reaches us alone, and we decide.
                child = subprocess.Popen(  # noqa: S603
                    list(argv),
                    env=self._environment | dict(environment or {}),
                    cwd=folder or self._folder,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE if reads else subprocess.STDOUT,
                    text=True,
                    errors="replace",
                    start_new_session=True,
                )
                self._running.add(child)
        except (FileNotFoundError, PermissionError, NotADirectoryError) as error:
            where = folder or self._folder
            if not where.is_dir():
                raise Misconfigured(f"there is no folder {where}") from error
            missing = isinstance(error, FileNotFoundError)
            message = f"{argv[0]} {'is not installed' if missing else 'may not be run'}"
            raise Unavailable(message, hint="./bootstrap prepares this machine") from error
        try:
            with self.waits.on(), child:
                yield child
        finally:
            with self._lock:
                self._running.discard(child)


def _signal_group(child: subprocess.Popen[str], number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


def _force(child: subprocess.Popen[str]) -> None:
    """Wait for a child that was asked to end; force it after a while."""
    try:
        child.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        _signal_group(child, signal.SIGKILL)


@contextmanager
def _ended_after(seconds: float | None, child: subprocess.Popen[str]) -> Iterator[threading.Event]:
    """End a child after so many seconds, unless the block has ended; tell whether it was late."""
    late = threading.Event()

    def end() -> None:
        late.set()
        _signal_group(child, signal.SIGTERM)
        _force(child)

    if seconds is None:
        yield late
        return
    watch = threading.Timer(seconds, end)
    watch.daemon = True
    watch.start()
    try:
        yield late
    finally:
        watch.cancel()


def classified(failure: Failure, output: Sequence[str]) -> Failure:
    """Return `failure`, or the class of failure that what was put out speaks of."""
    evidence = failure.evidence or tuple(output)
    low = "\n".join(output).lower()
    if any(word in low for word in _DISK_WORDS):
        return DiskFailure(failure.message, evidence=evidence, hint="make room and try again")
    if "permission denied" in low and "docker.sock" in low:
        return Unavailable(
            "the Docker engine may not be used by this user",
            evidence=evidence,
            hint="add the user to the group docker, or run as root",
        )
    if "cannot connect to the docker daemon" in low or "error during connect" in low:
        return Unavailable(
            "the Docker engine does not answer",
            evidence=evidence,
            hint="start it (./bootstrap does, as root on Debian or Ubuntu), or mend DOCKER_HOST",
        )
    if "all predefined address pools have been fully subnetted" in low:
        return Unavailable(
            "the engine has no network left to give",
            evidence=evidence,
            hint="remove networks that nobody uses: docker network ls",
        )
    if "port is already allocated" in low or "address already in use" in low:
        return Unavailable(
            "the port that the settings ask for is taken",
            evidence=evidence,
            hint="set HTTP_PORT=0 for any free port, or stop what holds it",
        )
    return failure
