"""The main job as a whole, and the image that it makes."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import ssl
import tarfile
import uuid
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import certifi
import pytest
from junitparser import JUnitXml

from tasks.engine.run import Run
from tasks.envfile import quoted

if TYPE_CHECKING:
    from docker.models.images import Image

    from tests.on_engine.conftest import CheckoutUnderTest, NewCheckout, Proxy, Result

pytestmark = pytest.mark.engine

REPORTS = ("unit", "integration", "acceptance")
# All that a shell, YAML, Compose, SQL or a URL could take for its own.
ODD = """p$a"s's\\ w#o r=d: {} %41 ${HOME} $$ & ü 🚢"""
CA_VARIABLES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")


@dataclass(frozen=True)
class Accepted:
    """A checkout whose release was accepted; what the run said, and its folder.

    `marker` is in all of the machine's configuration that a build gets to see.
    """

    checkout: CheckoutUnderTest
    environment: str
    result: Result
    run: Path
    marker: str = ""

    def image(self, role: str = "app") -> Image:
        return self.checkout.client.images.get(self.checkout.image(role, self.environment))

    @property
    def wheel(self) -> Path:
        (wheel,) = self.checkout.root.glob("target/wheelhouse/todo_backend-*.whl")
        return wheel


@pytest.fixture(scope="module")
def from_nothing(new_checkout: NewCheckout) -> CheckoutUnderTest:
    """Return a checkout in which nothing was done yet but `--dry` runs."""
    return new_checkout("from-nothing")


@pytest.fixture(scope="module")
def local(from_nothing: CheckoutUnderTest) -> Accepted:
    """Accept a release in the environment `local`."""
    result = from_nothing.passes("release.acceptance")
    return Accepted(from_nothing, "local", result, from_nothing.last_run)


@pytest.fixture(scope="module")
def ci(
    new_checkout: NewCheckout, tmp_path_factory: pytest.TempPathFactory, engine_address: str
) -> Accepted:
    """Accept a release in the environment `ci`, with odd secrets, built by another builder."""
    checkout, marker = new_checkout("ci"), f"marker-{uuid.uuid4().hex}"
    # So that what builds is not answered from BuildKit's cache, but does its work once more.
    lock = checkout.root / "compose/app/tooling.lock"
    checkout.write("compose/app/tooling.lock", f"# {marker}\n{lock.read_text()}")
    for path in (checkout.root / "app/todo").rglob("*.py"):
        path.chmod(0o600)
        os.utime(path, (1, 1))
    secrets = checkout.root / "env/ci.secrets.env"
    secrets.touch(0o600)
    secrets.write_text(f"APP_DB_PASSWORD={quoted(ODD)}\nAPP_SECRET_KEY={quoted(f'{ODD}-' * 3)}\n")

    folder = tmp_path_factory.mktemp("machine")
    given = next(filter(None, map(os.environ.get, CA_VARIABLES)), None)
    bundle = Path(given or ssl.get_default_verify_paths().cafile or certifi.where())
    (folder / "ca.pem").write_text(f"# {marker}\n{bundle.read_text()}")
    (folder / "pip.conf").write_text(f"[global]\ntrusted-host = {marker}.example\n")
    result = checkout.passes(
        "release.acceptance",
        INVOKE_ENV="ci",
        DOCKER_HOST=engine_address,
        PIP_CONFIG_FILE=str(folder / "pip.conf"),
        COMPOSE_FILE="/nonexistent",
        COMPOSE_PROJECT_NAME="another",
        **dict.fromkeys(CA_VARIABLES, str(folder / "ca.pem")),
    )
    return Accepted(checkout, "ci", result, checkout.last_run, marker)


@pytest.fixture(params=["local", "ci"])
def accepted(request: pytest.FixtureRequest) -> Accepted:
    """Return each of the two."""
    accepted: Accepted = request.getfixturevalue(request.param)
    return accepted


def layers(image: Image) -> list[bytes]:
    """Return the layers of an image, tar archives all of them."""
    with tarfile.open(fileobj=io.BytesIO(b"".join(image.save()))) as archive:

        def content(name: str) -> bytes:
            member = archive.extractfile(name)
            assert member
            return member.read()

        (manifest,) = json.loads(content("manifest.json"))
        return [content(name) for name in manifest["Layers"]]


