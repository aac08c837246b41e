"""A strict reader (and writer) of env files.

The syntax is python-dotenv's, by its own parser, without interpolation: a value is what the file
says. Where the library skips what it does not understand, this reader reports it, and it takes any
file at all (a FIFO, a device, 20 MB, UTF-16) without blocking, hanging or raising. A problem is
told by line and key, never by value: the value may be a secret.
"""

from __future__ import annotations

import codecs
import io
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from dotenv.parser import Binding, parse_stream

MAXIMUM_BYTES = 1024 * 1024
MAXIMUM_LINES = 10_000
# The parser's search for a trailing comment takes quadratic time on a run of blanks.
MAXIMUM_BLANKS = 100

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_ASSIGNMENT = re.compile(
    rf"^[^\S\n]*(?:export[^\S\n]+)?({_NAME.pattern})[^\S\n]*=[^\S\n]*", re.MULTILINE
)
_QUOTED = re.compile(r"""(['"])(?:\\.|(?!\1)[^\\])*\1""", re.DOTALL)
_LONG_BLANK = re.compile(rf"[^\S\n]{{{MAXIMUM_BLANKS + 1}}}")
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n", "\r": r"\r"})


class Entry(NamedTuple):
    """A value, as it is in the file, and the line (from 1) that its key is on."""

    text: str
    line: int


class Problem(NamedTuple):
    """What is wrong with a line, or with the whole file (`line` 0).

    `key` is what stands in the key's place, so it may be anything, a line of a pasted private key
    too (empty: nothing does). `what` holds nothing that the file says.
    """

    line: int
    key: str
    what: str


class Reading(NamedTuple):
    """All that a file says. With problems the entries are only those that could be read.

    `mode` are the file's permission bits.
    """

    entries: Mapping[str, Entry]
    problems: tuple[Problem, ...]
    mode: int


class _RefusedError(Exception):
    """The file as a whole cannot be taken."""

    def __init__(self, what: str, line: int = 0) -> None:
        super().__init__(what)
        self.problem = Problem(line, "", what)


def read(path: Path, known: Callable[[str], bool]) -> Reading:
    """Read the env file `path`, in which only keys that are `known` may be set.

    Never raises because of the file: whatever is wrong with it is among the problems.
    """
    try:
        content, mode = _content(path)
        text = _text(content)
    except _RefusedError as refused:
        return Reading({}, (refused.problem,), 0)
    entries, problems = _parse(text, known)
    return Reading(entries, tuple(problems), mode)


def write(path: Path, values: Mapping[str, str], comment: str) -> None:
    """Write `values` for the owner's eyes only, so that `read` gives them back.

    Atomic: whoever reads at the same time sees the old file or the new one. `comment` is one line.
    Raises OSError.
    """
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(f"# {comment}\n")
            stream.writelines(f"{key}={quoted(text)}\n" for key, text in values.items())
            stream.flush()
            os.fsync(descriptor)
        Path(temporary).replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise


def quoted(text: str) -> str:
    """Write `text` (no NUL, no lone surrogate) as an env file's value, on one line."""
    return f'"{text.translate(_ESCAPES)}"'


def _content(path: Path) -> tuple[bytes, int]:
    """Return the file's bytes and permission bits; never blocks, never reads more than allowed."""
    try:
        # Asked before the file is opened, because opening a device can act on it; and again of
        # what was opened, which may be another file by now.
        _require_file(path.stat())
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            status = os.fstat(descriptor)
            _require_file(status)
            content = stream.read(MAXIMUM_BYTES + 1)
    except OSError as error:
        raise _RefusedError(f"cannot be read: {error.strerror}") from None
    if len(content) > MAXIMUM_BYTES:  # it grew since it was asked for its size
        raise _RefusedError(_TOO_LARGE)
    return content, stat.S_IMODE(status.st_mode)


_TOO_LARGE = f"is larger than {MAXIMUM_BYTES // 1024} KiB; this cannot be an env file"


def _require_file(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _RefusedError("is not a regular file")
    if status.st_size > MAXIMUM_BYTES:
        raise _RefusedError(_TOO_LARGE)


def _text(content: bytes) -> str:
    """Decode a file; line ends become LF, because the parser counts lines wrong with others."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise _RefusedError("is UTF-16; save it as UTF-8")
    if b"\0" in content:
        raise _RefusedError("has a NUL character", _line_at(content, content.index(b"\0")))
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise _RefusedError("is not UTF-8", _line_at(content, error.start)) from None
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if text.count("\n") > MAXIMUM_LINES:
        raise _RefusedError(f"has more than {MAXIMUM_LINES} lines")
    if run := _LONG_BLANK.search(text):
        line = text.count("\n", 0, run.start()) + 1
        raise _RefusedError(f"has more than {MAXIMUM_BLANKS} blanks in a row", line)
    return text


def _line_at(content: bytes, offset: int) -> int:
    return content.count(b"\n", 0, offset) + 1


def _parse(text: str, known: Callable[[str], bool]) -> tuple[dict[str, Entry], list[Problem]]:
    entries: dict[str, Entry] = {}
    problems: list[Problem] = []
    for binding in parse_stream(io.StringIO(text)):
        line = _line_of(binding)
        if binding.error:
            problems.append(_syntax_problem(binding.original.string, line))
        elif binding.key is not None:
            problems += (
                Problem(line, binding.key, what) for what in _faults(binding, entries, known)
            )
            if binding.value is not None:
                entries.setdefault(binding.key, Entry(binding.value, line))
    return entries, problems


def _line_of(binding: Binding) -> int:
    """Return the line of the key: the parser gives that of the blank lines before it."""
    raw = binding.original.string
    before = raw[: len(raw) - len(raw.lstrip())]
    return binding.original.line + before.count("\n")


def _syntax_problem(raw: str, line: int) -> Problem:
    """Say why the parser refused `raw`."""
    raw = raw.lstrip()
    assignment = _ASSIGNMENT.match(raw)
    if assignment is None or not raw.startswith(("'", '"'), assignment.end()):
        return Problem(line, "", "is not of the form KEY=value")
    if _QUOTED.match(raw, assignment.end()):
        return Problem(line, assignment[1], "has text after its closing quote, or an open quote")
    return Problem(line, assignment[1], "has an open quote")


def _faults(
    binding: Binding, entries: Mapping[str, Entry], known: Callable[[str], bool]
) -> Iterator[str]:
    """Yield what is wrong with a line that the parser accepts; `entries` are those before it."""
    key = binding.key or ""
    if binding.value is None:
        yield "has no `=`"
    elif not _NAME.fullmatch(key):
        yield "is not a valid key (letters, digits and _)"
    elif not known(key):
        yield "is not a known key"
    if key in entries:
        yield f"is set twice, first on line {entries[key].line}"
    # A quote left open ends at the next one, lines later, and takes the keys between with it.
    inner = binding.original.string.lstrip().partition("\n")[2]
    if any(known(assignment[1]) for assignment in _ASSIGNMENT.finditer(inner)):
        yield "has an open quote: another key is set inside its value"
