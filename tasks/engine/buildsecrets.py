"""What a build must know and no layer may hold: the user's Python index and private CA.

They reach the builds as BuildKit secrets; `compose/images.yaml` names them.
"""

from __future__ import annotations

import configparser
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

# pip's options that matter to a build in a container; addresses of this machine's files do not.
_OPTIONS = (
    "index-url", "extra-index-url", "trusted-host", "timeout", "default-timeout", "retries",
)  # fmt: skip
_CA_VARIABLES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
_CA_IN_BUILD = "/run/secrets/ca.pem"


@dataclass(frozen=True)
class BuildSecrets:
    """Files to hand to a build: a pip configuration, and a bundle of certificates."""

    pip_conf: Path
    ca_file: Path


def write(folder: Path, environ: Mapping[str, str]) -> BuildSecrets:
    """Write the secrets of the builds to `folder`, readable for nobody else.

    Read are the files and variables of pip's own configuration, in pip's order, and the variables
    that name a private CA. https://pip.pypa.io/en/stable/topics/configuration/
    """
    options: dict[str, str] = {}
    for layer in (*map(_file, _pip_files(environ)), _variables(environ)):
        options |= layer
    ca = next((environ[name] for name in _CA_VARIABLES if environ.get(name)), options.get("cert"))
    ca_text = Path(ca).read_bytes() if ca and Path(ca).is_file() else b""
    lines = [f"{name} = {value}" for name in _OPTIONS if (value := _reachable(options.get(name)))]
    lines += [f"cert = {_CA_IN_BUILD}"] if ca_text else []
    folder.mkdir(parents=True, exist_ok=True)
    secrets = BuildSecrets(folder / "pip.conf", folder / "ca.pem")
    _write_private(secrets.pip_conf, "\n".join(["[global]", *lines, ""]).encode())
    _write_private(secrets.ca_file, ca_text)
    return secrets


def _pip_files(environ: Mapping[str, str]) -> Iterator[Path]:
    chosen = environ.get("PIP_CONFIG_FILE")
    if chosen == os.devnull:
        return
    for folder in (environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":"):
        yield Path(folder, "pip", "pip.conf")
    yield Path("/etc/pip.conf")
    if chosen and Path(chosen).exists():  # in place of the user's own
        yield Path(chosen)
        return
    home = Path(environ.get("HOME", "/nonexistent"))
    yield home / ".pip" / "pip.conf"
    yield home / "Library" / "Application Support" / "pip" / "pip.conf"
    yield Path(environ.get("XDG_CONFIG_HOME") or home / ".config", "pip", "pip.conf")


def _file(path: Path) -> dict[str, str]:
    parser = configparser.RawConfigParser()
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError):
        return {}  # pip itself complains about it, to whom it concerns
    sections = (parser[name] for name in ("global", "install", "download") if name in parser)
    return {key.replace("_", "-"): value for section in sections for key, value in section.items()}


def _variables(environ: Mapping[str, str]) -> dict[str, str]:
    return {
        name: environ[variable]
        for name in (*_OPTIONS, "cert")
        if environ.get(variable := "PIP_" + name.upper().replace("-", "_"))
    }


def _reachable(value: str | None) -> str:
    """Leave out indexes that are folders of this machine: a build does not see them."""
    words = (value or "").split()
    return " ".join(word for word in words if not word.startswith(("file:", "/", "./", "../")))


def _write_private(path: Path, content: bytes) -> None:
    """Write a file for the owner's eyes only; a build that reads it meanwhile sees all or old."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    Path(temporary).replace(path)
