"""The strict reader: what it accepts, what it reports, and that no file at all upsets it."""

from __future__ import annotations

import os
import re
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import envfile
from tasks.envfile import Problem

Write = Callable[[str | bytes], Path]

KEYS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,20}", fullmatch=True)
# What a file in UTF-8 can hold: no lone surrogates (category Cs), no NUL.
VALUES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
MARK = "tr0ub4dor&3"


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Write:
    path = tmp_path_factory.mktemp("envfile") / "some.env"

    def overwrite(content: str | bytes) -> Path:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return overwrite


def known(key: str) -> bool:
    return key in {"A", "B", "C"} or key.startswith("APP_")


def entries(path: Path) -> dict[str, tuple[str, int]]:
    reading = envfile.read(path, known)
    assert reading.problems == ()
    return {key: (entry.text, entry.line) for key, entry in reading.entries.items()}


def problems(path: Path) -> tuple[Problem, ...]:
    return envfile.read(path, known).problems


# What is accepted


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=x", "x"),
        ("A=", ""),
        ("A = x ", "x"),
        ("export A=x", "x"),
        ("A=x # comment", "x"),
        ("A=x#y", "x#y"),
        ("A=b=c", "b=c"),
        ("A='x # y'", "x # y"),
        ('A="x\\ny"', "x\ny"),
        ("A='x\\ny'", "x\\ny"),
        ("A='one\ntwo'", "one\ntwo"),
        ("A=${HOME}$HOME$(id)`id`", "${HOME}$HOME$(id)`id`"),
    ],
)
def test_values_are_literal(write: Write, line: str, value: str) -> None:
    assert entries(write(f"{line}\n")) == {"A": (value, 1)}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_bom_and_any_line_end_are_accepted(write: Write, mark: bytes, end: str) -> None:
    text = end.join(["A=ü", "", "# comment", "", "B='x", "y'", "C=z", ""])
    assert entries(write(mark + text.encode())) == {"A": ("ü", 1), "B": ("x\ny", 5), "C": ("z", 7)}


def test_an_empty_file_says_nothing(write: Write) -> None:
    assert entries(write("")) == {}


def test_the_mode_is_told(write: Write) -> None:
    path = write("A=x\n")
    path.chmod(0o640)
    assert envfile.read(path, known).mode == 0o640


def test_a_link_to_a_file_is_read(write: Write, tmp_path: Path) -> None:
    link = tmp_path / "link.env"
    link.symlink_to(write("A=x\n"))
    assert entries(link) == {"A": ("x", 1)}


# What is reported


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("A B=1", Problem(1, "", "is not of the form KEY=value")),
        ("=1", Problem(1, "", "is not of the form KEY=value")),
        ("'A=1", Problem(1, "", "is not of the form KEY=value")),
        ("\n\nA", Problem(3, "A", "has no `=`")),
        ("A=1\nB=2\n\nA=3", Problem(4, "A", "is set twice, first on line 1")),
        ("D=1", Problem(1, "D", "is not a known key")),
        ("9-A=1", Problem(1, "9-A", "is not a valid key (letters, digits and _)")),
        ("Ä=1", Problem(1, "Ä", "is not a valid key (letters, digits and _)")),
        ("A='1", Problem(1, "A", "has an open quote")),
        ('A="1\\"', Problem(1, "A", "has an open quote")),
        ("A='1' 2", Problem(1, "A", "has text after its closing quote, or an open quote")),
        (
            "A='1\nB=2'",
            Problem(1, "A", "has an open quote: another key is set inside its value"),
        ),
    ],
)
def test_a_bad_line_is_reported(write: Write, content: str, expected: Problem) -> None:
    assert problems(write(f"{content}\n")) == (expected,)


def test_all_bad_lines_are_reported_with_their_own_numbers(write: Write) -> None:
    path = write("A='1\r\n\r\nB C\r\nD=4\r\n\r\nA\r\n")
    assert [problem.line for problem in problems(path)] == [1, 3, 4, 6]


def test_a_value_of_many_lines_is_no_open_quote(write: Write) -> None:
    key = "-----BEGIN KEY-----\nMIIE=\nD=1\n-----END KEY-----\n"
    assert entries(write(f"A='{key}'\nB=1\n")) == {"A": (key, 1), "B": ("1", 6)}


@pytest.mark.parametrize(
    ("content", "line", "what"),
    [
        (b"A=1\nB=\0", 2, "NUL"),
        ("A=1\n".encode("utf-16"), 0, "UTF-16"),
        (b"\xfe\xff\0A", 0, "UTF-16"),
        ("A=1\n".encode("utf-16-le"), 1, "NUL"),
        (b"A=1\nB=\xff", 2, "not UTF-8"),
        (b"#" * (envfile.MAXIMUM_BYTES + 1), 0, "larger than 1024 KiB"),
        (b"\n" * (envfile.MAXIMUM_LINES + 1), 0, "more than 10000 lines"),
        (b"A=1\nB=x" + b" " * (envfile.MAXIMUM_BLANKS + 1) + b"y", 2, "blanks in a row"),
    ],
)
def test_a_file_that_is_no_env_file_is_refused(
    write: Write, content: bytes, line: int, what: str
) -> None:
    (problem,) = problems(write(content))
    assert problem.line == line
    assert what in problem.what


