"""Publishing on this machine: what was accepted is what is there, and what anybody gets from it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packaging.tags import Tag
from packaging.utils import parse_wheel_filename

from tests.on_engine.publishing import EVIDENCE, VERSION, Release, attached
from tests.on_engine.servers import Index, Registry

if TYPE_CHECKING:
    from tests.on_engine.conftest import CheckoutUnderTest, NewCheckout, Result

pytestmark = pytest.mark.engine


def last_line(result: Result) -> str:
    return result.out.splitlines()[-1]


@pytest.fixture
def registry(release: Release) -> Registry:
    container = release.checkout.running("registry")
    assert container is not None
    return Registry(container, 5000)


@pytest.fixture
def index(release: Release) -> Index:
    container = release.checkout.running("index")
    assert container is not None
    return Index(container, 8080)


def test_it_is_published_and_verified(release: Release, registry: Registry, index: Index) -> None:
    digest = registry.digest("seatrial", release.short)
    said = last_line(release.published)
    assert re.fullmatch(
        rf"PASSED: 127\.0\.0\.1:\d+/seatrial@{digest}, commit {release.revision}, "
        r"\d+ passed in the environment local, UNSIGNED",
        said,
    )
    names = [release.short, VERSION, "latest"]
    assert registry.tags("seatrial") == sorted([*names, digest.replace(":", "-")])
    assert {registry.digest("seatrial", tag) for tag in names} == {digest}
    assert registry.image_id("seatrial", digest) == release.image_id
    assert index.files() == release.wheels
    # all names are told before anything is sent
    told = f"{release.image_id} as {', '.join(names)}"
    assert release.published.err.index(told) < release.published.err.index("$ docker push")


def test_the_evidence_refers_to_the_image(release: Release, registry: Registry) -> None:
    assert attached(registry, "seatrial", release.short) == EVIDENCE
    digest = registry.digest("seatrial", release.short)
    fallback = registry.manifest("seatrial", digest.replace(":", "-"))
    assert fallback["mediaType"] == "application/vnd.oci.image.index.v1+json"
    for one in fallback["manifests"]:
        artifact = registry.manifest("seatrial", one["digest"])
        assert artifact["subject"]["digest"] == digest
        assert artifact["artifactType"] == one["artifactType"]
        (layer,) = artifact["layers"]
        blob = registry.ask(f"v2/seatrial/blobs/{layer['digest']}").content
        name = one["annotations"]["org.opencontainers.image.title"]
        folder = "reports" if name.endswith(".xml") else "receipts"
        if name != "sbom.cdx.json":
            assert blob == (release.target / folder / name).read_bytes()
        else:
            parts = json.loads(blob)["components"]
            assert len(parts) == len(release.wheels) - 1  # the application is what it is about


def test_nothing_is_published_twice(release: Release, registry: Registry, index: Index) -> None:
    before = registry.holds("seatrial"), index.files()
    result = release.checkout.passes("publish")
    assert "$ docker push" not in result.err
    assert "$ uv publish" not in result.err
    count = len(release.wheels)
    assert f"0 wheels published, {count} were there already" in result.err
    digest = registry.digest("seatrial", release.short)
    assert re.search(rf"/seatrial@{digest} was there already\n", result.err)
    assert "the evidence was there already" in result.err
    assert last_line(result).startswith("PASSED: ")
    assert (registry.holds("seatrial"), index.files()) == before


def test_what_is_pulled_is_what_was_accepted_and_it_runs(
    release: Release, registry: Registry
) -> None:
    checkout, client = release.checkout, release.checkout.client
    digest = registry.digest("seatrial", release.short)
    reference = f"{registry.address}/seatrial@{digest}"
    accepted = release.image_id
    # The user's own environment: its database has the schema, and its network the front end.
    url = last_line(checkout.passes("release.start"))
    try:
        app = checkout.running("app")
        assert app is not None
        configuration = app.attrs["Config"]["Env"]
        (network,) = app.attrs["NetworkSettings"]["Networks"]
        # No name and no container holds the image any more: what is pulled comes from there.
        names = client.images.get(accepted).tags
        app.remove(force=True)
        for name in names:
            client.images.remove(name, force=True)
        with pytest.raises(Exception, match="No such image"):
            client.images.get(accepted)
        subprocess.run(["docker", "pull", "--quiet", reference], check=True, capture_output=True)
        pulled = client.images.get(reference)
        assert pulled.id == accepted
        container = client.containers.run(
            reference,
            detach=True,
            environment=configuration,
            labels=checkout.labels,
            network=network,
            networking_config={network: client.api.create_endpoint_config(aliases=["app"])},
        )
        try:
            body = json.loads(served(f"{url}healthz"))
            assert body["revision"] == release.revision
        finally:
            container.remove(force=True)
        for name in names:
            pulled.tag(*name.rsplit(":", 1))
    finally:
        checkout.passes("release.stop")


def served(url: str) -> str:
    """Return what is served, as soon as it is."""
    from tests.on_engine.conftest import wait_until  # noqa: PLC0415  (it imports us)

    def answer() -> str:
        try:
            with urllib.request.urlopen(url, timeout=60) as response:  # noqa: S310
                body: str = response.read().decode()
                return body
        except OSError:
            return ""

    text: str = wait_until(answer, f"{url} answers")
    return text


def test_pip_gets_the_wheels_that_were_accepted(
    release: Release, index: Index, tmp_path: Path
) -> None:
    requirements: list[str] = []
    tags: set[Tag] = set()
    for file, sha256 in release.wheels.items():
        name, version, _, of_wheel = parse_wheel_filename(file)
        requirements.append(f"{name}=={version} --hash=sha256:{sha256}\n")
        tags |= of_wheel
    (tmp_path / "requirements.txt").write_text("".join(requirements))
    # For the image's Python, whatever ours is.
    platform = {tag.platform for tag in tags} - {"any"}
    pythons = {tag.interpreter for tag in tags if tag.interpreter.startswith("cp")}
    subprocess.run(
        [f"{sys.base_prefix}/bin/python3", "-m", "pip", "--isolated", "download", "--quiet",
         "--disable-pip-version-check", "--no-deps", "--require-hashes", "--only-binary=:all:",
         *(f"--platform={name}" for name in sorted(platform)),
         *(f"--python-version={name.removeprefix('cp')}" for name in pythons),
         "--index-url", f"{index.url}simple/", "--dest", str(tmp_path / "got"),
         "--requirement", str(tmp_path / "requirements.txt")],
        env={"PATH": os.environ["PATH"], "PIP_CONFIG_FILE": os.devnull, "NO_PROXY": "*"},
        check=True,
    )  # fmt: skip
    assert {path.name for path in (tmp_path / "got").iterdir()} == set(release.wheels)


@pytest.fixture(scope="module")
def elsewhere(new_checkout: NewCheckout) -> CheckoutUnderTest:
    """Return a checkout in which nothing was ever done."""
    return new_checkout("elsewhere")


@pytest.mark.parametrize("by", ["tag", "digest", "tag and digest"])
def test_verified_from_elsewhere(
    release: Release, registry: Registry, elsewhere: CheckoutUnderTest, by: str
) -> None:
    digest = registry.digest("seatrial", release.short)
    reference = (
        f"{registry.address}/seatrial"
        + {
            "tag": f":{VERSION}",
            "digest": f"@{digest}",
            "tag and digest": f":{VERSION}@{digest}",
        }[by]
    )
    result = elsewhere.passes("publish.verify", VERIFY_IMAGE=reference)
    assert result.out.startswith(f"PASSED: {registry.address}/seatrial@{digest}, ")
    assert result.err == ""
    assert elsewhere.on_engine() == []
    assert not (elsewhere.root / "target" / "runs").exists()


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("seatrial:nonsense", 1, "there is no "),
        ("nonsense:latest", 1, "there is no "),
        ("seatrial", 78, "names neither a tag nor a digest"),
    ],
)
def test_there_is_nothing_to_verify(
    registry: Registry, elsewhere: CheckoutUnderTest, name: str, code: int, says: str
) -> None:
    result = elsewhere.invoke("publish.verify", VERIFY_IMAGE=f"{registry.address}/{name}")
    assert result.code == code
    assert f"failed: {'' if code == 1 else registry.address + '/' + name + ' '}{says}" in result.err
    assert result.out == ""


def test_nothing_was_published_from_here(elsewhere: CheckoutUnderTest) -> None:
    result = elsewhere.invoke("publish.verify")
    assert result.code == 1
    assert "failed: nothing was published from this checkout" in result.err
    assert "VERIFY_IMAGE=registry/repository:tag" in result.err


def test_an_image_that_nobody_accepted_is_not_verified(
    release: Release, registry: Registry, elsewhere: CheckoutUnderTest
) -> None:
    client, name = release.checkout.client, f"{registry.address}/stranger"
    client.images.get(release.checkout.image("base")).tag(name, "latest")
    try:
        subprocess.run(["docker", "push", "--quiet", name], check=True, capture_output=True)
    finally:
        client.images.remove(name)
    result = elsewhere.invoke("publish.verify", VERIFY_IMAGE=f"{name}:latest")
    assert result.code == 1
    digest = registry.digest("stranger", "latest")
    assert f"failed: no evidence is attached to {name}@{digest}" in result.err


def test_the_registry_of_this_machine_outlives_a_restart(
    release: Release, registry: Registry, index: Index
) -> None:
    before = registry.holds("seatrial"), index.files()
    registry.kill()
    index.kill()
    # Started again, at another address; what they hold is in volumes.
    release.checkout.passes("publish.evidence", "publish.artifact")
    result = release.checkout.passes("publish.verify")
    assert result.out.startswith(f"PASSED: {registry.address}/seatrial@")
    again = release.checkout.running("registry"), release.checkout.running("index")
    assert again[0] is not None
    assert again[1] is not None
    assert (Registry(again[0], 5000).holds("seatrial"), Index(again[1], 8080).files()) == before


def test_another_commit_gets_a_name_that_says_so(release: Release, registry: Registry) -> None:
    # Accepted is one commit, checked out another: on this machine it may be looked at.
    release.checkout.write("README.md", "another commit\n")
    release.checkout.passes("publish.image")
    assert registry.image_id("seatrial", f"{release.short}-dirty") == release.image_id
    now = release.checkout.git("rev-parse", "HEAD").strip()
    assert registry.tags("seatrial").count(now[:12]) == 0


def test_a_dirty_tree_gets_a_name_that_says_so(release: Release, registry: Registry) -> None:
    (release.checkout.root / "README.md").write_text("not committed\n")
    result = release.checkout.passes("publish.image")
    assert f"as {release.short}-dirty\n" in result.err
    assert registry.image_id("seatrial", f"{release.short}-dirty") == release.image_id
