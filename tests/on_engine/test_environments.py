"""Environments: kept and removed, side by side, in odd places, and ended from outside."""

from __future__ import annotations

import json
import os
import signal
import socket
import urllib.request
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.on_engine.conftest import wait_until

if TYPE_CHECKING:
    import docker

    from tests.on_engine.conftest import CheckoutUnderTest, NewCheckout, Proxy, Result

pytestmark = pytest.mark.engine

HANGING = "import time\n\n\ndef test_zero():\n    time.sleep(3600)\n"


@pytest.fixture(scope="module", autouse=True)
def _belongings(client: docker.DockerClient, base_image: str) -> Iterator[None]:
    """Put things of the user beside it all; none of them may be touched."""
    name = f"seatrial-mine-{os.getpid()}"
    mine = {"com.docker.compose.project": "seatrial", "mine": name}
    volume = client.volumes.create(name, labels=mine)
    network = client.networks.create(name, labels=mine)
    container = client.containers.run(
        base_image, ["sleep", "infinity"], name=name, detach=True, init=True, network=name,
        volumes={name: {"bind": "/mine"}}, labels=mine,
    )  # fmt: skip
    try:
        yield
        container.reload()
        assert container.status == "running"
        network.reload()
        assert [attached.id for attached in network.containers] == [container.id]
        assert client.volumes.get(name)
    finally:
        container.remove(force=True)
        network.remove()
        volume.remove()


def asked(url: str) -> tuple[str, str]:
    """Return the body and the content type that a URL answers with."""
    with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310
        return answer.read().decode(), answer.headers["Content-Type"]


def containers(checkout: CheckoutUnderTest) -> dict[str, str]:
    """Return the IDs of the containers that run, by service."""
    found = {service: checkout.running(service) for service in ("db", "app", "nginx")}
    return {service: str(container.id) for service, container in found.items() if container}


@pytest.mark.usefixtures("nothing_left")
def test_release_environment_of_the_user(
    unchanged: CheckoutUnderTest, client: docker.DockerClient, base_image: str
) -> None:
    started = unchanged.passes("release.start")
    url = started.out.removesuffix("\n")
    assert url.startswith("http://127.0.0.1:"), started.out
    assert len(url.splitlines()) == 1
    revision = unchanged.git("rev-parse", "HEAD").strip()
    assert json.loads(asked(f"{url}healthz")[0]) == {"status": "ok", "revision": revision}
    assert asked(f"{url}static/admin/css/base.css")[1] == "text/css"
    assert unchanged.passes("release.url").out == f"{url}\n"
    logs = unchanged.passes("release.logs").out
    assert all(f"\n{service} | " in f"\n{logs}" for service in ("db", "app", "nginx", "migrate"))

    running = containers(unchanged)
    assert running.keys() == {"db", "app", "nginx"}
    assert unchanged.passes("release.start").out == f"{url}\n"
    assert containers(unchanged) == running

    # Left running and as it was, also by tests that fail.
    unchanged.passes("acceptance.run")
    assert unchanged.passes("release.url").out == f"{url}\n"
    unchanged.fails(
        1, "acceptance.run", says=("test did not end within",), keeps=True, FRESH="on",
        TEST_TIMEOUT="0.1",
    )  # fmt: skip
    assert json.loads(asked(f"{url}healthz")[0])["status"] == "ok"
    assert containers(unchanged)["db"] == running["db"]

    # What cannot be removed is named, and is no success.
    webroot = next(name for name in unchanged.on_engine() if name.endswith("_webroot"))
    guest = client.containers.create(base_image, volumes={webroot: {"bind": "/webroot"}})
    try:
        unchanged.fails(
            1, "release.stop", says=("could not be removed", f"volume {webroot}"), keeps=True
        )
        assert unchanged.on_engine() == [webroot]
    finally:
        guest.remove()
    assert unchanged.passes("release.stop").out == ""
    assert unchanged.on_engine() == []
    stopped = unchanged.invoke("release.url")
    assert (stopped.code, stopped.out) == (1, "")
    assert "does not run" in stopped.err
    assert "invoke release.start" in stopped.err
    unchanged.passes("release.stop")


@pytest.mark.usefixtures("nothing_left")
def test_kept_always(unchanged: CheckoutUnderTest) -> None:
    kept = unchanged.passes("test.unit", KEEP="always", FRESH="on")
    assert "invoke clean removes it" in kept.err
    assert unchanged.on_engine() != []
    following = unchanged.passes("test.unit", FRESH="on")
    assert "removing what an earlier run left" in following.err


def test_kept_after_a_failure(changed: CheckoutUnderTest, client: docker.DockerClient) -> None:
    changed.passes("test.unit", KEEP="failure", FRESH="on")
    assert changed.on_engine() == []
    changed.write("app/acceptance/test_broken.py", "def test_broken():\n    assert False\n")
    changed.fails(1, "acceptance.run", says=("1 failed",), keeps=True, KEEP="failure")
    assert containers(changed).keys() == {"db", "app", "nginx"}

    # A container that a user made of one of the images is not the collection's to remove.
    image = changed.image("acceptance")
    mine = client.containers.run(image, ["sleep", "infinity"], detach=True)
    try:
        changed.fails(1, "clean", says=("not everything could be removed", image), keeps=True)
        mine.reload()
        assert mine.status == "running"
        assert changed.on_engine() == [mine.name]
    finally:
        mine.remove(force=True)
    changed.passes("clean")
    assert changed.on_engine(images=True) == []
    assert not (changed.root / "target").exists()