@pytest.fixture(scope="module")
def files(local: Accepted) -> set[str]:
    """Return the names of all that is in any layer of the release image."""
    names: set[str] = set()
    for layer in layers(local.image()):
        with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
            names |= {f"/{name.removeprefix('./')}" for name in archive.getnames()}
    return names


# --- the main job --------------------------------------------------------------------------------


def test_dry_run_changes_nothing(from_nothing: CheckoutUnderTest) -> None:
    def state() -> list[Any]:
        target = sorted((from_nothing.root / "target").rglob("*"))
        return [
            from_nothing.on_engine(images=True),
            [(path, path.stat().st_mtime_ns) for path in target],
            from_nothing.git("status", "--porcelain", "--ignored"),
        ]

    before = state()
    dry = from_nothing.passes("--dry", "release.acceptance")
    assert state() == before
    for words in (
        "docker buildx bake",
        "create --no-build --pull never",
        "start app, nginx",
        "remove all containers",
    ):
        assert words in dry.out
    assert "started" not in dry.err


def test_acceptance_passes(accepted: Accepted) -> None:
    checkout = accepted.checkout
    assert checkout.on_engine() == []
    assert checkout.git("status", "--porcelain") == ""
    for name in REPORTS:
        report = JUnitXml.fromfile(str(checkout.root / f"target/reports/{name}.xml"))
        cases = [case for suite in report for case in suite]
        assert len(cases) > 10
        assert all(case.is_passed for case in cases)
    record = json.loads((accepted.run / "run.json").read_text())
    assert record["exit_code"] == 0
    assert record["revision"] == checkout.git("rev-parse", "HEAD").strip()
    assert {stage["result"] for stage in record["stages"]} == {"passed"}
    assert {"test.unit", "build.wheels", "release.check", "acceptance.run"} <= {
        stage["name"] for stage in record["stages"]
    }
    assert "release.acceptance | passed" in (accepted.run / "log.txt").read_text()
    assert str(accepted.image().id) in accepted.result.text


def test_nothing_is_done_again_that_is_unchanged(local: Accepted) -> None:
    image = local.image().id
    again = local.checkout.passes("release.acceptance")
    assert "acceptance.run | skipped" in again.err
    assert {stage["name"] for stage in local.checkout.record()["stages"]} == {
        "test.all", "release.acceptance",
    }  # fmt: skip
    assert local.image().id == image


def test_nothing_is_done_twice_on_an_engine_elsewhere(
    unchanged: CheckoutUnderTest, proxy: Proxy
) -> None:
    result = unchanged.passes(
        "test", "build", "release.acceptance", DOCKER_HOST=proxy.address, FRESH="on"
    )
    started = Counter(re.findall(r"^(\S+) \| started$", result.err, re.MULTILINE))
    assert {"test.unit", "test.db", "build.base", "build.wheels", "acceptance.run"} <= set(started)
    assert set(started.values()) == {1}
    assert unchanged.on_engine() == []


# --- settings and secrets ------------------------------------------------------------------------


def test_compose_resolves_to_the_settings(ci: Accepted) -> None:
    given = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    given |= {"APP_DB_USER": "o'brien $USER #1", "APP_NOTHING": "", "COMPOSE_PROFILES": "x"}
    run = Run(ci.checkout.root, "ci", [], given, dry=True, changes=False)
    assert run.settings.application["APP_DB_PASSWORD"] == ODD
    for environment in (run.release_environment, run.test_environment):
        values = environment._environment
        assert values.items() >= run.settings.compose_environment().items()
        file = environment._file
        raw = json.loads(run.tools.processes.read(
            ["docker", "compose", "--file", file, "config", "--no-interpolate", "--format", "json"],
            folder=run.tools.compose_folder,
        ))  # fmt: skip
        resolved = json.loads(environment._configuration)
        compared = 0
        for name, service in raw["services"].items():
            for part in ("environment", "labels", "image"):
                expected = _resolved(service.get(part), values)
                assert resolved["services"][name].get(part) == expected
                compared += len(expected or ())
        assert compared > 50
    application = json.loads(run.release_environment._configuration)["services"]["app"]
    assert application["environment"]["APP_DB_USER"] == "o'brien $$USER #1"


def _resolved(raw: Any, values: dict[str, str]) -> Any:
    """Return what Compose has to make of a part of a file; it doubles each dollar it prints."""
    if isinstance(raw, dict):
        return {key: _resolved(value, values) for key, value in raw.items()}
    if isinstance(raw, str):
        return re.sub(r"\$\{(\w+)[^}]*\}", lambda match: values[match[1]].replace("$", "$$"), raw)
    return raw


