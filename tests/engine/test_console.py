"""The one that prints: what goes where, and what nobody may see."""

from __future__ import annotations

import base64
import html
import io
import json
import os
import subprocess
import sys
import textwrap
import threading
import urllib.parse
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tasks.engine.console import MASK, Console, masker
from tasks.errors import StageFailed

HERE = Path(__file__).parents[2]
SECRET = 'tr0ub4dor & "3" <ü>/\\+'  # noqa: S105
LINES = "-----BEGIN KEY-----\nMIIEpAIBAAKCAQEA7bq\r\nabc\n}\n-----END KEY-----\n"


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Print as to a file, whatever colours the tests' own terminal likes."""
    for name in ("FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def log(console: Console) -> io.StringIO:
    file = io.StringIO()
    console.log_to(file)
    return file


# --- masks ---------------------------------------------------------------------------------------


def in_xml(text: str) -> str:
    element = ET.Element("failure", message=text)
    element.text = text
    return ET.tostring(element, encoding="unicode")


@pytest.mark.parametrize(
    "shown",
    [
        pytest.param(SECRET, id="as it is"),
        pytest.param(f"PASSWORD={SECRET};{SECRET}", id="twice"),
        pytest.param(json.dumps({"password": SECRET}), id="JSON"),
        pytest.param(json.dumps([SECRET], ensure_ascii=False), id="JSON, not only ASCII"),
        pytest.param(f"http://user:{urllib.parse.quote(SECRET, safe='')}@host/", id="URL"),
        pytest.param(urllib.parse.urlencode({"password": SECRET}), id="form"),
        pytest.param(base64.b64encode(SECRET.encode()).decode(), id="base64"),
        pytest.param(repr({"password": SECRET}), id="repr"),
        pytest.param(in_xml(SECRET), id="XML"),
    ],
)
def test_a_secret_is_masked_in_whatever_form(shown: str) -> None:
    masked = masker([SECRET])(shown)
    assert MASK in masked
    for piece in (
        "tr0ub4dor",
        "&quot;3",
        '"3"',
        "3%22",
        base64.b64encode(SECRET.encode()).decode(),
    ):
        assert piece not in masked


def test_what_is_no_secret_is_left_alone() -> None:
    text = "tr0ub4dor without the rest, %22, &amp;"
    assert masker([SECRET])(text) == text
    assert masker([])(text) == text


def test_a_secret_of_several_lines_is_masked_line_by_line() -> None:
    mask = masker([LINES])
    for line in ("-----BEGIN KEY-----", "MIIEpAIBAAKCAQEA7bq", "-----END KEY-----"):
        assert mask(f"found {line}!") == f"found {MASK}!"


def test_a_secret_of_several_lines_is_masked_as_a_whole() -> None:
    mask = masker([LINES])
    assert mask(f"<{LINES}>") == f"<{MASK}>"
    assert mask(json.dumps(LINES)) == f'"{MASK}"'
    assert mask(base64.b64encode(LINES.encode()).decode()) == MASK


def test_short_lines_of_a_secret_are_not_masked() -> None:
    for line in ("abc", "}", "1234567", ""):
        assert masker([f"a long first line\n{line}\n"])(f"see {line}!") == f"see {line}!"


def test_a_short_secret_is_masked_all_the_same() -> None:
    assert masker(["abc"])("abcdef") == f"{MASK}def"


def test_the_longest_is_masked_first() -> None:
    assert masker(["secret", "secret-and-more"])("secret-and-more") == MASK
    assert masker(["secret-and-more", "secret"])("secret") == MASK


def test_blanks_are_no_secret() -> None:
    assert masker(["", " ", "\n"])("a b\nc") == "a b\nc"


def test_html_knows_nothing_of_other_quotes() -> None:
    # The reason for two forms in XML: text keeps its quotation marks, attributes do not.
    assert html.escape('"', quote=False) == '"'
    assert in_xml('"') == '<failure message="&quot;">"</failure>'


# --- what goes where -----------------------------------------------------------------------------


def test_progress_goes_to_standard_error_and_results_to_standard_output(
    console: Console, log: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    with console.stage("test.unit"):
        console.started()
        console.command("docker ps")
        console.line("a line")
        console.note("a note")
        console.warning("look twice")
        console.skipped("nothing has changed")
        console.passed(1.26)
        console.passed(2.0, "3 passed")
        console.result("http://127.0.0.1:1/")
        console.would("$ docker rm")
    out, err = capsys.readouterr()
    assert out == "http://127.0.0.1:1/\ntest.unit: $ docker rm\n"
    assert err.splitlines() == [
        "test.unit | started",
        "test.unit | $ docker ps",
        "test.unit | a line",
        "test.unit | a note",
        "test.unit | warning: look twice",
        "test.unit | skipped: nothing has changed",
        "test.unit | passed in 1.3 s",
        "test.unit | passed in 2.0 s, 3 passed",
    ]
    assert log.getvalue() == err + out


def test_details_are_for_the_log_alone(
    console: Console, log: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    console.detail("layer 1 of 7")
    assert log.getvalue() == "layer 1 of 7\n"
    assert capsys.readouterr() == ("", "")


def test_without_a_stage_there_is_no_prefix(
    console: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    console.note("hello")
    console.would("remove everything")
    with console.stage("a"):
        pass
    console.note("again")
    assert capsys.readouterr() == ("remove everything\n", "hello\nagain\n")


def test_a_failure_is_told_with_evidence_and_hint(
    console: Console, log: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    console.failure(StageFailed("db is not ready", evidence=["line 1", "line 2"], hint="look"))
    out, err = capsys.readouterr()
    assert err == "failed: db is not ready\n  line 1\n  line 2\nhint: look\n"
    assert out == ""
    assert log.getvalue() == err


def test_a_failure_without_hint_has_no_empty_one(
    console: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    console.failure(StageFailed("no"))
    assert capsys.readouterr().err == "failed: no\n"


def test_every_line_of_a_text_gets_the_prefix(
    console: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    with console.stage("build"):
        console.line("one\ntwo")
        console.line("")
    assert capsys.readouterr().err == "build | one\nbuild | two\nbuild | \n"


@pytest.mark.parametrize(
    "text",
    ["[bold]no[/bold]", "[/] [link=x]", ":smile:", "x" * 500, "a  b\tc"],
    ids=lambda t: t[:9],
)
def test_lines_are_shown_as_they_are(
    console: Console, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    console.line(text)
    console.result(text)
    out, err = capsys.readouterr()
    assert out == f"{text}\n"
    assert err.expandtabs(8) == f"{text}\n".expandtabs(8)


def test_whatever_passes_is_masked(
    console: Console, log: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    console.mask = masker([SECRET])
    with console.stage("build"):
        console.command(f"login {SECRET}")
        console.line(SECRET)
        console.detail(SECRET)
        console.note(SECRET)
        console.warning(SECRET)
        console.skipped(SECRET)
        console.passed(1, SECRET)
        console.would(SECRET)
        console.result(SECRET)
        console.failure(StageFailed(SECRET, evidence=[SECRET], hint=SECRET))
    out, err = capsys.readouterr()
    for text in (out, err, log.getvalue()):
        assert MASK in text
        assert "tr0ub4dor" not in text
    assert log.getvalue().count(MASK) == 12


def test_a_secret_of_several_lines_is_masked_before_the_text_is_cut_into_lines(
    console: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    console.mask = masker([LINES])
    console.line(f"key: {LINES}")
    assert capsys.readouterr().err == f"key: {MASK}\n"


def test_a_log_that_is_closed_stops_nothing(
    console: Console, log: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    log.close()
    console.note("hello")
    console.result("there")
    console.detail("lost")
    assert capsys.readouterr() == ("there\n", "hello\n")


def test_stages_side_by_side_keep_their_names_and_whole_lines(
    console: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    together = threading.Barrier(4)

    def work(name: str) -> None:
        with console.stage(name):
            together.wait(10)
            for number in range(50):
                console.line(f"{name} says {number}")

    threads = [threading.Thread(target=work, args=(f"stage-{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = capsys.readouterr().err.splitlines()
    assert sorted(lines) == sorted(
        f"stage-{n} | stage-{n} says {i}" for n in range(4) for i in range(50)
    )


# --- nobody listens ------------------------------------------------------------------------------

TALK = textwrap.dedent("""
    import sys
    from tasks.engine.console import Console
    from tasks.errors import StageFailed
    console = Console()
    log = open(sys.argv[1], "w")
    console.log_to(log)
    for _ in range(3):
        console.note("a note")
        console.result("a result")
    console.failure(StageFailed("no", hint="look"))
    log.write("the end")
""")


# What is in a buffer when the reader goes is tried again at the end: with one, as usual.
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


@pytest.mark.parametrize("gone", ["stdout", "stderr", "both"])
@pytest.mark.parametrize("how", ["reader has gone", "closed"])
def test_when_nobody_listens_work_goes_on(tmp_path: Path, gone: str, how: str) -> None:
    log = tmp_path / "log.txt"
    read, write = os.pipe()
    os.close(read)
    closing = {"stdout": ">&-", "stderr": "2>&-", "both": ">&- 2>&-"}[gone]
    with os.fdopen(write, "wb") as nobody:
        talk = subprocess.run(
            ["sh", "-c", f'exec "$@" {closing if how == "closed" else ""}', "sh",
             sys.executable, "-c", TALK, str(log)],
            cwd=HERE,
            env=BUFFERED,
            stdout=nobody if gone in {"stdout", "both"} else subprocess.PIPE,
            stderr=nobody if gone in {"stderr", "both"} else subprocess.PIPE,
            check=False,
            text=True,
        )  # fmt: skip
    assert log.read_text().splitlines() == [
        *["a note", "a result"] * 3, "failed: no", "hint: look", "the end",
    ]  # fmt: skip
    for stream in (talk.stdout, talk.stderr):
        assert "Traceback" not in (stream or "")
    if gone == "stdout":
        assert talk.stderr.count("a note") == 3
    if gone == "stderr":
        assert talk.stdout == "a result\n" * 3
    assert talk.returncode == 0


def test_somebody_listens(tmp_path: Path) -> None:
    talk = subprocess.run(
        [sys.executable, "-c", TALK, str(tmp_path / "log.txt")],
        cwd=HERE,
        env=BUFFERED,
        capture_output=True,
        check=True,
        text=True,
    )
    assert talk.stdout == "a result\n" * 3
    assert talk.stderr == "a note\n" * 3 + "failed: no\nhint: look\n"
