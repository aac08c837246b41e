"""The one module that prints.

All others tell it what happened. Progress goes to standard error, results (a URL, a listing, the
commands of a dry run) to standard output, so that `url=$(invoke release.url)` works; the run's log
gets both. Whatever passes here has the secrets masked.
"""

from __future__ import annotations

import base64
import html
import json
import os
import sys
import threading
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TextIO

from rich.console import Console as Terminal
from rich.text import Text

from tasks.errors import Failure

MASK = "********"

_stage: ContextVar[str] = ContextVar("stage", default="")


def current_stage() -> str:
    """Return the stage that this thread is at work for; empty if it is none's."""
    return _stage.get()


def masker(secrets: Iterable[str]) -> Callable[[str], str]:
    """Return a function that masks `secrets` in a text.

    A secret of several lines is masked line by line, as output comes in lines; one that a program
    prints as JSON, in a URL, in base64, in XML or as Python's repr is masked there too.
    """
    forms: set[str] = set()
    for secret in secrets:
        # A line of a few characters ("}", "EOF") is no secret, and masking it would blot the log.
        pieces = [secret, *(line for line in secret.splitlines() if len(line) >= 8)]  # noqa: PLR2004
        forms.update(*map(_forms, pieces))
    ordered = sorted((form for form in forms if form.strip()), key=len, reverse=True)

    def mask(text: str) -> str:
        for form in ordered:
            text = text.replace(form, MASK)
        return text

    return mask


def _forms(text: str) -> set[str]:
    """Return how programs write a text: as it is, or quoted for where they write it."""
    in_xml = html.escape(text, quote=False)
    return {
        text,
        json.dumps(text)[1:-1],
        json.dumps(text, ensure_ascii=False)[1:-1],
        repr(text)[1:-1],
        urllib.parse.quote(text, safe=""),
        urllib.parse.quote_plus(text),
        base64.b64encode(text.encode()).decode(),
        in_xml,
        in_xml.replace('"', "&quot;"),
    }


def _silence(stream: TextIO) -> None:
    """Have a stream that nobody reads any more swallow what it is given, and still holds."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Terminal(Terminal):
    def on_broken_pipe(self) -> None:
        """Go on in silence: Rich would end the process, and with it the run."""
        _silence(sys.stderr)


class Console:
    """Shows a run to whoever looks: a terminal, a CI service's log, the run's own log."""

    def __init__(self) -> None:
        self._terminal = _Terminal(stderr=True, highlight=False, soft_wrap=True)
        self._lock = threading.Lock()
        self._log: TextIO | None = None
        self.mask: Callable[[str], str] = str

    def log_to(self, log: TextIO) -> None:
        """Write a copy of everything to `log`, an open text file, until it is closed."""
        self._log = log

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Mark what is printed in this thread as being of stage `name`."""
        token = _stage.set(name)
        try:
            yield
        finally:
            _stage.reset(token)

    def started(self) -> None:
        """Tell that the stage begins."""
        self._say("started", style="bold")

    def passed(self, seconds: float, note: str = "") -> None:
        """Tell that the stage has passed, after `seconds`."""
        self._say(f"passed in {seconds:.1f} s{', ' + note if note else ''}", style="bold green")

    def skipped(self, why: str) -> None:
        """Tell that the stage need not run."""
        self._say(f"skipped: {why}", style="green")

    def command(self, line: str) -> None:
        """Show a command that is about to run."""
        self._say(f"$ {line}", style="dim")

    def line(self, text: str) -> None:
        """Show a line that a command or a container printed."""
        self._say(text)

    def detail(self, text: str) -> None:
        """Keep a line in the run's log alone."""
        with self._lock:
            self._write_log(self.mask(text))

    def note(self, text: str) -> None:
        """Tell something worth knowing."""
        self._say(text, style="cyan")

    def warning(self, text: str) -> None:
        """Tell something that deserves a second look, but stops nothing."""
        self._say(f"warning: {text}", style="yellow")

    def failure(self, failure: Failure) -> None:
        """Show a failure, unless it was shown: what happened, the evidence, what to do."""
        if failure.shown:
            return
        failure.shown = True
        self._say(f"failed: {failure.message}", style="bold red")
        for text in failure.evidence:
            self._say(f"  {text}")
        if failure.hint:
            self._say(f"hint: {failure.hint}", style="yellow")

    def would(self, text: str) -> None:
        """Show, in a dry run, what would be done: the result that a dry run is asked for."""
        stage = _stage.get()
        self.result(f"{stage}: {text}" if stage else text)

    def result(self, text: str) -> None:
        """Print a result, on standard output."""
        text = self.mask(text)
        with self._lock:
            self._write_log(text)
            try:
                print(text, file=sys.stdout, flush=True)  # noqa: T201
            except BrokenPipeError:
                _silence(sys.stdout)
            except ValueError:
                pass  # closed

    def _say(self, text: str, *, style: str = "") -> None:
        text = self.mask(text)
        stage = _stage.get()
        with self._lock:
            for line in text.splitlines() or [""]:
                self._write_log(f"{stage} | {line}" if stage else line)
                shown = Text(f"{stage} | " if stage else "", style="blue")
                shown.append(line, style=style)
                with suppress(BrokenPipeError, ValueError):
                    self._terminal.print(shown)

    def _write_log(self, line: str) -> None:
        if self._log is not None and not self._log.closed:
            self._log.write(line + "\n")
            self._log.flush()
