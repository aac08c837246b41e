"""Publishing to others: signed, with TLS and passwords, and verified by whoever has the keys."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.on_engine.publishing import (
    EVIDENCE,
    SHARED,
    VERSION,
    Release,
    SigningKey,
    attached,
    without_secrets,
)
from tests.on_engine.servers import PASSWORD, USER, Authority, Harbour, Index, Registry, encoded
from tests.on_engine.tokens import TokenService

if TYPE_CHECKING:
    from tests.on_engine.conftest import CheckoutUnderTest, NewCheckout

pytestmark = pytest.mark.engine

WRONG = "half-astern-51b0aa"


def configuration(folder: Path, registry: str, password: str) -> str:
    """Write a Docker configuration that knows a password; return its folder."""
    folder.mkdir(exist_ok=True)
    auths = {registry: {"auth": encoded(password)}}
    (folder / "config.json").write_text(json.dumps({"auths": auths}))
    return str(folder)


@dataclass(frozen=True)
class Port:
    """A registry and an index with TLS and passwords, and all that has to be known of them."""

    registry: Registry
    index: Index
    settings: dict[str, str]
    ca_file: Path


@pytest.fixture(scope="module")
def port(
    harbour: Harbour,
    tmp_path_factory: pytest.TempPathFactory,
    new_repository: Callable[[], str],
    signing_key: SigningKey,
) -> Iterator[Port]:
    authority, folder = Authority(), tmp_path_factory.mktemp("port")
    ca_file = folder / "ca.pem"
    ca_file.write_bytes(authority.certificate)
    more = {"password": True, "authority": authority, "ca_file": str(ca_file)}
    registry, index = harbour.registry(**more), harbour.index(**more)  # type: ignore[arg-type]
    # Where the engine looks for it; 127.0.0.1 it would trust without, but not if it could tell.
    trusted = Path("/etc/docker/certs.d", registry.address)
    if os.access("/etc/docker", os.W_OK):
        trusted.mkdir(parents=True)
        (trusted / "ca.crt").write_bytes(authority.certificate)
    settings = {
        "INVOKE_ENV": "shared",
        "REGISTRY": registry.address,
        "REPOSITORY": new_repository(),
        "INDEX_URL": index.url,
        "INDEX_USERNAME": USER,
        "INDEX_PASSWORD": PASSWORD,
        "CA_FILE": str(ca_file),
        "DOCKER_CONFIG": configuration(folder / "docker", registry.address, PASSWORD),
        "SIGNING_KEY_FILE": str(signing_key.private),
    }
    yield Port(registry, index, settings, ca_file)
    if trusted.exists():
        (trusted / "ca.crt").unlink()
        trusted.rmdir()
        if not any(trusted.parent.iterdir()):
            trusted.parent.rmdir()


@pytest.fixture(scope="module")
def published(shared_acceptance: Release, port: Port) -> Release:
    """Publish the release to others, with all of their passwords and certificates."""
    release = shared_acceptance
    release.restore("shared")
    result = release.checkout.passes("publish", **port.settings)
    assert ", signed\n" in result.out
    without_secrets(
        result,
        release.target,
        {
            "the password": PASSWORD,
            "the password in a header": encoded(PASSWORD),
            "the signing key": Path(port.settings["SIGNING_KEY_FILE"]).read_text().splitlines()[1],
        },
    )
    release.restore()
    return release


def test_it_is_there(published: Release, port: Port) -> None:
    repository = port.settings["REPOSITORY"]
    for tag in (published.short, VERSION, "latest"):
        assert port.registry.image_id(repository, tag) == published.image_id
    assert attached(port.registry, repository, VERSION) == EVIDENCE
    assert port.index.files() == published.wheels


def test_published_again_nothing_is_sent(published: Release, port: Port, release: Release) -> None:
    assert release is published
    release.restore("shared")
    before = port.registry.holds(port.settings["REPOSITORY"]), port.index.files()
    result = release.checkout.passes("publish", **port.settings)
    assert "$ docker push" not in result.err
    assert "$ uv publish" not in result.err
    assert "the evidence was there already" in result.err
    assert (port.registry.holds(port.settings["REPOSITORY"]), port.index.files()) == before


# --- verified elsewhere --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def elsewhere(new_checkout: NewCheckout) -> CheckoutUnderTest:
    """Return a checkout of somebody else: it knows the environment, and nothing more."""
    checkout = new_checkout("somebody-else")
    checkout.write("env/shared.env", SHARED)
    return checkout


@pytest.fixture
def asked(published: Release, port: Port, signing_key: SigningKey) -> dict[str, str]:
    """Return what has to be known to verify: the image, the key, and how to get in."""
    assert published.short
    reference = f"{port.registry.address}/{port.settings['REPOSITORY']}:{VERSION}"
    known = {key: port.settings[key] for key in ("INVOKE_ENV", "CA_FILE", "DOCKER_CONFIG")}
    return {
        **known,
        "VERIFY_IMAGE": reference,
        "TRUSTED_KEYS": signing_key.public.read_text(),
    }


def refused(checkout: CheckoutUnderTest, code: int, says: str, **variables: str) -> str:
    result = checkout.invoke("publish.verify", **variables)
    assert result.code == code, result.text
    assert "Traceback" not in result.text
    assert says in "".join(result.err.partition("failed: ")[1:])
    assert result.out == ""
    return result.err


def test_verified(elsewhere: CheckoutUnderTest, published: Release, asked: dict[str, str]) -> None:
    result = elsewhere.passes("publish.verify", **asked)
    assert result.out.startswith("PASSED: ")
    assert f"commit {published.revision}, " in result.out
    assert result.out.endswith(" passed in the environment shared, signed\n")
    assert PASSWORD not in result.text


def test_not_by_another_key(
    elsewhere: CheckoutUnderTest, asked: dict[str, str], tmp_path: Path
) -> None:
    theirs = SigningKey.made(tmp_path, "theirs").public.read_text()
    says = "failed: receipt unit: signature: by no trusted key, or of another text (signed by "
    refused(elsewhere, 1, says, **{**asked, "TRUSTED_KEYS": theirs})
    both = theirs + asked["TRUSTED_KEYS"]
    elsewhere.passes("publish.verify", **{**asked, "TRUSTED_KEYS": both})


def test_not_without_a_key(elsewhere: CheckoutUnderTest, asked: dict[str, str]) -> None:
    refused(elsewhere, 78, "there is no key to trust", **{**asked, "TRUSTED_KEYS": ""})


def test_not_for_another_environment(elsewhere: CheckoutUnderTest, asked: dict[str, str]) -> None:
    says = "receipt unit: environment: shared, not ci"
    refused(elsewhere, 1, says, **{**asked, "INVOKE_ENV": "ci"})


def test_not_if_the_image_is_another(
    elsewhere: CheckoutUnderTest, published: Release, port: Port, asked: dict[str, str]
) -> None:
    """Give the evidence of what was accepted to something else."""
    registry, repository = port.registry, port.settings["REPOSITORY"]
    digest = registry.digest(repository, VERSION)
    manifest = registry.manifest(repository, digest)
    config = b'{"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers"}}'
    began = registry.ask(f"v2/{repository}/blobs/uploads/", "POST")
    place = began.headers["Location"].removeprefix(registry.url)
    name = f"sha256:{hashlib.sha256(config).hexdigest()}"
    assert registry.ask(f"{place}&digest={name}", "PUT", data=config).ok
    manifest["config"] |= {"digest": name, "size": len(config)}
    content = json.dumps(manifest).encode()
    kind = {"Content-Type": manifest["mediaType"]}
    assert registry.ask(f"v2/{repository}/manifests/evil", "PUT", data=content, headers=kind).ok
    fallback = registry.manifest(repository, digest.replace(":", "-"))
    evil = hashlib.sha256(content).hexdigest()
    assert registry.ask(
        f"v2/{repository}/manifests/sha256-{evil}", "PUT", data=json.dumps(fallback).encode(),
        headers={"Content-Type": fallback["mediaType"]},
    ).ok  # fmt: skip
    reference = asked["VERIFY_IMAGE"].replace(f":{VERSION}", ":evil")
    told = refused(
        elsewhere,
        1,
        "receipt acceptance: subject: it speaks of another image",
        **{**asked, "VERIFY_IMAGE": reference},
    )
    assert f"accepted: {published.image_id}" in told
    assert f"there: {name}" in told


# --- who we are, and who they are ----------------------------------------------------------------


@pytest.fixture
def shared(published: Release, shared_release: Release) -> CheckoutUnderTest:
    """Return the checkout in which the release was accepted and published."""
    assert published is shared_release
    return shared_release.checkout


def test_a_wrong_password(shared: CheckoutUnderTest, port: Port, tmp_path: Path) -> None:
    settings = {
        **port.settings,
        "REPOSITORY": "tests/wrong-password",
        "DOCKER_CONFIG": configuration(tmp_path, port.registry.address, WRONG),
    }
    says = (f"{port.registry.address} does not let us into tests/wrong-password: it answers 401",)
    result = shared.fails(77, "publish.image", says=says, keeps=True, **settings)
    assert "$ docker push" not in result.err
    without_secrets(result, shared.last_run, {"the password": WRONG, "the header": encoded(WRONG)})
    assert port.registry.tags("tests/wrong-password") == []


@pytest.mark.parametrize("way", ["credHelpers", "credsStore"])
def test_a_credential_helper(
    shared: CheckoutUnderTest,
    port: Port,
    tmp_path: Path,
    new_repository: Callable[[], str],
    way: str,
) -> None:
    helper = tmp_path / "docker-credential-tests"
    helper.write_text(
        "#!/bin/sh\nread server\n"
        f'[ "$1 $server" = "get {port.registry.address}" ] || exit 1\n'
        f'echo \'{{"ServerURL": "", "Username": "{USER}", "Secret": "{PASSWORD}"}}\'\n'
    )
    helper.chmod(0o755)
    content = {way: {port.registry.address: "tests"} if way == "credHelpers" else "tests"}
    (tmp_path / "config.json").write_text(json.dumps(content))
    repository = new_repository()
    settings = {
        **port.settings,
        "REPOSITORY": repository,
        "DOCKER_CONFIG": str(tmp_path),
        "PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    result = shared.passes("publish.evidence", **settings)
    assert "$ docker push" in result.err
    without_secrets(result, shared.last_run, {"the password": PASSWORD})
    assert attached(port.registry, repository, VERSION) == EVIDENCE
    # one that fails is not silently done without
    helper.write_text("#!/bin/sh\necho 'the keychain is locked'\nexit 1\n")
    says = (f"the credentials for {port.registry.address} cannot be read", "the keychain is locked")
    shared.fails(77, "publish.image", says=says, keeps=True, **settings)


STRANGE = "target/strange.pem"


@pytest.mark.parametrize(
    ("goal", "ca_file", "says"),
    [
        ("publish.image", STRANGE, "the certificate of {registry} cannot be trusted"),
        ("publish.artifact", STRANGE, "the certificate of {index}simple/ cannot be trusted"),
        ("publish.artifact", "", "the certificate of {index}simple/ cannot be trusted"),
    ],
)
def test_an_authority_that_nobody_knows(
    shared: CheckoutUnderTest, port: Port, goal: str, ca_file: str, says: str
) -> None:
    (shared.root / STRANGE).write_bytes(Authority().certificate)
    settings = {**port.settings, "CA_FILE": ca_file}
    told = says.format(registry=port.registry.address, index=port.index.url)
    shared.fails(69, goal, says=(told, "CA_FILE"), keeps=True, **settings)


def test_a_file_of_authorities_that_is_missing(shared: CheckoutUnderTest, port: Port) -> None:
    settings = {**port.settings, "CA_FILE": "missing.pem"}
    says = ("CA_FILE: there is no file missing.pem",)
    shared.fails(78, "publish.artifact", says=says, keeps=True, **settings)


def test_an_authority_in_the_checkout(shared: CheckoutUnderTest, port: Port) -> None:
    # named from there, wherever the commands are run
    (shared.root / "target" / "ca.pem").write_bytes(port.ca_file.read_bytes())
    port.index.empty()
    shared.passes("publish.artifact", **{**port.settings, "CA_FILE": "target/ca.pem"})
    assert len(port.index.files()) > 1


def test_a_registry_that_wants_tokens(
    shared: CheckoutUnderTest, harbour: Harbour, port: Port, tmp_path: Path
) -> None:
    with TokenService() as service:
        registry = harbour.registry(environment=service.settings(), files=service.files())
        # The registry is on this machine, without TLS; of the index' authority knows the process
        # environment.
        settings = {
            **port.settings,
            "REGISTRY": registry.address,
            "CA_FILE": "",
            "SSL_CERT_FILE": str(port.ca_file),
            "REPOSITORY": "team/todo",
            "DOCKER_CONFIG": configuration(tmp_path, registry.address, PASSWORD),
        }
        result = shared.passes("publish", **settings)
        assert result.out.startswith(f"PASSED: {registry.address}/team/todo@sha256:")
        assert "repository:team/todo:pull" in service.scopes
        assert "repository:team/todo:pull,push" in service.scopes
        secrets = {"the password": PASSWORD, "a token": service.token("").split(".")[0]}
        without_secrets(result, shared.last_run, secrets)
        settings["DOCKER_CONFIG"] = configuration(tmp_path, registry.address, WRONG)
        says = (f"{registry.address} does not let us into team/todo: it answers 401",)
        shared.fails(77, "publish.image", says=says, keeps=True, **settings)
