"""Checkouts of the project, for the tests that run it on the real engine as a user does."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tasks.engine.api import Engine
from tasks.engine.checkout import identify
from tasks.settings import KEYS
from tests.on_engine.publishing import (  # noqa: F401  (fixtures of the tests of publishing)
    _proxies,
    _servers,
    harbour,
    new_repository,
    port,
    release,
    released,
    shared_acceptance,
    shared_release,
    signing_key,
)

if TYPE_CHECKING:
    import docker
    from docker.models.containers import Container

ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 600.0  # in seconds; reached only if what is waited for never comes
_OURS = ("APP_", "INVOKE_")
# Of all commits: what depends on their time alone is to be the same.
_TIME = dict.fromkeys(("GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"), "2026-01-02T03:04:05Z")


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """Return the first true answer of `condition`."""
    end = time.monotonic() + DEADLINE
    while not (answer := condition()):
        assert time.monotonic() < end, f"waited in vain until {what}"
        time.sleep(0.05)
    return answer


@dataclass(frozen=True)
class Result:
    """What a command did: its exit code, standard output and standard error."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return f"{self.out}\n{self.err}"


class Started:
    """Invoke at work. Its output goes to files: nobody has to read along."""

    def __init__(
        self, folder: Path, arguments: tuple[str, ...], environment: dict[str, str]
    ) -> None:
        self._outputs = tempfile.TemporaryDirectory(prefix="seatrial-test-")
        self._out, self._err = (Path(self._outputs.name, name) for name in ("out", "err"))
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                ["invoke", *arguments],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        self.pid = self.process.pid

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Return the first true answer of `condition`, which comes while this is at work."""

        def asked() -> Any:
            ended = self.process.poll() is not None
            answer = condition()
            assert answer or not ended, f"it ended before {what}: {self.ended().text}"
            return answer

        return wait_until(asked, what)

    def until_said(self, text: str) -> None:
        """Wait until `text` is in the output."""
        self.until(lambda: text in self._err.read_text(), f"it said {text!r}")

    def signalled(self, number: int) -> Result:
        """Send a signal, and return what the command did when it has ended."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> Result:
        """Wait until the command has ended, and return what it did."""
        code = self.process.wait(DEADLINE)
        result = Result(code, self._out.read_text(), self._err.read_text())
        self._outputs.cleanup()
        print(result.text)  # noqa: T201  (for whoever looks into a failure)
        return result

    def given_up(self) -> None:
        """End what a failed test has left at work."""
        if self.process.poll() is None:
            self.process.kill()
            self.ended()


