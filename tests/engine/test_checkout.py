"""Who we are on a shared engine, and who is at work in the checkout."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from tasks.engine import checkout as checkout_room
from tasks.engine.checkout import Checkout, identify, locked, note_stage, owner
from tasks.errors import Busy

HERE = Path(__file__).parents[2]
LIMIT = 30.0  # seconds until a test that would hang fails instead

HOLDER = textwrap.dedent("""
    import subprocess, sys
    from pathlib import Path
    from tasks.engine.checkout import Checkout, locked, note_stage
    here = Checkout(Path(sys.argv[1]), "seatrial", "0123456789")
    with locked(here, 0, "release.acceptance"):
        note_stage(here, "test.unit")
        child = subprocess.Popen(["sleep", "1000"]) if "child" in sys.argv else None
        print(child.pid if child else "held", flush=True)
        sys.stdin.readline()
""")

Hold = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def hold(checkout: Checkout) -> Iterator[Hold]:
    """Return a function that starts a process which holds the checkout until told to end."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(checkout.root), *arguments],
            cwd=HERE,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(holder)
        return holder

    yield start
    for holder in started:
        holder.kill()
        holder.communicate()


def said(holder: subprocess.Popen[str]) -> str:
    assert holder.stdout is not None
    return holder.stdout.readline().strip()


def busy(checkout: Checkout, timeout: float = 0) -> Busy:
    with pytest.raises(Busy) as caught, locked(checkout, timeout, "build.wheels"):
        pytest.fail("a second run got in")
    assert caught.value.exit_code == 75
    assert "LOCK_TIMEOUT" in caught.value.hint
    return caught.value


# --- who we are ----------------------------------------------------------------------------------


def test_the_id_is_the_same_every_time(tmp_path: Path) -> None:
    assert identify(tmp_path, "seatrial") == identify(tmp_path, "seatrial")
    assert identify(tmp_path, "seatrial").id.isalnum()
    assert len(identify(tmp_path, "seatrial").id) == 10


