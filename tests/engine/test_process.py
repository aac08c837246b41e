"""The one door: what is run, with what it sees, how it fails, and that it ends when told to."""

from __future__ import annotations

import io
import json
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tasks.engine import process
from tasks.engine.console import Console, masker
from tasks.engine.process import EVIDENCE_LINES, CommandFailed, Processes, classified
from tasks.errors import DiskFailure, Failure, Misconfigured, StageFailed, Unavailable

LIMIT = 30.0  # seconds until a test that would hang fails instead


def sh(script: str) -> list[str]:
    return ["sh", "-c", script]


def python(script: str) -> list[str]:
    return [sys.executable, "-c", script]


@pytest.fixture
def log(console: Console) -> io.StringIO:
    file = io.StringIO()
    console.log_to(file)
    return file


# --- read ----------------------------------------------------------------------------------------


def test_read_returns_standard_output_alone(processes: Processes) -> None:
    assert processes.read(sh("echo out; echo err >&2; echo more")) == "out\nmore\n"


def test_read_shows_nothing_and_logs_the_command(
    processes: Processes, log: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    processes.read(["echo", "a b"])
    assert capsys.readouterr() == ("", "")
    assert log.getvalue() == "$ echo 'a b'\n"


def test_read_runs_in_a_dry_run_too(console: Console, tmp_path: Path) -> None:
    dry = Processes(console, {"PATH": os.environ["PATH"]}, tmp_path, dry=True)
    assert dry.read(["echo", "yes"]) == "yes\n"


def test_read_fails_with_what_was_said_on_standard_error(processes: Processes) -> None:
    with pytest.raises(CommandFailed) as caught:
        processes.read(sh("echo out; echo first >&2; echo last >&2; exit 3"))
    failure = caught.value
    assert failure.message == (
        "sh -c 'echo out; echo first >&2; echo last >&2; exit 3' ended with 3"
    )
    assert (failure.exit_code, failure.code, failure.evidence) == (1, 3, ("first", "last"))


def test_much_on_both_streams_does_not_block(processes: Processes) -> None:
    script = "import sys; sys.stderr.write('e' * 300_000); sys.stdout.write('o' * 300_000)"
    assert len(processes.read(python(script))) == 300_000


# --- run -----------------------------------------------------------------------------------------


def test_run_shows_the_command_and_each_line_of_both_streams(
    processes: Processes, capsys: pytest.CaptureFixture[str]
) -> None:
    processes.run(sh("echo one; echo two >&2; printf three"))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["$ sh -c 'echo one; echo two >&2; printf three'",
                                "one", "two", "three"]  # fmt: skip


def test_run_shows_what_show_makes_of_a_line_and_logs_the_others(
    processes: Processes, log: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    processes.run(
        sh("echo step 1; echo noise; echo step 2"),
        show=lambda line: line.upper() if line.startswith("step") else "",
    )
    assert capsys.readouterr().err.splitlines()[1:] == ["STEP 1", "STEP 2"]
    assert log.getvalue().splitlines()[1:] == ["STEP 1", "noise", "STEP 2"]


def test_run_fails_with_the_last_lines_of_both_streams(processes: Processes) -> None:
    with pytest.raises(CommandFailed) as caught:
        processes.run(
            sh("i=0; while [ $i -lt 30 ]; do i=$((i+1)); echo $i; done; echo no >&2; exit 7")
        )
    failure = caught.value
    assert failure.message.endswith(" ended with 7")
    assert len(failure.evidence) == EVIDENCE_LINES
    assert failure.evidence[-2:] == ("30", "no")
    assert failure.output[:2] == ("1", "2")
    assert failure.argv[:2] == ("sh", "-c")


def test_a_command_that_a_signal_ended_has_failed(processes: Processes) -> None:
    with pytest.raises(CommandFailed, match="ended with -9") as caught:
        processes.run(sh("kill -9 $$"))
    assert caught.value.code == -signal.SIGKILL


def test_bytes_that_are_no_text_are_shown_as_such(
    processes: Processes, capsys: pytest.CaptureFixture[str]
) -> None:
    processes.run(["printf", r"a\377b\n"])
    assert capsys.readouterr().err.splitlines()[1:] == ["a\N{REPLACEMENT CHARACTER}b"]


def test_an_argument_is_an_argument_whatever_is_in_it(processes: Processes) -> None:
    strange = ["$(touch gone)", "; exit 1", "a\nb", "*", "-x", "ü"]
    script = "import json, sys; print(json.dumps(sys.argv[1:]))"
    assert json.loads(processes.read([*python(script), *strange])) == strange


def test_secrets_are_masked_in_commands_and_lines(
    processes: Processes, console: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    console.mask = masker(["hunter22"])
    processes.run(["echo", "password: hunter22"])
    err = capsys.readouterr().err
    assert "hunter22" not in err
    assert err.count("********") == 2


# --- what a program sees -------------------------------------------------------------------------


def test_a_program_sees_the_environment_it_is_given_and_no_other(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APP_DB_PASSWORD", "of the shell that started us")
    given = {"APP_DB_NAME": "todo", "LC_ALL": "C.UTF-8"}
    seen = dict(
        line.split("=", 1) for line in processes.read(["env"], environment=given).splitlines()
    )
    assert seen == {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "APP_DB_NAME": "todo"}


def test_what_is_given_for_one_command_is_not_kept_for_the_next(processes: Processes) -> None:
    processes.read(["env"], environment={"A": "1"})
    assert "A=1" not in processes.read(["env"])


def test_it_runs_in_its_folder_or_in_the_one_it_is_given(
    processes: Processes, tmp_path: Path
) -> None:
    (tmp_path / "with a blank").mkdir()
    assert processes.read(["pwd"]).strip() == str(tmp_path)
    inner = tmp_path / "with a blank"
    assert processes.read(["pwd"], folder=inner).strip() == str(inner)


def test_it_has_nothing_to_read_and_so_never_waits_for_an_answer(processes: Processes) -> None:
    assert processes.read(["cat"]) == ""
    processes.run(["cat"])


def test_it_has_a_session_of_its_own(processes: Processes) -> None:
    # else a Ctrl-C at the terminal would reach it before us
    script = "import os; print(os.getsid(0) == os.getpid(), os.getsid(0))"
    own, session = processes.read(python(script)).split()
    assert own == "True"
    assert int(session) != os.getsid(0)


# --- dry -----------------------------------------------------------------------------------------


def test_a_dry_run_shows_the_command_and_runs_nothing(
    console: Console, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dry = Processes(console, {"PATH": os.environ["PATH"]}, tmp_path, dry=True)
    with console.stage("build.base"):
        dry.run(["touch", "a file"])
        dry.run(["no-such-program-anywhere"])
    assert capsys.readouterr() == (
        "build.base: $ touch 'a file'\nbuild.base: $ no-such-program-anywhere\n", "",
    )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_not_dry_runs_it(processes: Processes, tmp_path: Path) -> None:
    processes.run(["touch", "a file"])
    assert [path.name for path in tmp_path.iterdir()] == ["a file"]


# --- it cannot even be started -------------------------------------------------------------------


def test_a_program_that_is_not_there(processes: Processes) -> None:
    for start in (processes.run, processes.read):
        with pytest.raises(Unavailable, match=r"^no-such-program is not installed$") as caught:
            start(["no-such-program", "x"])
        assert caught.value.exit_code == 69
        assert "bootstrap" in caught.value.hint


def test_a_program_that_may_not_be_run(processes: Processes, tmp_path: Path) -> None:
    (tmp_path / "program").write_text("#!/bin/sh\n")
    with pytest.raises(Unavailable, match=r"program may not be run$") as caught:
        processes.run([str(tmp_path / "program")])
    assert caught.value.exit_code == 69


@pytest.mark.parametrize("there", ["nothing", "a file"])
def test_a_folder_that_is_not_there_is_not_blamed_on_the_program(
    processes: Processes, tmp_path: Path, there: str
) -> None:
    folder = tmp_path / "compose"
    if there == "a file":
        folder.touch()
    with pytest.raises(Misconfigured, match=r"^there is no folder .*compose$") as caught:
        processes.read(["true"], folder=folder)
    assert caught.value.exit_code == 78


# --- who is to blame -----------------------------------------------------------------------------


ADDRESS = "unix:///var/run/docker.sock"


@pytest.mark.parametrize(
    ("words", "kind", "told"),
    [
        ("write /var/lib/docker/x: no space left on device", DiskFailure, "ended with 1"),
        ("read /dev/sda: Input/output error", DiskFailure, "ended with 1"),
        ("mkdir: Disk quota exceeded", DiskFailure, "ended with 1"),
        (f"Cannot connect to the Docker daemon at {ADDRESS}.", Unavailable, "does not answer"),
        ("error during connect: Get http://elsewhere:2375/info", Unavailable, "does not answer"),
        (f"permission denied while trying to connect to {ADDRESS}", Unavailable, "by this user"),
        ("Bind for 127.0.0.1:80 failed: port is already allocated", Unavailable, "is taken"),
        ("listen tcp4 127.0.0.1:80: bind: address already in use", Unavailable, "is taken"),
        (
            "Error: all predefined address pools have been fully subnetted",
            Unavailable,
            "has no network left to give",
        ),
    ],
)
@pytest.mark.parametrize("way", ["run", "read"])
def test_words_that_tell_who_is_to_blame(
    processes: Processes, words: str, kind: type[Failure], told: str, way: str
) -> None:
    with pytest.raises(kind) as caught:
        getattr(processes, way)([*sh('printf "before\\n$0\\nafter\\n" >&2; exit 1'), words])
    failure = caught.value
    assert type(failure) is kind
    assert failure.exit_code == {DiskFailure: 74, Unavailable: 69}[kind]
    assert failure.message.endswith(told)
    assert failure.evidence == ("before", words, "after")
    assert failure.hint


def test_words_that_blame_nobody(processes: Processes) -> None:
    with pytest.raises(CommandFailed) as caught:
        processes.run(sh("echo 'failed to solve: process did not complete successfully'; exit 1"))
    assert type(caught.value) is CommandFailed
    assert caught.value.exit_code == 1


def test_a_file_of_the_users_that_may_not_be_read_is_not_blamed_on_the_engine() -> None:
    failure = CommandFailed(["docker"], 1, ["open /home/me/compose.yaml: permission denied"])
    assert classified(failure, failure.output) is failure


def test_a_success_may_use_all_of_these_words(processes: Processes) -> None:
    processes.run(["echo", "no space left on device; Cannot connect to the Docker daemon"])


# --- the end -------------------------------------------------------------------------------------


@contextmanager
def running(processes: Processes, script: str, fifo: Path) -> Iterator[int]:
    """Run a shell script that says when it is ready; yield a file that ends when all of it has.

    Whatever the script starts holds the pipe open: it is at its end when the last one is gone.
    """
    os.mkfifo(fifo)
    errors: list[BaseException] = []

    def run() -> None:
        try:
            processes.run(sh(f'exec 9>"{fifo}"; {script}'))
        except CommandFailed as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    reading = os.open(fifo, os.O_RDONLY)
    try:
        assert os.read(reading, 100) == b"ready\n"
        yield reading
        thread.join(LIMIT)
        assert not thread.is_alive()
        assert len(errors) == 1
    finally:
        processes.stop_all()
        os.close(reading)


def ended(reading: int) -> bool:
    """Say whether all that hold the other end have gone."""
    return bool(select.select([reading], [], [], LIMIT)[0]) and os.read(reading, 1) == b""


def test_stop_all_ends_a_command_and_what_it_has_started(
    processes: Processes, tmp_path: Path
) -> None:
    with running(processes, "sleep 1000 & echo ready >&9; wait", tmp_path / "pipe") as reading:
        assert select.select([reading], [], [], 0)[0] == []  # both live
        processes.stop_all()
        assert ended(reading)


def test_stop_all_ends_all_that_are_running(processes: Processes, tmp_path: Path) -> None:
    script = "echo ready >&9; exec sleep 1000"
    with (
        running(processes, script, tmp_path / "one") as one,
        running(processes, script, tmp_path / "two") as two,
    ):
        processes.stop_all()
        assert ended(one)
        assert ended(two)


def test_one_that_does_not_listen_is_forced(
    processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "GRACE_SECONDS", 0.01)
    script = 'trap "" TERM; sleep 1000 & echo ready >&9; wait'
    with running(processes, script, tmp_path / "pipe") as reading:
        processes.stop_all()
        assert ended(reading)


def test_one_that_listens_may_tidy_up(processes: Processes, tmp_path: Path) -> None:
    script = 'trap "touch tidied; exit 3" TERM; echo ready >&9; while :; do sleep 0.01; done'
    with running(processes, script, tmp_path / "pipe") as reading:
        processes.stop_all()
        assert ended(reading)
    assert (tmp_path / "tidied").exists()


def test_after_the_end_questions_may_be_asked_but_nothing_is_changed(
    processes: Processes, tmp_path: Path
) -> None:
    # What follows a command that was ended must not take its end for a failure and go another way.
    processes.run(["touch", "before"])
    processes.stop_all()
    with pytest.raises(StageFailed, match="the run is ending, touch after is not run any more"):
        processes.run(["touch", "after"])
    assert [path.name for path in tmp_path.iterdir()] == ["before"]
    assert processes.read(["echo", "still here"]) == "still here\n"
    processes.stop_all()


# --- a time of its own ---------------------------------------------------------------------------


def test_what_takes_too_long_is_ended(processes: Processes) -> None:
    with pytest.raises(CommandFailed) as caught:
        processes.run(sh("echo so far; sleep 1000 & wait"), timeout=0.5)
    assert caught.value.late
    assert caught.value.message.endswith("took too long")
    assert caught.value.evidence == ("so far",)


def test_what_takes_too_long_and_does_not_listen_is_forced(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "GRACE_SECONDS", 0.01)
    with pytest.raises(CommandFailed, match="took too long"):
        processes.run(sh('trap "" TERM; sleep 1000 & wait; sleep 1000'), timeout=0.5)


def test_what_ends_in_time_is_not_late(processes: Processes, log: io.StringIO) -> None:
    processes.run(["echo", "done"], timeout=1000)
    assert log.getvalue().endswith("done\n")
    with pytest.raises(CommandFailed) as caught:
        processes.run(["false"], timeout=1000)
    assert not caught.value.late
    assert threading.active_count() < 20  # the watches have gone
