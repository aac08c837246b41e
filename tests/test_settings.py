"""The settings: layers, validation, secrets, and what is told about each."""

from __future__ import annotations

import multiprocessing
import os
import re
import stat
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.errors import DiskFailure, Misconfigured
from tasks.settings import KEYS, MASK, PLACEHOLDER, Fields, Origin, Settings, load

HERE = Path(__file__).parents[1]
MARK = "tr0ub4dor&3"  # a value that must never be shown


class Checkout:
    """A folder with env files, whose settings can be loaded."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "env").mkdir(exist_ok=True)

    def write(self, label: str, content: str | bytes, mode: int = 0o600) -> Path:
        path = self.root / label
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(mode)
        return path

    def load(
        self,
        environ: Mapping[str, str] | None = None,
        *,
        generate: bool = True,
        tracked: Callable[[Path], bool] = lambda _path: False,
    ) -> Settings:
        return load("local", self.root, environ or {}, generate=generate, tracked=tracked)

    def refusal(self, environ: Mapping[str, str] | None = None) -> list[str]:
        """Load what must not load; return the problems."""
        with pytest.raises(Misconfigured) as caught:
            self.load(environ)
        failure = caught.value
        assert failure.exit_code == 78
        assert failure.message
        assert failure.hint
        # Neither the failure nor anything its traceback would print holds a value.
        assert MARK not in "".join(traceback.format_exception(failure))
        assert MARK not in "\n".join([failure.message, *failure.evidence, failure.hint])
        assert failure.__context__ is None
        return list(failure.evidence)

    def generated(self) -> Path:
        return self.root / "target" / "secrets" / "local.env"


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    root = tmp_path / "-a path with blänks"
    root.mkdir()
    result = Checkout(root)
    result.write("env/local.env", "")
    return result


# The layers


def test_defaults(checkout: Checkout) -> None:
    settings = checkout.load()
    assert (settings.name, settings.root) == ("local", checkout.root)
    assert settings.model_dump(include=set(KEYS.values())) == {
        "project": "seatrial",
        "base_image": "debian:12-slim",
        "db_image": "",
        "nginx_image": "",
        "python_image": "",
        "bind_address": "127.0.0.1",
        "http_port": 0,
        "database_deadline": 60,
        "frontend_deadline": 60,
        "step_timeout": 300,
        "test_timeout": 900,
        "lock_timeout": 0,
        "keep": "never",
        "jobs": 8,
        "fresh": False,
        "build_cache_from": "",
        "build_cache_to": "",
        "generated_secrets": (),
        "publish": False,
        "registry": "",
        "repository": "",
        "index_url": "",
        "index_simple_url": "",
        "publish_dependencies": True,
        "index_username": "",
        "index_password": "",
        "ca_file": "",
        "publish_deadline": 300,
        "latest_branch": "main",
        "build_number": "",
        "signing_key": "",
        "signing_key_file": "",
        "trusted_keys": "",
        "trusted_keys_file": "",
        "verify_image": "",
    }
    assert settings.application == {}
    assert settings.warnings == ()
    assert settings.secrets() == ()
    assert not (checkout.root / "target").exists()


def test_later_layers_win_and_each_value_knows_its_source(checkout: Checkout) -> None:
    checkout.write("env/local.env", "\nPROJECT=a\nHTTP_PORT=1\nSTEP_TIMEOUT=1\nAPP_X=file\n")
    checkout.write("env/local.secrets.env", "HTTP_PORT=2\nSTEP_TIMEOUT=2\n")
    settings = checkout.load({"STEP_TIMEOUT": "3", "APP_X": "process", "APP_Y": "", "KEPT": "x"})
    assert (settings.project, settings.http_port, settings.step_timeout) == ("a", 2, 3.0)
    assert settings.application == {"APP_X": "process", "APP_Y": ""}
    origins = {origin.key: origin for origin in settings.explain()}
    assert origins["PROJECT"] == Origin("PROJECT", "a", "env/local.env:2")
    assert origins["HTTP_PORT"] == Origin("HTTP_PORT", MASK, "env/local.secrets.env:1")
    assert origins["APP_X"] == Origin("APP_X", "process", "process environment")
    assert origins["KEEP"] == Origin("KEEP", "never", "default")
    assert list(origins) == [*KEYS, "APP_X", "APP_Y"]


def test_environments_are_separate(checkout: Checkout) -> None:
    checkout.write("env/ci.env", "PROJECT=ci\n")
    assert load("ci", checkout.root, {}).project == "ci"
    assert checkout.load().project == "seatrial"


def test_unknown_variables_of_the_process_are_ignored(checkout: Checkout) -> None:
    environ = {"HTTP_PROT": "x", "http_port": "x", "APP_": "x", "APP_é": "x", "PATH": "/bin"}
    assert checkout.load(environ).application == {}


def test_settings_are_frozen(checkout: Checkout) -> None:
    settings = checkout.load({"APP_X": "1"})
    with pytest.raises(ValidationError):
        settings.project = "other"
    with pytest.raises(TypeError):
        settings.application["APP_X"] = "2"  # type: ignore[index]


def test_compose_gets_all_settings_as_text(checkout: Checkout) -> None:
    checkout.write(
        "env/local.env", "LOCK_TIMEOUT=0.5\nGENERATED_SECRETS=APP_A , APP_B,,APP_A\nAPP_A=$1\n"
    )
    environment = checkout.load({"APP_B": "b", "STEP_TIMEOUT": "1234567"}).compose_environment()
    # No container needs the secrets that are the collection's own.
    assert set(environment) == {*KEYS, "APP_A", "APP_B"} - {"SIGNING_KEY", "INDEX_PASSWORD"}
    assert environment["LOCK_TIMEOUT"] == "0.5"
    assert environment["STEP_TIMEOUT"] == "1234567"
    assert environment["TEST_TIMEOUT"] == "900"
    assert environment["HTTP_PORT"] == "0"
    assert environment["GENERATED_SECRETS"] == "APP_A,APP_B"
    assert environment["APP_A"] == "$1"


def test_what_compose_gets_loads_as_the_same_settings(checkout: Checkout) -> None:
    first = checkout.load({"STEP_TIMEOUT": "1e-3", "GENERATED_SECRETS": "APP_A", "APP_A": "a"})
    again = checkout.load(first.compose_environment())
    assert again.compose_environment() == first.compose_environment()


# The name of the environment


@pytest.mark.parametrize("name", ["", "../ci", "-x", "CI", "a b", "local\n", "local.secrets", "ü"])
def test_a_bad_name_lists_the_environments_there_are(checkout: Checkout, name: str) -> None:
    checkout.write("env/ci.env", "")
    checkout.write("env/example.env", "")
    checkout.write("env/local.secrets.env", "")
    with pytest.raises(Misconfigured) as caught:
        load(name, checkout.root, {})
    assert repr(name) in caught.value.message
    assert caught.value.evidence == ("environments: ci, local",)


@pytest.mark.parametrize("name", ["prod", "x" * 5000])
def test_a_missing_file_lists_the_environments_there_are(checkout: Checkout, name: str) -> None:
    with pytest.raises(Misconfigured, match="is missing") as caught:
        load(name, checkout.root, {})
    assert caught.value.evidence == ("environments: local",)
    assert "INVOKE_ENV" in caught.value.hint


def test_a_checkout_without_env_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured) as caught:
        load("local", tmp_path / "nowhere", {})
    assert caught.value.evidence == ("environments: none",)


# The values


VALID = {
    "PROJECT": ["a", "0", "a-b_c", "a--b", "a__b", "x" * 40],
    "BASE_IMAGE": [
        "debian",
        "debian:12-slim",
        "registry.example.com:5000/team/debian:12_A.b",
        "[::1]:5000/x",
        "localhost/a/b--c",
        "debian@sha256:" + "0" * 64,
    ],
    "DB_IMAGE": ["", "postgres:16"],
    "NGINX_IMAGE": ["", "nginx"],
    "PYTHON_IMAGE": ["", "python:3.11"],
    "BIND_ADDRESS": ["0.0.0.0", "::1"],  # noqa: S104
    "HTTP_PORT": ["0", "65535"],
    "DATABASE_DEADLINE": ["0.1", "1e3"],
    "FRONTEND_DEADLINE": ["1"],
    "STEP_TIMEOUT": ["1"],
    "TEST_TIMEOUT": ["1"],
    "LOCK_TIMEOUT": ["0", "1.5"],
    "KEEP": ["never", "failure", "always"],
    "JOBS": ["1", "64"],
    "GENERATED_SECRETS": ["", "APP_A", " APP_A , APP_b2,"],
    "BUILD_CACHE_FROM": ["", "type=registry,ref=r.example.com/todo/cache"],
    "BUILD_CACHE_TO": ["", "type=inline"],
    "FRESH": ["on", "off", "1", "0"],
    "PUBLISH": ["on", "off"],
    "REGISTRY": ["", "registry.example.com", "127.0.0.1:5000", "[::1]:5000"],
    "REPOSITORY": ["", "todo", "team/todo-app"],
    "INDEX_URL": ["", "https://pypi.example.com/legacy/", "http://127.0.0.1:8080/"],
    "INDEX_SIMPLE_URL": ["", "https://pypi.example.com/simple/"],
    "PUBLISH_DEPENDENCIES": ["on", "off"],
    "INDEX_USERNAME": ["", "__token__"],
    "INDEX_PASSWORD": ["", "a secret"],
    "CA_FILE": ["", "certificates/ca.pem"],
    "PUBLISH_DEADLINE": ["0.1", "300"],
    "LATEST_BRANCH": ["main", "release/1.x"],
    "BUILD_NUMBER": ["", "17", "2026.11.22_a-b"],
    "SIGNING_KEY": ["", "-----BEGIN PRIVATE KEY-----"],
    "SIGNING_KEY_FILE": ["", "/run/secrets/key.pem"],
    "TRUSTED_KEYS": ["", "-----BEGIN PUBLIC KEY-----"],
    "TRUSTED_KEYS_FILE": ["", "env/trusted.pem"],
    "VERIFY_IMAGE": ["", "r.example.com/todo:1", "127.0.0.1:1/a/b@sha256:" + "0" * 64],
}
NO_SECONDS = ["", "x", "-1", "inf", "nan", "1e400", "1 h", "\udcff"]
INVALID = {
    "PROJECT": ["", "A", "-a", "a-", "a_-b", "a b", "a/b", "a.b", "x" * 41, "a\n", "ü", "\udcff"],
    "BASE_IMAGE": ["", "a b", "Debian", "a//b", "a:", "a@sha256:0", "a:b:c", "-a", "a;b", "a\n"],
    "DB_IMAGE": [" ", "a b"],
    "NGINX_IMAGE": ["$(id)"],
    "PYTHON_IMAGE": ["\n"],
    "BIND_ADDRESS": ["", "localhost", "127.0.0.256", "127.0.0.1:80", "1"],
    "HTTP_PORT": ["", "-1", "65536", "80.5", "x", "9" * 5000],
    "DATABASE_DEADLINE": ["0", *NO_SECONDS],
    "FRONTEND_DEADLINE": ["0", *NO_SECONDS],
    "STEP_TIMEOUT": ["0", *NO_SECONDS],
    "TEST_TIMEOUT": ["0", *NO_SECONDS],
    "LOCK_TIMEOUT": NO_SECONDS,
    "KEEP": ["", "Never", "no"],
    "JOBS": ["0", "-1", "65", "1.5", "", "x"],
    "GENERATED_SECRETS": ["SECRET", "APP_A;APP_B", "APP_", "APP_A APP_B", "APP_é"],
    "BUILD_CACHE_FROM": ["a b", " "],
    "BUILD_CACHE_TO": ["a b"],
    "FRESH": ["", "2", "yes"],
    "PUBLISH": ["", "yes", "On", "true"],
    "REGISTRY": ["https://r.example.com", "r.example.com/team", "a b"],
    "REPOSITORY": ["Todo", "/todo", "todo/", "a b", "todo:1", "x" * 201],
    "INDEX_URL": [
        "pypi.example.com",
        "ftp://x",
        "https://user:word@pypi.example.com/",
        "http://a b",
    ],
    "INDEX_SIMPLE_URL": ["pypi.example.com", "https://user:word@pypi.example.com/"],
    "PUBLISH_DEPENDENCIES": ["yes", "off "],
    "PUBLISH_DEADLINE": ["0", *NO_SECONDS],
    "BUILD_NUMBER": ["1/2", "a b", "x" * 101],
    "VERIFY_IMAGE": ["todo", "a b", "r/ "],
}


def pairs(table: Mapping[str, list[str]]) -> list[tuple[str, str]]:
    return [(key, value) for key, values in table.items() for value in values]


# Paths, keys and names that others give: what is wrong with one shows where it is used.
ANY_TEXT = {
    "INDEX_USERNAME",
    "INDEX_PASSWORD",
    "CA_FILE",
    "LATEST_BRANCH",
    "SIGNING_KEY",
    "SIGNING_KEY_FILE",
    "TRUSTED_KEYS",
    "TRUSTED_KEYS_FILE",
}


def test_every_setting_has_valid_and_invalid_values() -> None:
    assert set(VALID) == set(KEYS)
    assert set(INVALID) == set(KEYS) - ANY_TEXT


@pytest.mark.parametrize(("key", "value"), pairs(VALID))
def test_a_valid_value_is_accepted(checkout: Checkout, key: str, value: str) -> None:
    checkout.write("env/local.env", f"{key}='{value}'\n")
    checkout.load(generate=False)


@pytest.mark.parametrize(("key", "value"), pairs(INVALID))
def test_an_invalid_value_is_refused_with_what_is_allowed(
    checkout: Checkout, key: str, value: str
) -> None:
    (evidence,) = checkout.refusal({key: value})
    description = Fields.model_fields[KEYS[key]].description
    expected = "is not UTF-8" if "\udcff" in value else f"must be {description}"
    assert evidence == f"process environment: {key}: {expected}"


@pytest.mark.parametrize("key", sorted(KEYS.keys() - ANY_TEXT))
def test_no_invalid_value_is_shown(checkout: Checkout, key: str) -> None:
    checkout.write("env/local.env", f"\n{key}='{MARK} {MARK}'\n")
    (evidence,) = checkout.refusal()
    assert evidence.startswith(f"env/local.env:2: {key}: must be ")


def test_an_application_variable_must_be_text(checkout: Checkout) -> None:
    assert checkout.refusal({"APP_X": "\udcff"}) == ["process environment: APP_X: is not UTF-8"]


# The files


def test_all_problems_of_all_layers_are_told_at_once(checkout: Checkout) -> None:
    checkout.write(
        "env/local.env",
        f"HTTP_PORT={MARK}\nA {MARK}={MARK}\nPROJECT\nKEEP=never\n\nKEEP={MARK}\n"
        f"HTTP_PROT={MARK}\nSOME_THING={MARK}\nAPP_A='{MARK}\n",
    )
    checkout.write("env/local.secrets.env", f"keep={MARK}\nBASE_IMAGE={MARK}\n")
    assert checkout.refusal({"HTTP_PORT": MARK}) == [
        "env/local.env:1: HTTP_PORT: must be a port from 0 to 65535 (0: any free one)",
        "env/local.env:2: is not of the form KEY=value",
        "env/local.env:3: PROJECT: has no `=`",
        "env/local.env:6: KEEP: is set twice, first on line 4",
        "env/local.env:7: HTTP_PROT: is not a known key; did you mean HTTP_PORT?",
        "env/local.env:8: SOME_THING: is not a known key",
        "env/local.env:9: APP_A: has an open quote",
        "env/local.secrets.env:1: is not a known key; did you mean KEEP?",
        "env/local.secrets.env:2: BASE_IMAGE: must be an image reference, such as debian:12-slim",
        "process environment: HTTP_PORT: must be a port from 0 to 65535 (0: any free one)",
    ]


def test_a_wrong_value_is_told_even_where_a_later_layer_would_win(checkout: Checkout) -> None:
    checkout.write("env/local.env", "KEEP=x\n")
    assert len(checkout.refusal({"KEEP": "always"})) == 1


def test_what_stands_in_place_of_a_key_is_not_shown_if_it_may_be_a_secret(
    checkout: Checkout,
) -> None:
    lines = ["MIIEvQIBADANBgkqhkiG9w0B", "Zm9vYmFy==", "JBSWY3DPEHPK3PXP===", "0f" * 16, "A" * 999]
    checkout.write("env/local.secrets.env", "APP_A=-----BEGIN\n" + "\n".join(lines))
    evidence = checkout.refusal()
    assert len(evidence) == len(lines)
    assert not any(line.rstrip("=") in told for line in lines for told in evidence)


@pytest.mark.parametrize("line", ["APP_A{}", "HTTP_PORT{}", "KEEP {}", "{}", "export {}", "={}"])
def test_a_value_without_equals_sign_is_not_shown(checkout: Checkout, line: str) -> None:
    checkout.write("env/local.secrets.env", line.format("tr0ub4dor"))
    (evidence,) = checkout.refusal()
    assert "tr0ub4dor" not in evidence


def test_a_flood_of_problems_is_cut(checkout: Checkout) -> None:
    checkout.write("env/local.env", "".join(f"HTTP_PROT{n}=1\n" for n in range(8000)))
    evidence = checkout.refusal()
    assert len(evidence) == 101
    assert evidence[-1] == "... and 7900 more"


@pytest.mark.parametrize("label", ["env/local.env", "env/local.secrets.env"])
def test_what_is_no_file_is_refused(checkout: Checkout, label: str) -> None:
    path = checkout.root / label
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    assert checkout.refusal() == [f"{label}: is not a regular file"]
    path.unlink()
    path.symlink_to(path)
    assert checkout.refusal() == [f"{label}: cannot be read: Too many levels of symbolic links"]


def test_bom_and_crlf_are_accepted(checkout: Checkout) -> None:
    checkout.write("env/local.env", b"\xef\xbb\xbfPROJECT=a\r\nAPP_X=b\r\n")
    settings = checkout.load()
    assert (settings.project, settings.application["APP_X"]) == ("a", "b")


# Secrets


def test_secrets_are_those_of_the_file_and_those_named_so(checkout: Checkout) -> None:
    checkout.write("env/local.env", "APP_HOST=host\nAPP_KEY_ID=id\nAPP_API_TOKEN=\n")
    checkout.write("env/local.secrets.env", "APP_LICENCE='two\nlines'\n")
    settings = checkout.load({"APP_DB_PASSWORD": "pw", "APP_SECRET_KEY": "key-pw"})
    assert settings.secrets() == ("two\nlines", "key-pw", "pw")
    shown = {origin.key: origin.value_shown for origin in settings.explain()}
    assert shown["APP_LICENCE"] == shown["APP_DB_PASSWORD"] == shown["APP_SECRET_KEY"] == MASK
    assert (shown["APP_HOST"], shown["APP_KEY_ID"], shown["APP_API_TOKEN"]) == ("host", "id", "")


def test_a_secret_stays_one_when_the_process_environment_overrides_it(checkout: Checkout) -> None:
    checkout.write("env/local.secrets.env", "APP_LICENCE=old\n")
    assert checkout.load({"APP_LICENCE": MARK}).secrets() == (MARK,)


def test_no_representation_shows_a_value(checkout: Checkout) -> None:
    checkout.write("env/local.secrets.env", f"APP_A={MARK}\n")
    settings = checkout.load({"APP_SECRET_KEY": MARK})
    assert MARK not in f"{settings} {settings!r} {settings.explain()}"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o666])
def test_a_secrets_file_others_may_read_is_warned_of(checkout: Checkout, mode: int) -> None:
    checkout.write("env/local.secrets.env", f"APP_A={MARK}\n", mode)
    (warning,) = checkout.load().warnings
    assert warning.startswith(f"env/local.secrets.env: others may read it (mode 0{mode:o})")


def test_a_tracked_secrets_file_is_warned_of(checkout: Checkout) -> None:
    path = checkout.write("env/local.secrets.env", f"APP_A={MARK}\n")
    (warning,) = checkout.load(tracked=lambda asked: asked == path).warnings
    assert warning.startswith("env/local.secrets.env: git tracks it")
    assert checkout.load(tracked=lambda asked: asked != path).warnings == ()


def test_a_secret_in_a_committed_file_is_warned_of(checkout: Checkout) -> None:
    checkout.write("env/local.env", f"APP_A=a\nAPP_DB_PASSWORD={MARK}\nAPP_TOKEN=\nPROJECT=x\n")
    # Overridden it is no less known to everybody; PROJECT became a secret, but is none by name.
    checkout.write("env/local.secrets.env", "APP_DB_PASSWORD=other\nPROJECT=y\n")
    settings = checkout.load()
    assert settings.warnings == (
        (
            "env/local.env:2: APP_DB_PASSWORD: a secret in a committed file; "
            "move it to env/local.secrets.env"
        ),
    )
    (checkout.root / "env/local.secrets.env").unlink()
    assert checkout.load().secrets() == (MARK,)


# Generated secrets


@pytest.fixture
def generating(checkout: Checkout) -> Checkout:
    checkout.write("env/local.env", "GENERATED_SECRETS=APP_A,APP_B\n")
    return checkout


def test_secrets_are_generated_once(generating: Checkout) -> None:
    first = generating.load()
    values = first.application
    assert all(re.fullmatch("[0-9a-f]{64}", values[key]) for key in ("APP_A", "APP_B"))
    assert values["APP_A"] != values["APP_B"]
    assert set(first.secrets()) == set(values.values())
    assert Origin("APP_A", MASK, "generated") in first.explain()
    assert generating.load().application == values
    assert first.warnings == ()


def test_generated_secrets_are_for_their_owner_only(generating: Checkout) -> None:
    generating.generated().parent.mkdir(parents=True, mode=0o755)
    generating.load()
    assert stat.S_IMODE(generating.generated().stat().st_mode) == 0o600
    assert stat.S_IMODE(generating.generated().parent.stat().st_mode) == 0o700
    assert [path.name for path in generating.generated().parent.iterdir()] == ["local.env"]


def test_a_given_secret_is_not_generated(generating: Checkout) -> None:
    generating.write("env/local.secrets.env", "APP_B=b\n")
    assert generating.load({"APP_A": "a"}).application == {"APP_A": "a", "APP_B": "b"}
    assert not generating.generated().exists()


def test_an_empty_secret_is_generated(generating: Checkout) -> None:
    assert generating.load({"APP_A": ""}).application["APP_A"]


def test_a_new_name_leaves_the_others_as_they_are(generating: Checkout) -> None:
    before = generating.load().application
    generating.write("env/local.env", "GENERATED_SECRETS=APP_B,APP_C\n")
    after = generating.load().application
    assert after["APP_B"] == before["APP_B"]
    generating.write("env/local.env", "GENERATED_SECRETS=APP_A\n")
    assert generating.load().application["APP_A"] == before["APP_A"]


def test_nothing_is_written_unless_asked(generating: Checkout) -> None:
    assert generating.load(generate=False).application["APP_A"] == PLACEHOLDER
    assert not (generating.root / "target").exists()
    kept = generating.load().application
    assert generating.load(generate=False).application == kept


def load_at_once(root: Path, start: Barrier, results: SimpleQueue[dict[str, str]]) -> None:
    start.wait()
    results.put(dict(load("local", root, {}).application))


def test_processes_that_race_get_the_same_secrets(generating: Checkout) -> None:
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(4), context.SimpleQueue()
    arguments = (generating.root, start, results)
    racers = [context.Process(target=load_at_once, args=arguments) for _ in range(4)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(30)
        assert racer.exitcode == 0
    values = [results.get() for _ in racers]
    assert values == [dict(generating.load().application)] * 4


def test_a_damaged_file_of_generated_secrets_is_told(generating: Checkout) -> None:
    generating.load()
    generating.generated().write_text(f"APP_A='{MARK}\n")
    assert generating.refusal() == ["target/secrets/local.env:1: APP_A: has an open quote"]
    generating.generated().write_bytes(b"\xff\xfe")
    assert generating.refusal() == ["target/secrets/local.env: is UTF-16; save it as UTF-8"]


def test_a_target_that_is_no_folder_is_told(generating: Checkout) -> None:
    (generating.root / "target").touch()
    with pytest.raises(DiskFailure) as caught:
        generating.load()
    assert caught.value.exit_code == 74
    assert caught.value.evidence == ("target/secrets/local.env: Not a directory",)


# Any content


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    result = Checkout(tmp_path_factory.mktemp("fuzzed"))
    result.write("env/local.env", "")
    return result


def attempt(load_it: Callable[[], object]) -> str:
    """Return all that a user gets to see of an attempt."""
    try:
        return repr(load_it())
    except Misconfigured as failure:
        return "\n".join([failure.message, *failure.evidence, failure.hint])


@hypothesis_settings(deadline=None)
@given(content=st.binary(max_size=200))
def test_any_bytes_load_or_are_refused(fuzzed: Checkout, content: bytes) -> None:
    fuzzed.write("env/local.secrets.env", content)
    attempt(lambda: fuzzed.load(generate=False))


TOKENS = [*KEYS, "APP_A", "export ", "=", "=", "'", '"', "\n", "\n", "\r\n", " ", "#", "\\", ","]


@hypothesis_settings(deadline=None)
@given(tokens=st.lists(st.sampled_from([*TOKENS, MARK, MARK, MARK]), max_size=40))
def test_no_mangled_file_gives_a_secret_away(fuzzed: Checkout, tokens: list[str]) -> None:
    fuzzed.write("env/local.secrets.env", "".join(tokens))
    assert MARK not in attempt(lambda: fuzzed.load(generate=False).explain())


# The files of this checkout


DOCUMENTED = re.compile(r"^#(?=[A-Z_]+=)", re.MULTILINE)


def test_the_example_documents_exactly_the_known_keys() -> None:
    text = (HERE / "env/example.env").read_text()
    keys = re.findall(r"^#([A-Z_]+)=", text, re.MULTILINE)
    assert [key for key in keys if not key.startswith("APP_")] == list(KEYS)
    assert all(line.startswith("#") for line in text.splitlines() if line)


def test_the_example_shows_the_defaults(checkout: Checkout) -> None:
    checkout.write("env/local.env", DOCUMENTED.sub("", (HERE / "env/example.env").read_text()))
    settings = checkout.load()
    assert Fields.model_validate(settings.model_dump(include=set(KEYS.values()))) == Fields()


@pytest.mark.parametrize("name", ["local", "ci", "production"])
def test_the_environments_are_valid(name: str) -> None:
    settings = load(name, HERE, {"APP_SECRET_KEY": "a", "APP_DB_PASSWORD": "b"}, generate=False)
    documented = re.findall(r"^#(APP_\w+)=", (HERE / "env/example.env").read_text(), re.MULTILINE)
    assert set(settings.application) == set(documented)
    assert "nginx" in settings.application["APP_ALLOWED_HOSTS"].split(",")
    assert settings.application["APP_HTTPS"] == ("on" if name == "production" else "off")
    committed = (HERE / f"env/{name}.env").read_text()
    assert not re.search(r"^APP_(SECRET_KEY|DB_PASSWORD)=", committed, re.MULTILINE)


@pytest.mark.parametrize(("name", "generated"), [("local", 2), ("ci", 2), ("production", 0)])
def test_only_what_nobody_depends_on_has_generated_secrets(name: str, generated: int) -> None:
    assert len(load(name, HERE, {}, generate=False).generated_secrets) == generated