def test_two_folders_have_two_ids(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert identify(tmp_path / "a", "seatrial").id != identify(tmp_path / "b", "seatrial").id


def test_another_way_to_the_same_folder_leads_to_the_same_id(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    ids = {identify(path, "p").id for path in (tmp_path / "a", tmp_path / "link",
                                               tmp_path / "a" / ".." / "a")}  # fmt: skip
    assert len(ids) == 1


def test_the_same_path_on_another_machine_has_another_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = set()
    for machine in ("one\n", "two\n"):
        (tmp_path / "machine-id").write_text(machine)
        monkeypatch.setattr(checkout_room, "MACHINE_ID", tmp_path / "machine-id")
        ids.add(identify(tmp_path, "p").id)
    assert len(ids) == 2


@pytest.mark.parametrize("content", [None, "", "\n"], ids=["none", "empty", "blank"])
def test_a_machine_without_an_id_goes_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    path = tmp_path / "machine-id"
    if content is not None:
        path.write_text(content)
    monkeypatch.setattr(checkout_room, "MACHINE_ID", path)
    ids = set()
    for name in ("one", "two"):
        monkeypatch.setattr("platform.node", lambda name=name: name)
        ids.add(identify(tmp_path, "p").id)
    assert len(ids) == 2


def test_labels_and_target(checkout: Checkout, tmp_path: Path) -> None:
    assert checkout.labels == {
        "seatrial.project": "seatrial",
        "seatrial.checkout": "0123456789",
    }
    assert checkout.target == tmp_path / "target"


def test_an_owner_is_a_user_on_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getuid", lambda: 1000)
    monkeypatch.setattr("platform.node", lambda: "ship")
    assert owner() == "1000@ship"


# --- who is at work ------------------------------------------------------------------------------


def test_a_holder_says_who_it_is_and_takes_its_word_back(checkout: Checkout) -> None:
    note = checkout.target / "holder.json"
    with locked(checkout, 0, "build.wheels"):
        about = json.loads(note.read_text())
        assert (about["pid"], about["stage"]) == (os.getpid(), "build.wheels")
        note_stage(checkout, "build.base")
        assert json.loads(note.read_text())["stage"] == "build.base"
    assert not note.exists()


def test_a_fresh_checkout_has_no_target_yet(checkout: Checkout) -> None:
    checkout.target.rmdir()
    with locked(checkout, 0, "build.wheels"):
        assert checkout.target.is_dir()


def test_a_second_run_in_this_process_is_refused(checkout: Checkout) -> None:
    with locked(checkout, 0, "release.acceptance"):
        failure = busy(checkout)
    assert f"process {os.getpid()}, in stage release.acceptance since " in failure.message


def test_a_second_run_is_told_pid_stage_and_since_when(checkout: Checkout, hold: Hold) -> None:
    holder = hold()
    assert said(holder) == "held"
    failure = busy(checkout)
    assert failure.message.startswith(
        f"another run is at work in this checkout: process {holder.pid}, in stage test.unit since "
    )
    hours, minutes, seconds = failure.message.rsplit(" ", 1)[1].split(":")
    assert int(hours) < 24
    assert int(minutes) < 60
    assert int(seconds) < 60


def test_the_refused_one_leaves_the_holders_word_alone(checkout: Checkout, hold: Hold) -> None:
    assert said(hold()) == "held"
    before = (checkout.target / "holder.json").read_text()
    busy(checkout)
    assert (checkout.target / "holder.json").read_text() == before


def test_waiting_too_long_is_refused_too(checkout: Checkout, hold: Hold) -> None:
    assert said(hold()) == "held"
    assert "in stage test.unit" in busy(checkout, timeout=0.01).message


def test_a_run_that_waits_gets_in_when_the_holder_ends(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = threading.Event()
    got_in = threading.Event()

    def announced(path: Path) -> FileLock:
        waiting.set()
        return FileLock(path)

    def second() -> None:
        with locked(checkout, LIMIT, "build.wheels"):
            got_in.set()

    thread = threading.Thread(target=second)
    with locked(checkout, 0, "release.acceptance"):
        monkeypatch.setattr(checkout_room, "FileLock", announced)
        thread.start()
        assert waiting.wait(LIMIT)
        assert not got_in.is_set()
    assert got_in.wait(LIMIT)
    thread.join(LIMIT)


@pytest.mark.parametrize("arguments", [(), ("child",)], ids=["alone", "its child lives on"])
def test_a_holder_that_was_killed_holds_nothing(
    checkout: Checkout, hold: Hold, arguments: tuple[str, ...]
) -> None:
    holder = hold(*arguments)
    word = said(holder)
    busy(checkout)
    holder.send_signal(signal.SIGKILL)
    holder.wait(LIMIT)
    try:
        assert (checkout.target / "holder.json").exists()  # it had no time to tidy up
        with locked(checkout, 0, "build.wheels"):
            about = json.loads((checkout.target / "holder.json").read_text())
            assert about["pid"] == os.getpid()
    finally:
        if arguments:
            os.kill(int(word), signal.SIGKILL)


def test_one_that_fails_gives_the_lock_back(checkout: Checkout) -> None:
    with pytest.raises(KeyError), locked(checkout, 0, "build.wheels"):
        raise KeyError
    assert not (checkout.target / "holder.json").exists()
    with locked(checkout, 0, "build.wheels"):
        pass


def test_two_checkouts_do_not_wait_for_one_another(tmp_path: Path) -> None:
    here, there = (Checkout(tmp_path / name, "seatrial", name) for name in ("here", "there"))
    here.root.mkdir()
    there.root.mkdir()
    with locked(here, 0, "a"), locked(there, 0, "b"):
        pass


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", "{}", '{"pid": 1}', '{"pid": 1, "stage": "a", "since": "noon"}',
     '{"pid": 1, "stage": "a", "since": 1e300}', "\xff", None],
)  # fmt: skip
def test_a_holder_that_does_not_say_who_it_is(checkout: Checkout, text: str | None) -> None:
    note = checkout.target / "holder.json"
    with locked(checkout, 0, "a"):
        note.unlink()
        if text is not None:
            note.write_bytes(text.encode("latin-1"))
        assert busy(checkout).message.endswith("checkout: it does not say who it is")