@pytest.mark.parametrize(
    "content",
    [
        b"#" * envfile.MAXIMUM_BYTES,
        b"\n" * envfile.MAXIMUM_LINES,
        b"A=x" + b" " * envfile.MAXIMUM_BLANKS + b"y",
    ],
)
def test_a_file_at_the_limit_is_read(write: Write, content: bytes) -> None:
    assert problems(write(content)) == ()


def make_loop(path: Path) -> None:
    path.symlink_to(path)


def make_dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def make_huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 20 * 1024**3)  # sparse: reading it would take minutes


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (os.mkfifo, "is not a regular file"),
        (os.mkdir, "is not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "is not a regular file"),
        (make_socket, "is not a regular file"),
        (make_huge, "is larger than 1024 KiB; this cannot be an env file"),
        (make_loop, "cannot be read: Too many levels of symbolic links"),
        (make_dangling_link, "cannot be read: No such file or directory"),
    ],
)
def test_anything_else_than_a_file_is_refused_at_once(
    tmp_path: Path, make: Callable[[Path], None], what: str
) -> None:
    path = tmp_path / "x.env"
    make(path)
    start = time.monotonic()
    assert problems(path) == (Problem(0, "", what),)
    assert time.monotonic() - start < 1


def test_a_file_that_becomes_a_fifo_does_not_block(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    path, regular = tmp_path / "x.env", write("A=1\n").stat()
    path.symlink_to(fifo)
    monkeypatch.setattr(Path, "stat", lambda *_args, **_options: regular)
    assert problems(path) == (Problem(0, "", "is not a regular file"),)


def test_a_file_without_permission_is_reported(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object) -> int:
        raise PermissionError(13, "Permission denied")

    path = write("A=1\n")
    monkeypatch.setattr(os, "open", refuse)
    assert problems(path) == (Problem(0, "", "cannot be read: Permission denied"),)


@pytest.mark.parametrize(
    "content",
    [
        "A B\n" * 8000,
        "A='\n" * 8000,
        "".join(f"APP_{n}=${{APP_{n - 1}}}\n" for n in range(8000)),
        ("A=x" + (" " * envfile.MAXIMUM_BLANKS + "y") * 9000),
        'A="' + "\\\\" * 500_000 + '"',
        'A="' + "\\" * 1_000_001 + '"',
    ],
    ids=["bad", "open", "chain", "blanks", "escapes", "backslashes"],
)
def test_a_hostile_file_takes_no_time(write: Write, content: str) -> None:
    path = write(content)
    start = time.process_time()
    envfile.read(path, known)
    assert time.process_time() - start < 2  # some 0.5 at worst; quadratic would be minutes


# What holds for any file


@settings(deadline=None)
@given(values=st.dictionaries(KEYS, VALUES, max_size=5))
def test_what_is_quoted_is_read_back(write: Write, values: dict[str, str]) -> None:
    content = "".join(f"{key}={envfile.quoted(text)}\n" for key, text in values.items())
    reading = envfile.read(write(content), values.__contains__)
    # More blanks in a row than allowed are the one thing that cannot be read back.
    if not any(re.search(rf"\s{{{envfile.MAXIMUM_BLANKS}}}", text) for text in values.values()):
        assert reading.problems == ()
        assert {key: entry.text for key, entry in reading.entries.items()} == values


@settings(deadline=None)
@given(content=st.binary(max_size=300))
def test_any_bytes_give_a_reading(write: Write, content: bytes) -> None:
    reading = envfile.read(write(content), known)
    assert all(
        0 <= problem.line <= content.count(b"\n") + content.count(b"\r") + 1
        for problem in reading.problems
    )


PIECES = [
    "A",
    "B",
    "D",
    "export ",
    "=",
    "'",
    '"',
    "\n",
    "\r\n",
    "\r",
    " ",
    "#",
    "\\",
    "\f",
    "\u2028",
]


@settings(deadline=None)
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=30))
def test_no_value_is_in_what_is_said_about_it(write: Write, pieces: list[str]) -> None:
    content = "".join(piece + MARK if piece in {"=", "'", '"'} else piece for piece in pieces)
    for problem in problems(write(content)):
        assert MARK not in problem.what


# The writer


def test_a_written_file_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "x.env"
    envfile.write(path, {"A": "1"}, "comment")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == '# comment\nA="1"\n'


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "x.env"
    path.write_text("A=old\n")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        envfile.write(path, {"A": "new"}, "comment")
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.env"]
    assert path.read_text() == "A=old\n"
