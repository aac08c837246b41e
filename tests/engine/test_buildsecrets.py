"""What builds are handed: the user's index and certificates, as pip itself would find them."""

from __future__ import annotations

import configparser
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.engine import buildsecrets
from tasks.engine.buildsecrets import BuildSecrets, write

CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"


class Machine:
    """A machine with configuration files of pip, in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environ = {"HOME": f"{root}/home", "XDG_CONFIG_DIRS": f"{root}/xdg:{root}/xdg2"}

    def configure(self, label: str, text: str) -> Path:
        path = self.root / label
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def write(self, **environ: str) -> BuildSecrets:
        return write(self.root / "target" / "build", {**self.environ, **environ})

    def options(self, **environ: str) -> dict[str, str]:
        """Return what a build's pip would read."""
        parser = configparser.RawConfigParser()
        parser.read_string(self.write(**environ).pip_conf.read_text())
        assert parser.sections() == ["global"]
        return dict(parser["global"])


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Return a machine without configuration; /etc/pip.conf of the real one does not count."""
    read: Callable[[Path], dict[str, str]] = buildsecrets._file
    monkeypatch.setattr(
        buildsecrets, "_file", lambda path: read(path) if path.is_relative_to(tmp_path) else {}
    )
    return Machine(tmp_path)


# --- nothing, and what nothing looks like --------------------------------------------------------


def test_nothing_set_is_a_valid_empty_configuration(machine: Machine) -> None:
    secrets = machine.write()
    assert secrets.pip_conf.read_text() == "[global]\n"
    assert secrets.ca_file.read_bytes() == b""
    assert machine.options() == {}


def test_the_files_are_for_nobody_else(machine: Machine) -> None:
    before = os.umask(0)
    try:
        secrets = machine.write(PIP_INDEX_URL="https://me:hunter22@example.org/simple")
    finally:
        os.umask(before)
    for path in (secrets.pip_conf, secrets.ca_file):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_files_of_an_earlier_time_are_replaced_and_their_mode_with_them(machine: Machine) -> None:
    old = machine.write(PIP_INDEX_URL="https://old.example.org/simple").pip_conf
    old.chmod(0o644)
    secrets = machine.write()
    assert secrets.pip_conf == old
    assert old.read_text() == "[global]\n"
    assert stat.S_IMODE(old.stat().st_mode) == 0o600
    assert sorted(path.name for path in old.parent.iterdir()) == ["ca.pem", "pip.conf"]


# --- pip's layers --------------------------------------------------------------------------------


def test_the_files_in_pips_order() -> None:
    found = list(buildsecrets._pip_files({"HOME": "/h", "XDG_CONFIG_DIRS": "/a:/b"}))
    assert [str(path) for path in found] == [
        "/a/pip/pip.conf",
        "/b/pip/pip.conf",
        "/etc/pip.conf",
        "/h/.pip/pip.conf",
        "/h/Library/Application Support/pip/pip.conf",
        "/h/.config/pip/pip.conf",
    ]


@pytest.mark.parametrize("empty", [{}, {"XDG_CONFIG_DIRS": "", "XDG_CONFIG_HOME": ""}])
def test_without_xdg_variables_its_defaults_count(empty: dict[str, str]) -> None:
    first, *_, last = buildsecrets._pip_files({"HOME": "/h", **empty})
    assert (str(first), str(last)) == ("/etc/xdg/pip/pip.conf", "/h/.config/pip/pip.conf")


def test_without_a_home_no_other_is_looked_at() -> None:
    assert {path.parts[1] for path in buildsecrets._pip_files({})} == {"etc", "nonexistent"}


def test_later_layers_win_option_by_option(machine: Machine) -> None:
    machine.configure(
        "xdg/pip/pip.conf", "[global]\nindex-url = https://1/\ntimeout = 1\nretries=1"
    )
    machine.configure("xdg2/pip/pip.conf", "[global]\nindex-url = https://2/\ntimeout = 2\n")
    machine.configure("home/.pip/pip.conf", "[global]\nindex-url = https://3/\n")
    assert machine.options() == {"index-url": "https://3/", "timeout": "2", "retries": "1"}
    machine.configure("home/.config/pip/pip.conf", "[global]\nindex-url = https://4/\n")
    assert machine.options()["index-url"] == "https://4/"
    assert machine.options(PIP_INDEX_URL="https://5/")["index-url"] == "https://5/"


def test_the_file_that_a_variable_names_takes_the_place_of_the_users_own(machine: Machine) -> None:
    machine.configure("xdg/pip/pip.conf", "[global]\ntimeout = 1\n")
    machine.configure("home/.pip/pip.conf", "[global]\nretries = 9\n")
    chosen = machine.configure("mine.conf", "[global]\nindex-url = https://mine/\n")
    options = machine.options(PIP_CONFIG_FILE=str(chosen))
    assert options == {"timeout": "1", "index-url": "https://mine/"}


def test_a_variable_that_names_no_file_changes_nothing(machine: Machine) -> None:
    machine.configure("home/.pip/pip.conf", "[global]\nretries = 9\n")
    assert machine.options(PIP_CONFIG_FILE=f"{machine.root}/gone") == {"retries": "9"}


def test_a_user_may_want_no_file_at_all(machine: Machine) -> None:
    machine.configure("xdg/pip/pip.conf", "[global]\nindex-url = https://1/\n")
    options = machine.options(PIP_CONFIG_FILE=os.devnull, PIP_RETRIES="7")
    assert options == {"retries": "7"}


def test_sections_of_other_commands_do_not_count(machine: Machine) -> None:
    machine.configure(
        "home/.pip/pip.conf",
        "[freeze]\ntimeout = 1\n[global]\ntimeout = 2\nretries = 2\n[install]\ntimeout = 3\n",
    )
    assert machine.options() == {"timeout": "3", "retries": "2"}


@pytest.mark.parametrize("key", ["index-url", "index_url", "INDEX-URL", "Index_URL"])
def test_an_option_is_written_in_several_ways(machine: Machine, key: str) -> None:
    machine.configure("home/.pip/pip.conf", f"[global]\n{key} = https://1/%20\n")
    assert machine.options() == {"index-url": "https://1/%20"}


@pytest.mark.parametrize(
    ("variable", "option"),
    [
        ("PIP_INDEX_URL", "index-url"),
        ("PIP_EXTRA_INDEX_URL", "extra-index-url"),
        ("PIP_TRUSTED_HOST", "trusted-host"),
        ("PIP_TIMEOUT", "timeout"),
        ("PIP_DEFAULT_TIMEOUT", "default-timeout"),
        ("PIP_RETRIES", "retries"),
    ],
)
def test_variables(machine: Machine, variable: str, option: str) -> None:
    assert machine.options(**{variable: "12"}) == {option: "12"}
    assert machine.options(**{variable: ""}) == {}


def test_options_that_mean_nothing_to_a_build_are_left_out(machine: Machine) -> None:
    machine.configure(
        "home/.pip/pip.conf", "[global]\ncache-dir = /c\nfind-links = /w\nuser = yes\n"
    )
    assert machine.options(PIP_FIND_LINKS="/w", PIP_TARGET="/t", PIP_NO_INDEX="1") == {}


@pytest.mark.parametrize("text", ["no section\n", "[global\n", "[global]\nx\n=", "\xff\xfe"])
def test_a_file_that_is_none_is_pips_own_business(machine: Machine, text: str) -> None:
    path = machine.configure("home/.pip/pip.conf", "")
    path.write_bytes(text.encode("latin-1"))
    assert machine.options(PIP_RETRIES="7") == {"retries": "7"}


# --- folders of this machine ---------------------------------------------------------------------


@pytest.mark.parametrize("index", ["file:///opt/simple", "/opt/simple", "./simple", "../simple"])
def test_an_index_that_is_a_folder_is_left_out(machine: Machine, index: str) -> None:
    assert machine.options(PIP_INDEX_URL=index) == {}


def test_of_several_indexes_those_within_reach_are_kept(machine: Machine) -> None:
    machine.configure(
        "home/.pip/pip.conf",
        "[global]\nextra-index-url =\n    file:///opt/a\n    https://b/simple\n    file:///opt/c\n"
        "    https://d/simple\n",
    )
    assert machine.options() == {"extra-index-url": "https://b/simple https://d/simple"}


# --- certificates --------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_a_private_ca_is_found_by_each_variable(machine: Machine, variable: str) -> None:
    ca = machine.configure("ca.pem", CERTIFICATE)
    secrets = machine.write(**{variable: str(ca)})
    assert secrets.ca_file.read_text() == CERTIFICATE
    assert machine.options(**{variable: str(ca)}) == {"cert": "/run/secrets/ca.pem"}


def test_a_private_ca_is_found_in_pips_configuration(machine: Machine) -> None:
    ca = machine.configure("ca.pem", CERTIFICATE)
    machine.configure("home/.pip/pip.conf", f"[global]\ncert = {ca}\n")
    assert machine.write().ca_file.read_text() == CERTIFICATE
    assert machine.options() == {"cert": "/run/secrets/ca.pem"}


def test_pips_own_variable_comes_first(machine: Machine) -> None:
    own = machine.configure("own.pem", "own")
    other = machine.configure("other.pem", "other")
    secrets = machine.write(SSL_CERT_FILE=str(other), PIP_CERT=str(own))
    assert secrets.ca_file.read_text() == "own"


@pytest.mark.parametrize("there", ["nothing", "folder"])
def test_a_variable_that_names_no_bundle(machine: Machine, there: str) -> None:
    path = machine.root / "ca"
    if there == "folder":
        path.mkdir()
    assert machine.write(SSL_CERT_FILE=str(path)).ca_file.read_bytes() == b""
    assert machine.options(SSL_CERT_FILE=str(path)) == {}
    assert machine.options(SSL_CERT_FILE="") == {}
