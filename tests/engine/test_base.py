"""The image beneath all others: there, pulled, or made from Debian's packages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tasks.engine import base
from tasks.engine.api import Image
from tasks.errors import Unavailable

if TYPE_CHECKING:
    from tests.engine.conftest import Workshop

REFUSED = "echo 'Error response from daemon: no such host' >&2; exit 1"
BOOTSTRAPPED = "seatrial-bootstrapped/debian:12-slim"


def image(name: str) -> Image:
    return Image(f"sha256:{name}", {}, "", {})


# --- which release of Debian ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "suite"),
    [
        ("debian:12-slim", "bookworm"),
        ("debian:12", "bookworm"),
        ("debian:bookworm", "bookworm"),
        ("debian:bookworm-slim", "bookworm"),
        ("docker.io/library/debian:12-slim", "bookworm"),
        ("docker.io/debian:13", "trixie"),
        ("library/debian:trixie-slim", "trixie"),
        ("debian:13-slim", "trixie"),
    ],
)
def test_images_of_debian(wanted: str, suite: str) -> None:
    assert base._suite(wanted) == suite


@pytest.mark.parametrize(
    "wanted",
    [
        "debian",
        "debian:latest",
        "debian:11-slim",
        "debian:12-slim-extra",
        "debian:12@sha256:" + "0" * 64,
        "ubuntu:24.04",
        "python:3.12-slim",
        "registry.example.org/debian:12-slim",
        "docker.io/someone/debian:12",
        "my-debian:12",
    ],
)
def test_images_that_are_not_made_from_packages(wanted: str) -> None:
    # What the user asked for is not replaced by something that is merely alike.
    assert base._suite(wanted) is None


# --- from where ----------------------------------------------------------------------------------


def test_there_already(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    workshop.engine.images["debian:12-slim"] = image("debian")
    workshop.programs.put("docker")
    assert base.make(workshop.tools()) == "debian:12-slim"
    assert workshop.programs.calls == []
    assert "debian:12-slim is there already" in capsys.readouterr().err


def test_pulled(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    workshop.programs.put("docker")
    tools = workshop.tools(BASE_IMAGE="registry.example.org/base:1")
    assert base.make(tools) == "registry.example.org/base:1"
    assert workshop.programs.calls == ["docker pull --quiet registry.example.org/base:1"]
    assert "registry.example.org/base:1 pulled" in capsys.readouterr().err


def test_bootstrapped_before(workshop: Workshop) -> None:
    workshop.engine.images[BOOTSTRAPPED] = image("debian")
    workshop.programs.put("docker", REFUSED)
    assert base.find(workshop.tools()) == BOOTSTRAPPED
    assert base.make(workshop.tools()) == BOOTSTRAPPED
    assert workshop.programs.calls == []


def test_one_bootstrapped_for_another_wish_does_not_count(workshop: Workshop) -> None:
    workshop.engine.images[BOOTSTRAPPED] = image("debian")
    assert base.find(workshop.tools(BASE_IMAGE="debian:13-slim")) is None


def test_bootstrapped(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    workshop.programs.put("docker", f'[ "$1" != pull ] || {{ {REFUSED}; }}')
    workshop.programs.put("mmdebstrap")
    assert base.make(workshop.tools()) == BOOTSTRAPPED
    pull, bootstrap, imported = workshop.programs.calls
    assert pull == "docker pull --quiet debian:12-slim"
    archive = bootstrap.split()[-1]
    assert bootstrap == (
        "mmdebstrap --variant=minbase --include=ca-certificates --architectures=amd64"
        " --dpkgopt=path-exclude=/usr/share/man/* --dpkgopt=path-exclude=/usr/share/locale/*"
        " --dpkgopt=path-exclude=/usr/share/doc/* --dpkgopt=path-include=/usr/share/doc/*/copyright"
        f" bookworm {archive}"
    )
    assert imported == (
        'docker import --change CMD ["bash"] --change LABEL seatrial.project=seatrial'
        f" --change LABEL seatrial.checkout=0123456789 {archive} {BOOTSTRAPPED}"
    )
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("base")]
    assert told == [
        "base image: debian:12-slim cannot be pulled; making it from Debian's packages",
        f"base image: {BOOTSTRAPPED}, bootstrapped from Debian bookworm",
    ]


def test_neither_there_nor_pulled_nor_debian(workshop: Workshop) -> None:
    workshop.programs.put("docker", REFUSED)
    workshop.programs.put("mmdebstrap")
    with pytest.raises(Unavailable, match=r"ubuntu:24\.04 cannot be had") as caught:
        base.make(workshop.tools(BASE_IMAGE="ubuntu:24.04"))
    assert caught.value.exit_code == 69
    assert caught.value.evidence == ("Error response from daemon: no such host",)
    assert "BASE_IMAGE" in caught.value.hint
    assert workshop.programs.calls == ["docker pull --quiet ubuntu:24.04"]


def test_an_engine_that_is_gone_is_not_a_refusal(workshop: Workshop) -> None:
    workshop.programs.put("docker", "echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    workshop.programs.put("mmdebstrap")
    with pytest.raises(Unavailable, match="the Docker engine does not answer"):
        base.make(workshop.tools())
    assert len(workshop.programs.calls) == 1


def test_mmdebstrap_is_installed_if_it_is_missing(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: name if name == "apt-get" else None)
    workshop.programs.put("docker", f'[ "$1" != pull ] || {{ {REFUSED}; }}')
    workshop.programs.put("apt-get")
    workshop.programs.put("mmdebstrap")
    assert base.make(workshop.tools()) == BOOTSTRAPPED
    apt = "apt-get --quiet=2 -o DPkg::Lock::Timeout=600"
    assert workshop.programs.calls[1:3] == [
        f"{apt} update",
        f"{apt} install --yes --no-install-recommends mmdebstrap",
    ]


def test_mmdebstrap_cannot_be_installed(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: name if name == "apt-get" else None)
    workshop.programs.put("docker", REFUSED)
    workshop.programs.put("apt-get", "echo 'E: are you root?' >&2; exit 100")
    with pytest.raises(Unavailable, match="mmdebstrap is missing") as caught:
        base.make(workshop.tools())
    assert caught.value.evidence == ("E: are you root?",)
    assert "apt-get install mmdebstrap" in caught.value.hint


def test_a_machine_with_neither_registry_nor_packages(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    workshop.programs.put("docker", REFUSED)
    with pytest.raises(Unavailable, match="neither a registry nor mmdebstrap"):
        base.make(workshop.tools())


def test_a_dry_run_shows_the_pull(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    workshop.programs.put("docker")
    assert base.make(workshop.tools(dry=True)) == "debian:12-slim"
    assert workshop.programs.calls == []
    assert capsys.readouterr().out == (
        "$ docker pull --quiet debian:12-slim  (unless the engine has it)\n"
    )