def test_secrets_are_not_told(ci: Accepted) -> None:
    told = [ci.result.text, *(path.read_text() for path in ci.run.iterdir())]
    told += [path.read_text() for path in (ci.checkout.root / "target/reports").iterdir()]
    assert not any(ODD in text or ODD[:-3] in text for text in told)
    settings = ci.checkout.passes("release.settings", INVOKE_ENV="ci").out
    assert "APP_DB_PASSWORD=********  # env/ci.secrets.env:1" in settings
    assert ODD not in settings


@pytest.mark.parametrize("role", ["app", "test", "acceptance"])
def test_secrets_are_in_no_image(ci: Accepted, role: str) -> None:
    image = ci.image(role)
    (pip_conf,) = ci.checkout.root.glob("target/build/pip.conf")
    assert ci.marker in pip_conf.read_text()
    text = json.dumps([image.attrs, image.history()])
    content = [text.encode(), *layers(image)]
    for needle in (ci.marker, ODD, json.dumps(ODD)[1:-1]):
        assert not any(needle.encode() in part for part in content)


def test_generated_secrets_are_in_no_image(local: Accepted) -> None:
    generated = (local.checkout.root / "target/secrets/local.env").read_text()
    values = re.findall(r'^\w+="(.{20,})"$', generated, re.MULTILINE)
    assert len(values) == 2
    image = local.image()
    text = json.dumps([image.attrs, image.history()])
    content = [text.encode(), *layers(image)]
    assert not any(value.encode() in part for value in values for part in content)


# --- the artifact and the image ------------------------------------------------------------------


def test_wheel_is_the_same_bit_for_bit(local: Accepted, ci: Accepted) -> None:
    assert ci.marker in (ci.checkout.root / "compose/app/tooling.lock").read_text()
    first, second = (hashlib.sha256(each.wheel.read_bytes()).digest() for each in (local, ci))
    assert first == second


def test_image_says_what_it_is(accepted: Accepted) -> None:
    git = accepted.checkout.git
    address = "https://git.example/fleet/todo.git"
    assert (
        accepted.image().labels.items()
        >= {
            "org.opencontainers.image.title": "seatrial",
            "org.opencontainers.image.version": "1.0.0",
            "org.opencontainers.image.revision": git("rev-parse", "HEAD").strip(),
            "org.opencontainers.image.source": address,
            "org.opencontainers.image.created": git(
                "log", "-1", "--format=%cd", "--date=format-local:%Y-%m-%dT%H:%M:%SZ", TZ="UTC"
            ).strip(),
            "org.opencontainers.image.base.name": "debian:12-slim",
        }.items()
    )


def test_image_runs_as_it_should(local: Accepted) -> None:
    config = local.image().attrs["Config"]
    assert config["User"] == "app"
    assert config["Entrypoint"] == ["tini", "--"]
    assert config["Cmd"][0] == "gunicorn"  # exec form: no shell in between
    assert config["Healthcheck"]["Test"][0] == "CMD"
    assert "/healthz" in config["Healthcheck"]["Test"][-1]
    assert not config.get("Volumes")


def test_image_holds_no_tools(files: set[str]) -> None:
    assert "/opt/venv/bin/gunicorn" in files
    assert not [name for name in files if name.endswith((".whl", ".gcda"))]
    tools = r"(pip[\d.]*|uv|uvx|flit|wheel|easy_install|gcc(-\d+)?|cc|c\+\+|g\+\+|make|git)"
    assert not [name for name in files if re.search(rf"/bin/{tools}$", name)]
    packages = r"/(site|dist)-packages/(pip|uv|flit_core|setuptools|wheel|pytest)(/|$)"
    assert not [name for name in files if re.search(packages, name)]
    assert not [name for name in files if re.search(r"^/(opt/tooling|wheels|run/secrets/.)", name)]


def test_image_is_compiled(files: set[str]) -> None:
    sources = [name for name in files if re.search(r"/site-packages/.*\.py$", name)]
    assert any(name.endswith("/todo/models.py") for name in sources)
    assert any("/django/" in name for name in sources)
    compiled = {re.sub(r"/__pycache__/([^/]+)\.cpython-\d+\.pyc$", r"/\1.py", n) for n in files}
    assert [name for name in sources if name not in compiled] == []
