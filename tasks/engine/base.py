"""The image beneath all others, from the first source that serves."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from tasks.engine import compose
from tasks.engine.process import CommandFailed
from tasks.engine.tools import Tools
from tasks.errors import Failure, Unavailable

# Debian's releases by the tags of its official images, which are made the same way as ours.
_SUITES = {"12": "bookworm", "13": "trixie", "bookworm": "bookworm", "trixie": "trixie"}
_APT = ["apt-get", "--quiet=2", "-o", "DPkg::Lock::Timeout=600"]


def find(tools: Tools) -> str | None:
    """Return the name of the base image, if the engine has it already.

    That is the one the settings name, or the one that `make` made in its place.
    """
    names = (tools.settings.base_image, _bootstrapped_name(tools))
    return next((name for name in names if tools.engine.image(name)), None)


def make(tools: Tools) -> str:
    """Return the name of the base image, got from the first source that serves.

    There already; pulled; or, for Debian, bootstrapped from its packages. Says which. Raises
    Unavailable if none serves.
    """
    wanted = tools.settings.base_image
    if tools.dry:
        tools.console.would(f"$ {' '.join(compose.pull(wanted))}  (unless the engine has it)")
        return wanted
    if there := find(tools):
        tools.console.note(f"base image: {there} is there already")
        return there
    try:
        tools.processes.run(compose.pull(wanted))
    except CommandFailed as refusal:
        return _bootstrapped(tools, refusal)
    tools.console.note(f"base image: {wanted} pulled")
    return wanted


def _bootstrapped_name(tools: Tools) -> str:
    return f"{tools.checkout.project}-bootstrapped/{tools.settings.base_image}"


def _suite(image: str) -> str | None:
    match = re.fullmatch(r"(?:docker\.io/)?(?:library/)?debian:(\w+)(?:-slim)?", image)
    return _SUITES.get(match[1]) if match else None


def _bootstrapped(tools: Tools, refusal: Failure) -> str:
    wanted = tools.settings.base_image
    suite = _suite(wanted)
    if suite is None:
        raise Unavailable(
            f"the base image {wanted} cannot be had",
            evidence=refusal.evidence,
            hint="BASE_IMAGE names an image of a registry within reach, or debian:12-slim, which "
            "is made from Debian's packages where no registry is",
        ) from refusal
    tools.console.note(f"base image: {wanted} cannot be pulled; making it from Debian's packages")
    _require_mmdebstrap(tools)
    name = _bootstrapped_name(tools)
    with tempfile.TemporaryDirectory(prefix="seatrial-") as folder:
        archive = Path(folder, "rootfs.tar")
        tools.processes.run(
            ["mmdebstrap", "--variant=minbase", "--include=ca-certificates",
             f"--architectures={tools.engine.architecture()}",
             # as in Debian's "slim" images; copyrights stay
             "--dpkgopt=path-exclude=/usr/share/man/*",
             "--dpkgopt=path-exclude=/usr/share/locale/*",
             "--dpkgopt=path-exclude=/usr/share/doc/*",
             "--dpkgopt=path-include=/usr/share/doc/*/copyright",
             suite, str(archive)],
            show=lambda _: "",
        )  # fmt: skip
        tools.processes.run(compose.import_image(archive, name, tools.checkout.labels))
    tools.console.note(f"base image: {name}, bootstrapped from Debian {suite}")
    return name


def _require_mmdebstrap(tools: Tools) -> None:
    if shutil.which("mmdebstrap"):
        return
    hint = "install mmdebstrap (Debian, Ubuntu: apt-get install mmdebstrap), or a registry mirror"
    if not shutil.which("apt-get"):
        raise Unavailable("neither a registry nor mmdebstrap is here to make the base", hint=hint)
    try:
        tools.processes.run([*_APT, "update"])
        tools.processes.run([*_APT, "install", "--yes", "--no-install-recommends", "mmdebstrap"])
    except CommandFailed as error:
        raise Unavailable("mmdebstrap is missing", evidence=error.evidence, hint=hint) from error