@dataclass(frozen=True)
class CheckoutUnderTest:
    """A checkout of the project, in a folder and repository of its own."""

    root: Path
    client: docker.DockerClient
    started: list[Started] = field(default_factory=list)

    @property
    def labels(self) -> dict[str, str]:
        return identify(self.root, "seatrial").labels

    @property
    def id(self) -> str:
        return self.labels["seatrial.checkout"]

    def image(self, role: str, environment: str = "local") -> str:
        """Return the name of one of its images."""
        return f"seatrial-{self.id}-{environment}/{role}"

    # --- what a user does with it ----------------------------------------------------------------

    def start(self, *arguments: str, **variables: str) -> Started:
        """Start invoke with these arguments, and these variables in the environment."""
        # What the user of these tests has set for himself is none of their business.
        passed_on = {
            key: value
            for key, value in os.environ.items()
            if key not in KEYS and not key.startswith(_OURS)
        }
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.started.append(Started(self.root, arguments, {**passed_on, "PATH": path, **variables}))
        return self.started[-1]

    def give_up(self) -> None:
        """End what a failed test has left at work."""
        while self.started:
            self.started.pop().given_up()

    def invoke(self, *arguments: str, **variables: str) -> Result:
        """Run invoke."""
        return self.start(*arguments, **variables).ended()

    def passes(self, *arguments: str, **variables: str) -> Result:
        """Run invoke, which has to end with 0."""
        result = self.invoke(*arguments, **variables)
        assert result.code == 0, result.text
        return result

    def fails(
        self,
        code: int,
        *arguments: str,
        says: tuple[str, ...],
        keeps: bool = False,
        **variables: str,
    ) -> Result:
        """Run invoke, which has to fail with `code`, say what is expected and leave nothing."""
        result = self.invoke(*arguments, **variables)
        self.failed(result, code, says=says, keeps=keeps)
        return result

    def failed(
        self, result: Result, code: int, *, says: tuple[str, ...], keeps: bool = False
    ) -> None:
        """Check a failure: its exit code, its message, its record, and that nothing is left."""
        assert result.code == code, result.text
        assert "Traceback (most recent call last)" not in result.err.split("failed: ")[-1]
        told = "".join(result.err.partition("failed: ")[1:])
        for words in says:
            assert words in told, result.text
        record = self.record()
        assert record["exit_code"] == code
        assert record["failure"] in told
        assert record["failure"] in self.log()
        if not keeps:
            assert self.on_engine() == []

    # --- what it holds ---------------------------------------------------------------------------

    @property
    def last_run(self) -> Path:
        """The folder of the last run."""
        return max(
            (self.root / "target" / "runs").iterdir(), key=lambda folder: folder.stat().st_mtime_ns
        )

    def record(self) -> dict[str, Any]:
        """Return the record of the last run."""
        record: dict[str, Any] = json.loads((self.last_run / "run.json").read_text())
        return record

    def log(self, name: str = "log.txt") -> str:
        """Return a log of the last run; `name` may be the end of a name."""
        (path,) = self.last_run.glob(f"*{name}")
        return path.read_text()

    def git(self, *arguments: str, **variables: str) -> str:
        options = {"user.name": "tester", "user.email": "tester@example.org",
                   "commit.gpgsign": "false", "core.hooksPath": os.devnull}  # fmt: skip
        return subprocess.run(
            ["git", *(part for item in options.items() for part in ("-c", "=".join(item))),
             *arguments],
            cwd=self.root, env={**os.environ, **_TIME, **variables}, check=True,
            capture_output=True, text=True,
        ).stdout  # fmt: skip

    def write(self, path: str, text: str) -> None:
        """Write a file, and commit."""
        (self.root / path).write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", f"change {path}")

    def change(self, path: str, old: str, new: str) -> None:
        """Replace text in a file, and commit."""
        text = (self.root / path).read_text()
        assert old in text, f"{old!r} is not in {path}"
        self.write(path, text.replace(old, new))

    # --- what the engine and the machine hold of it -----------------------------------------------

    def on_engine(self, *, images: bool = False) -> list[str]:
        """Return the names of all that the engine holds of this checkout."""
        filters: dict[str, Any] = {
            "label": [f"{key}={value}" for key, value in self.labels.items()]
        }
        things: list[Any] = [
            *self.client.containers.list(all=True, filters=filters, ignore_removed=True),
            *self.client.networks.list(filters=filters),
            *self.client.volumes.list(filters=filters),
        ]
        names = [str(thing.name) for thing in things]
        if images:
            names += [str(image.id) for image in self.client.images.list(filters=filters)]
        return names

    def running(self, service: str) -> Container | None:
        """Return the container of a service, if it runs."""
        labels = {**self.labels, "com.docker.compose.service": service}
        found = self.client.containers.list(
            filters={"label": [f"{key}={value}" for key, value in labels.items()]},
            ignore_removed=True,
        )
        return found[0] if found else None

    def processes(self) -> list[str]:
        """Return the command lines of all processes that work in this checkout or for it."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                at_work = (folder / "cwd").resolve().is_relative_to(self.root)
            except OSError:  # it has ended, or is none of our business
                continue
            if at_work or str(self.root) in command or self.id in command:
                found.append(command)
        return found


class Proxy:
    """An engine at the end of a line: TCP connections are passed on to the engine's socket."""

    def __init__(self, socket_path: str) -> None:
        self._path = socket_path
        self._server = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._hold = b""
        self._held = threading.Event()
        self._released = threading.Event()
        self.address = "tcp://{}:{}".format(*self._server.getsockname())
        self._begin(self._accept)

    def hold(self, method: str, path: str) -> None:
        """Hold back the next requests of this method whose path begins so."""
        self._hold = rf"{method} /v[\d.]+/{path}".encode()

    def held(self) -> bool:
        """Say whether a request is being held back."""
        return self._held.is_set()

    def release(self) -> None:
        """Pass on what was held back."""
        self._released.set()

    def cut(self) -> None:
        """Cut the line, if it is not cut yet."""
        self.release()
        self._shut(self._server)
        self._threads[0].join()  # no more connections
        self._shut(*self._ends)
        for thread in self._threads:
            thread.join()
        for end in (self._server, *self._ends):
            end.close()

    @staticmethod
    def _shut(*ends: socket.socket) -> None:
        for end in ends:
            with suppress(OSError):  # it is closed already, from the other side
                end.shutdown(socket.SHUT_RDWR)

    def _begin(self, work: Callable[..., None], *arguments: socket.socket) -> None:
        self._threads.append(threading.Thread(target=work, args=arguments, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        with suppress(OSError):  # the line is cut
            while True:
                here, _ = self._server.accept()
                there = socket.socket(socket.AF_UNIX)
                there.connect(self._path)
                self._ends += [here, there]
                self._begin(self._pass_on, here, there)
                self._begin(self._pass_on, there, here)

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if self._hold and re.match(self._hold, data):
                    self._held.set()
                    self._released.wait(DEADLINE)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


NewCheckout = Callable[[str], CheckoutUnderTest]


@pytest.fixture(scope="session", autouse=True)
def _signals_arrive() -> Iterator[None]:
    """Start no command that ignores signals, as one does that is started by `nohup pytest &`."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    ignored = [number for number in numbers if signal.getsignal(number) == signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, lambda *_: None)  # ignored here still, but not by what is started
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture(scope="session")
def client() -> Iterator[docker.DockerClient]:
    """Return a client of the engine that all these tests use."""
    client = Engine(os.environ)._client
    yield client
    client.close()


@pytest.fixture(scope="session")
def engine_address() -> str:
    """Return where the engine is, as DOCKER_HOST says it."""
    return Engine(os.environ)._host or "unix:///var/run/docker.sock"


@pytest.fixture
def proxy(engine_address: str) -> Iterator[Proxy]:
    """Return a proxy to the engine, if that has a socket here."""
    if not engine_address.startswith("unix://"):
        pytest.skip(f"the engine is at {engine_address} already")
    proxy = Proxy(engine_address.removeprefix("unix://"))
    yield proxy
    proxy.cut()


@pytest.fixture(scope="session")
def base_image(client: docker.DockerClient) -> str:
    """Make sure of the base image once, as belonging to this checkout, and return its name.

    It may take a while.
    """
    CheckoutUnderTest(ROOT, client).passes("build.base")
    names = ("debian:12-slim", "seatrial-bootstrapped/debian:12-slim")
    return next(name for name in names if client.images.list(name))


@pytest.fixture(scope="session")
def new_checkout(
    client: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory, base_image: str
) -> Iterator[NewCheckout]:
    """Return a function that makes a checkout, committed and clean, in a folder of the given name.

    All of them are cleaned at the end of the session.
    """
    assert base_image
    made: list[CheckoutUnderTest] = []

    def make(name: str) -> CheckoutUnderTest:
        checkout = CheckoutUnderTest(tmp_path_factory.mktemp("checkouts") / name, client)
        root = checkout.root
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for file in filter(None, listed.split("\0")):
            if (ROOT / file).is_file():
                (root / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / file, root / file)
        checkout.git("init", "--quiet", "--initial-branch=main")
        checkout.git("add", "--all")
        checkout.git("commit", "--quiet", "--message", "as it is")
        checkout.git("remote", "add", "origin", "https://someone:hush@git.example/fleet/todo.git")
        checkout.git("tag", "as-it-is")
        made.append(checkout)
        return checkout

    yield make
    left = []
    for checkout in made:
        checkout.give_up()
        checkout.git("reset", "--quiet", "--hard", "as-it-is")
        left += [checkout.invoke("clean").err] if checkout.on_engine(images=True) else []
        left += checkout.on_engine(images=True)
    assert [text for text in left if "clean | passed" not in text] == []


@pytest.fixture(scope="session")
def unchanged(new_checkout: NewCheckout) -> CheckoutUnderTest:
    """Return the checkout of all tests that change no file."""
    return new_checkout("unchanged")


@pytest.fixture(scope="session")
def _changed(new_checkout: NewCheckout) -> CheckoutUnderTest:
    return new_checkout("changed")


@pytest.fixture
def changed(_changed: CheckoutUnderTest) -> Iterator[CheckoutUnderTest]:
    """Return a checkout of which the test may change any file."""
    with restored(_changed):
        yield _changed


@contextmanager
def restored(checkout: CheckoutUnderTest) -> Iterator[None]:
    """Put the files back in the end, but for `target/`; nothing may be left on the engine."""
    try:
        yield
    finally:
        checkout.give_up()
        checkout.git("reset", "--quiet", "--hard", "as-it-is")
        checkout.git("clean", "--quiet", "--force", "-d")
        left = checkout.on_engine()
        if left:
            checkout.invoke("clean")
    assert left == []


@pytest.fixture
def nothing_left(unchanged: CheckoutUnderTest) -> Iterator[None]:
    """Check in the end that nothing of the unchanged checkout is on the engine."""
    yield
    unchanged.give_up()
    left = unchanged.on_engine()
    if left:
        unchanged.invoke("clean")
    assert left == []