def test_two_checkouts_at_once_one_in_an_odd_place(
    unchanged: CheckoutUnderTest, new_checkout: NewCheckout
) -> None:
    odd = new_checkout("""-mein Prüf, stand "1" $a #b=c""")
    for path in odd.root.rglob("*"):  # as with a umask of 077
        if ".git" not in path.parts:
            path.chmod(path.stat().st_mode & 0o700)
    runs = [each.start("release.acceptance", FRESH="on") for each in (unchanged, odd)]
    for checkout, run in zip((unchanged, odd), runs, strict=True):
        result = run.ended()
        assert result.code == 0, result.text
        assert checkout.on_engine() == []
        assert checkout.git("status", "--porcelain") == ""


def test_two_runs_in_one_checkout(changed: CheckoutUnderTest) -> None:
    changed.write("app/tests/unit/test_zero.py", HANGING)
    first = changed.start("test.unit")
    first.until(lambda: changed.running("unit"), "the tests run")
    busy = changed.invoke("test.unit")
    assert busy.code == 75
    assert f"process {first.pid}, in stage test.unit since " in busy.err
    assert "LOCK_TIMEOUT" in busy.err
    waiting = changed.start("test.unit", LOCK_TIMEOUT="600")
    changed.git("reset", "--quiet", "--hard", "as-it-is")
    ended = first.signalled(signal.SIGINT)
    assert ended.code == 130, ended.text
    waited = waiting.ended()
    assert waited.code == 0, waited.text


def check_interrupted(checkout: CheckoutUnderTest, result: Result, code: int, name: str) -> None:
    checkout.failed(result, code, says=(f"interrupted by {name}",))
    assert checkout.processes() == []


def test_interrupted_while_the_specs_run(changed: CheckoutUnderTest) -> None:
    changed.write("app/acceptance/test_zero.py", HANGING)
    run = changed.start("acceptance.run")
    run.until(lambda: changed.running("test"), "the specs run")
    assert containers(changed).keys() == {"db", "app", "nginx"}
    check_interrupted(changed, run.signalled(signal.SIGINT), 130, "SIGINT")
    assert "nginx | " in changed.log("-local-acceptance.log")


def test_terminated_while_an_image_is_built(changed: CheckoutUnderTest) -> None:
    changed.change("compose/nginx/Dockerfile", "USER www-data", "RUN sleep 3600\nUSER www-data")
    run = changed.start("test.db", "build.services")
    run.until(lambda: "RUN sleep 3600" in changed.log(), "the image is built")
    assert any("buildx" in command for command in changed.processes())
    check_interrupted(changed, run.signalled(signal.SIGTERM), 143, "SIGTERM")


def test_hung_up_on_while_a_database_is_awaited(changed: CheckoutUnderTest) -> None:
    changed.change("compose/release.yaml", "  db:\n", '  db:\n    command: [sleep, "3600"]\n')
    run = changed.start("release.bootstrap", DATABASE_DEADLINE="3600")
    run.until(lambda: changed.running("db"), "the database runs")
    check_interrupted(changed, run.signalled(signal.SIGHUP), 129, "SIGHUP")


def test_killed(changed: CheckoutUnderTest) -> None:
    changed.write("app/tests/integration/test_zero.py", HANGING)
    run = changed.start("test.integration")
    run.until(lambda: changed.running("integration"), "the tests run")
    assert run.signalled(signal.SIGKILL).code == -signal.SIGKILL
    assert changed.running("db")
    changed.git("reset", "--quiet", "--hard", "as-it-is")
    following = changed.passes("test.integration", FRESH="on")
    assert "removing what an earlier run left" in following.err
    assert changed.on_engine() == []


def test_interrupted_while_it_is_taken_down(unchanged: CheckoutUnderTest, proxy: Proxy) -> None:
    proxy.hold("DELETE", "containers/")
    run = unchanged.start("test.unit", DOCKER_HOST=proxy.address, FRESH="on")
    run.until(proxy.held, "it is taken down")
    run.process.send_signal(signal.SIGINT)
    proxy.release()
    result = run.ended()
    assert result.code == 130, result.text
    assert unchanged.on_engine() == []


def test_forced_to_end(unchanged: CheckoutUnderTest, proxy: Proxy) -> None:
    proxy.hold("DELETE", "containers/")
    run = unchanged.start("test.unit", DOCKER_HOST=proxy.address, FRESH="on")
    run.until(proxy.held, "it is taken down")

    def ended() -> bool:  # signals that come at once count as one
        run.process.send_signal(signal.SIGINT)
        return run.process.poll() is not None

    wait_until(ended, "it ends by force")
    result = run.ended()
    assert result.code == 130, result.text
    forced = result.err.partition("forced; left behind:")[2]
    assert f"{unchanged.id}-local-test-unit-1" in forced
    following = unchanged.passes("test.unit", FRESH="on")
    assert "removing what an earlier run left" in following.err
    assert unchanged.on_engine() == []


@pytest.mark.usefixtures("nothing_left")
def test_port_that_is_taken(unchanged: CheckoutUnderTest) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mine:
        port = str(mine.getsockname()[1])
        unchanged.fails(69, "release.start", HTTP_PORT=port, says=("taken", port, "HTTP_PORT"))
