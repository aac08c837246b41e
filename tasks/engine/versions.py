"""Whether the engine and its client are new enough, asked before any work is done."""

from __future__ import annotations

import re

from tasks.engine.api import START_HINT
from tasks.engine.process import CommandFailed
from tasks.engine.tools import Tools
from tasks.errors import Unavailable

_FORMAT = "{{range .ClientInfo.Plugins}}{{.Name}} {{.Version}}\n{{end}}engine {{.ServerVersion}}\n"


def require(tools: Tools) -> None:
    """Raise Unavailable, naming what was found and needed, if something is missing or too old.

    The least versions are those that `bootstrap` names.
    """
    script = (tools.checkout.root / "bootstrap").read_text(encoding="utf-8")
    try:
        answer = tools.processes.read(["docker", "info", "--format", _FORMAT])
    except CommandFailed as error:
        raise Unavailable(
            "the Docker engine does not answer",
            evidence=error.evidence,
            hint=START_HINT,
        ) from error
    problems = lacking(needed(script), answer)
    if problems:
        raise Unavailable(
            "the Docker tools of this machine do not suffice",
            evidence=problems,
            hint="./bootstrap installs what is missing, as root on Debian or Ubuntu",
        )


def needed(script: str) -> dict[str, str]:
    """Return the least versions that the text of `bootstrap` names."""
    return dict(re.findall(r"\b(engine|compose|buildx)_needed=([\d.]+)", script))


def lacking(least: dict[str, str], answer: str) -> list[str]:
    """Return what is missing or too old: `answer` has a line `name version` for each thing."""
    found = dict(re.findall(r"^(engine|compose|buildx) v?(\d[\w.+~-]*)", answer, re.MULTILINE))
    return [
        f"{name}: {found.get(name, 'none')} found, {version} or newer is needed"
        for name, version in least.items()
        if _numbers(found.get(name, "0")) < _numbers(version)
    ]


def _numbers(version: str) -> tuple[int, ...]:
    """Return major and minor, which is all that the least versions name."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])
