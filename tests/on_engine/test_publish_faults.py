"""What networks, registries and indexes do to a release on its way, and what becomes of it."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.on_engine.faulty import Fault, FaultyProxy
from tests.on_engine.publishing import VERSION, Port, Release, without_secrets
from tests.on_engine.servers import PASSWORD, USER, Harbour, Index, Registry

if TYPE_CHECKING:
    from tests.on_engine.conftest import Result

pytestmark = pytest.mark.engine

WRONG = "half-astern-51b0aa"
DENIED = (
    b'{"errors": [{"code": "DENIED", "message": "requested access to the resource is denied"}]}'
)
JSON = {"Content-Type": "application/json"}
# What ends a run at once, however long it may take.
LATER: dict[str, Any] = {"status": 429, "headers": {"Retry-After": "3600"}}
ALL = ("publish.artifact", "publish.evidence")  # which has the image published before


def pushes(result: Result) -> int:
    return result.err.count("$ docker push")


# --- down, slow, in trouble ----------------------------------------------------------------------


def test_nobody_listens(port: Port) -> None:
    port.settings = {"PUBLISH_DEADLINE": "3"}
    nobody = "127.0.0.1:1"
    says = (f"GET {nobody}: ConnectionError (", " tries, deadline 3 s)", "try again later")
    result = port.fails(69, "publish.image", says=says, REGISTRY=nobody)
    assert "(1 tries" not in result.err
    says = (f"read http://{nobody}/simple/: ConnectionError (", " tries, deadline 3 s)", "later")
    port.fails(69, "publish.artifact", says=says, INDEX_URL=f"http://{nobody}/")
    port.require_empty()


def test_both_stumble_and_all_arrives(port: Port) -> None:
    in_trouble: dict[str, Any] = {"status": 429, "headers": {"Retry-After": "1"}}
    port.to_registry.faults = [
        Fault("GET", "/manifests/", times=2, status=503),
        Fault("GET", "/manifests/", times=1, halved=True),
        Fault("HEAD", "/blobs/", times=1, status=502),
        Fault("POST", "/blobs/uploads/", times=1, reset_after=0),
        Fault("PATCH", "/blobs/uploads/", times=1, truncated=True),
        Fault("PUT", "/manifests/", times=1, status=500),
        Fault("PUT", "/manifests/", times=1, **in_trouble),
    ]
    port.to_index.faults = [
        Fault("GET", "/simple/", times=1, status=500),
        Fault("GET", "/simple/", times=1, **in_trouble),
        Fault("GET", "/simple/", times=1, halved=True),
        Fault("POST", "/", times=1, status=503),
        Fault("POST", "/", times=1, reset_after=1000),
        Fault("POST", "/", times=1, truncated=True),
    ]
    port.passes("publish.artifact", "publish.image")
    left = [*port.to_registry.faults, *port.to_index.faults]
    assert [fault for fault in left if fault.times] == []
    port.to_registry.faults = [
        Fault("HEAD", "/blobs/", times=1, status=500),
        Fault("PUT", "/blobs/uploads/", times=2, truncated=True),
        Fault("PUT", "/blobs/uploads/", times=1, halved=True),
        Fault("PUT", "/manifests/", times=1, reset_after=10),
    ]
    port.passes("publish.evidence")
    assert [fault for fault in port.to_registry.faults if fault.times] == []
    port.require_complete()


def test_a_registry_that_asks_for_more_time_than_there_is(port: Port) -> None:
    port.to_registry.faults = [Fault("GET", "/manifests/", **LATER)]
    says = (f"GET {port.to_registry.address}: too many requests (1 tries, deadline 300 s)",)
    port.fails(69, "publish.image", says=says)
    assert port.to_registry.seen() == 1
    port.require_empty()


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/manifests/"), ("HEAD", "/blobs/")],
    ids=["when asked", "when pushed to"],
)
def test_a_registry_that_falls_silent(port: Port, method: str, path: str) -> None:
    port.to_registry.faults = [Fault(method, path, stall=True)]
    try:
        port.fails(69, "publish.image", says=(" tries, deadline 8 s)",), PUBLISH_DEADLINE="8")
    finally:
        port.to_registry.release_stalled()
    assert port.holds() == {}
    # nothing goes on behind our back, and no name is left of the attempt
    assert port.checkout.processes() == []
    names = port.checkout.client.images.get(port.release.image_id).tags
    assert not [name for name in names if name.startswith(port.reference)]


@pytest.mark.parametrize(("method", "path"), [("GET", "/simple/"), ("POST", "/")])
def test_an_index_that_falls_silent(port: Port, method: str, path: str) -> None:
    port.to_index.faults = [Fault(method, path, stall=True)]
    try:
        port.fails(69, "publish.artifact", says=("deadline 6 s)",), PUBLISH_DEADLINE="6")
    finally:
        port.to_index.release_stalled()
    assert port.checkout.processes() == []
    assert port.index.files() == {}


def test_an_index_in_trouble(port: Port) -> None:
    port.to_index.faults = [Fault("POST", "/", status=503)]
    says = (f"upload to http://{port.to_index.address}/: it answers 503 (", "published: nothing")
    port.fails(69, "publish.artifact", says=says, PUBLISH_DEADLINE="6")
    port.require_empty()


# --- not allowed ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(harbour: Harbour) -> Iterator[tuple[Registry, Index, FaultyProxy, FaultyProxy]]:
    """Return a registry and an index that want a password, each with a proxy before it."""
    registry, index = harbour.registry(password=True), harbour.index(password=True)
    with FaultyProxy(lambda: registry.address) as one, FaultyProxy(lambda: index.address) as two:
        yield registry, index, one, two


@pytest.fixture
def guarded_port(
    release: Release,
    guarded: tuple[Registry, Index, FaultyProxy, FaultyProxy],
    new_repository: Callable[[], str],
    tmp_path: Path,
) -> Port:
    """Return a port that wants a password, which we know."""
    registry, index, to_registry, to_index = guarded
    index.empty()
    to_registry.clear()
    to_index.clear()
    known(tmp_path, to_registry.address, PASSWORD)
    settings = {
        "DOCKER_CONFIG": str(tmp_path),
        "INDEX_USERNAME": USER,
        "INDEX_PASSWORD": PASSWORD,
    }
    return Port(release, registry, index, to_registry, to_index, new_repository(), settings)


def known(folder: Path, registry: str, password: str) -> str:
    """Write a Docker configuration that knows a password; return how it is written there."""
    secret = base64.b64encode(f"{USER}:{password}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {registry: {"auth": secret}}}))
    return secret


def test_the_right_password(guarded_port: Port) -> None:
    result = guarded_port.passes("publish.artifact", "publish.evidence")
    guarded_port.require_complete()
    secret = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    secrets = {"the password": PASSWORD, "the header": secret}
    without_secrets(result, guarded_port.checkout.last_run, secrets)


@pytest.mark.parametrize("who", ["wrong password", "nobody"])
def test_a_registry_that_does_not_let_us_in(guarded_port: Port, tmp_path: Path, who: str) -> None:
    port = guarded_port
    secret = known(tmp_path, port.to_registry.address, WRONG)
    if who == "nobody":
        (tmp_path / "config.json").unlink()
    says = (
        f"{port.to_registry.address} does not let us into {port.repository}: it answers 401",
        f"docker login {port.to_registry.address}",
    )
    result = port.fails(77, "publish.image", says=says)
    # asked once, and once more with what we know; never again, and the engine is not let loose
    assert port.to_registry.seen() == (1 if who == "nobody" else 2)
    assert port.to_registry.seen(status=401) == port.to_registry.seen()
    assert pushes(result) == 0
    secrets = {"the password": WRONG, "the header": secret, "the right one": PASSWORD}
    without_secrets(result, port.checkout.last_run, secrets)
    port.require_empty()


def test_an_index_that_does_not_let_us_in(guarded_port: Port) -> None:
    port = guarded_port
    says = (f"http://{port.to_index.address}/simple/ answers 403", "INDEX_USERNAME")
    result = port.fails(77, "publish.artifact", says=says, INDEX_PASSWORD=WRONG)
    assert port.to_index.seen() == 1
    without_secrets(result, port.checkout.last_run, {"the password": WRONG})
    port.require_empty()


def test_an_index_that_lets_us_read_and_not_write(port: Port) -> None:
    port.to_index.faults = [Fault("POST", "/", status=403, body=b"invalid credentials")]
    says = (
        f"http://{port.to_index.address}/ does not let us upload: it answers 403",
        "published: nothing",
    )
    result = port.fails(77, "publish.artifact", says=says, INDEX_PASSWORD=WRONG)
    assert port.to_index.seen("POST") == 1
    without_secrets(result, port.checkout.last_run, {"the password": WRONG})
    port.require_empty()


@pytest.mark.parametrize("status", [401, 403])
def test_a_registry_that_lets_us_read_and_not_write(port: Port, status: int) -> None:
    # The engine itself would ask for most of a minute before it believed that.
    port.to_registry.faults = [
        Fault("POST|PUT|PATCH", "/", status=status, body=DENIED, headers=JSON)
    ]
    says = (f"{port.to_registry.address} does not let us into {port.repository}",)
    result = port.fails(77, "publish.image", says=says)
    assert port.to_registry.seen("POST|PUT|PATCH") == 1
    assert pushes(result) == 0
    port.require_empty()


def test_a_registry_that_takes_layers_and_no_tags(port: Port) -> None:
    port.to_registry.faults = [Fault("PUT", "/manifests/", status=403, body=DENIED, headers=JSON)]
    says = (f"{port.to_registry.address} does not let us push to {port.repository}", "denied")
    result = port.fails(77, "publish.image", says=says)
    assert pushes(result) == 1
    assert port.holds() == {}


# --- half-way ------------------------------------------------------------------------------------


def test_the_registry_dies_while_layers_are_uploaded(
    release: Release, harbour: Harbour, port: Port, new_repository: Callable[[], str]
) -> None:
    registry = harbour.registry()
    with FaultyProxy(lambda: registry.address) as to_registry:
        there = Port(release, registry, port.index, to_registry, port.to_index, new_repository())
        to_registry.faults = [
            Fault("PATCH", "/blobs/uploads/", times=1, reset_after=100_000, before=registry.kill)
        ]
        says = (f"push to {to_registry.address}: ", "deadline 20 s)", "what is there already")
        result = there.fails(69, "publish.image", says=says, PUBLISH_DEADLINE="20")
        assert pushes(result) >= 1
        assert to_registry.seen("PATCH", status=0) > 0
        registry.start()
        assert there.holds() == {}
        # Run again it completes, the tag that others follow last.
        to_registry.clear()
        there.passes(*ALL)
        there.require_complete()
        tags = [
            request.path.rsplit("/", 1)[1]
            for request in to_registry.requests
            if request.method == "PUT" and "/manifests/" in request.path
        ]
        assert tags[:3] == [release.short, VERSION, "latest"]


def test_the_moving_tag_does_not_arrive(port: Port) -> None:
    port.to_registry.faults = [Fault("PUT", "/manifests/latest", **LATER)]
    says = (f"PUT {port.to_registry.address}: too many requests (1 tries",)
    port.fails(69, "publish.image", says=says)
    image_id = port.release.image_id
    assert port.holds() == {port.release.short: image_id, VERSION: image_id}
    port.to_registry.clear()
    result = port.passes(*ALL)
    assert pushes(result) == 0
    port.require_complete()


def test_the_evidence_arrives_in_part(port: Port) -> None:
    sent: list[int] = []
    port.to_registry.faults = [
        # all artifacts but the first four: those are named by their digest
        Fault("PUT", "/manifests/sha256:", times=4, before=lambda: sent.append(1)),
        Fault("PUT", "/manifests/sha256:", **LATER),
    ]
    port.fails(69, "publish.evidence", says=("too many requests",))
    assert len(sent) == 4
    assert len(port.attached()) == 4
    # it is not verified: a part is nothing
    reference = f"{port.reference}:{VERSION}"
    port.to_registry.clear()
    result = port.checkout.invoke("publish.verify", VERIFY_IMAGE=reference)
    assert result.code == 1
    assert "failed: there is no receipt of" in result.err
    port.passes(*ALL)
    port.require_complete()  # each of it once
    assert port.checkout.passes("publish.verify", VERIFY_IMAGE=reference).out.startswith("PASSED")


def test_wheels_are_published_and_the_image_is_not(port: Port) -> None:
    port.to_registry.faults = [Fault("PUT", "/manifests/", status=400, body=b"no")]
    says = (
        "of the release, published: wheels",
        "of the release, missing: image, evidence",
    )
    port.fails(1, "publish", says=says)
    assert port.index.files() == port.release.wheels
    assert port.holds() == {}
    port.to_registry.clear()
    result = port.passes("publish")
    assert "0 wheels published" in result.err
    assert result.out.startswith(f"PASSED: {port.reference}@sha256:")
    port.require_complete()


def test_the_image_is_published_and_a_wheel_is_not(port: Port) -> None:
    port.passes("publish.evidence")
    port.to_index.faults = [
        Fault("POST", "/", times=3),
        Fault("POST", "/", status=400, body=b"no more"),
    ]
    wheels = sorted(port.release.wheels)
    says = (
        "status code 400",
        "no more",
        f"published: {', '.join(wheels[:3])}\n",
        f"missing: {', '.join(wheels[3:])}\n",
        "of the release, published: nothing",
        "of the release, missing: wheels, image, evidence",
    )
    port.fails(1, "publish", says=says)
    assert sorted(port.index.files()) == wheels[:3]
    assert port.holds()[VERSION] == port.release.image_id
    port.to_index.clear()
    result = port.passes("publish")
    assert f"{len(wheels) - 3} wheels published, 3 were there already" in result.err
    assert f"{port.reference}@" in result.err
    assert "was there already" in result.err
    port.require_complete()


# --- other things under these names --------------------------------------------------------------


def test_a_name_was_moved_after_the_acceptance(port: Port) -> None:
    checkout, client = port.checkout, port.checkout.client
    names = [checkout.image("app"), checkout.image("accepted")]
    other = client.images.get(checkout.image("base"))
    try:
        for name in names:
            other.tag(name, "latest")
        port.passes(*ALL)
    finally:
        for name in names:
            client.images.get(port.release.image_id).tag(name, "latest")
    port.require_complete()


@pytest.mark.parametrize("tag", ["commit", "version"])
def test_a_version_is_there_with_other_content(port: Port, tag: str) -> None:
    name = port.release.short if tag == "commit" else VERSION
    client, reference = port.checkout.client, f"{port.registry.address}/{port.repository}"
    other = client.images.get(port.checkout.image("base"))
    other.tag(reference, name)
    try:
        subprocess.run(
            ["docker", "push", "--quiet", f"{reference}:{name}"], check=True, capture_output=True
        )
    finally:
        client.images.remove(f"{reference}:{name}")
    before = port.holds()
    assert before == {name: other.id}
    says = (
        f"{port.reference} has other content under a name that is given once",
        f"{name}: accepted {port.release.image_id}, there {other.id}",
        "a name that is given once is never given again",
    )
    result = port.fails(1, "publish.image", says=says)
    assert pushes(result) == 0
    assert port.to_registry.seen("PUT|POST|PATCH|DELETE") == 0
    assert port.holds() == before


def test_a_wheel_is_there_with_other_content(port: Port) -> None:
    (name,) = [wheel for wheel in port.release.wheels if wheel.startswith("todo_backend-")]
    port.index.put("/packages", {name: b"other content"})
    before = port.index.files()
    assert [*before] == [name]
    says = (
        f"http://{port.to_index.address}/simple/ has other content under the same name",
        f"{name}: accepted sha256:{port.release.wheels[name]}, there sha256:{before[name]}",
    )
    port.fails(1, "publish", says=says)
    assert port.to_index.seen("POST") == 0
    assert port.index.files() == before
    assert port.holds() == {}


def test_the_moving_tag_follows(port: Port) -> None:
    # what is `latest` until now is another release: it is moved, and nothing else
    client, reference = port.checkout.client, f"{port.registry.address}/{port.repository}"
    other = client.images.get(port.checkout.image("base"))
    other.tag(reference, "latest")
    try:
        subprocess.run(["docker", "push", "--quiet", reference], check=True, capture_output=True)
    finally:
        client.images.remove(f"{reference}:latest")
    port.passes("publish.image", BUILD_NUMBER="17")
    expected = [port.release.short, VERSION, "latest", "build-17"]
    assert port.holds() == dict.fromkeys(expected, port.release.image_id)


def test_from_another_branch_the_moving_tag_stays(port: Port) -> None:
    port.passes("publish.image", LATEST_BRANCH="releases")
    assert sorted(port.holds()) == sorted([port.release.short, VERSION])
