"""The one object that talks to the engine's API: what the CLI has no cheap or exact answer for.

States, exit codes, probes (exec), logs and files of containers, images, and removal by labels. All
of it works with an engine on another machine.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import docker
import requests
from docker.context import ContextAPI
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from urllib3.exceptions import HTTPError

from tasks.engine.process import classified
from tasks.engine.readiness import Answer, State
from tasks.engine.waits import Waits
from tasks.errors import Failure, Misconfigured, StageFailed, Unavailable

if TYPE_CHECKING:
    from docker.models.containers import Container

TIMEOUT_SECONDS = 60
START_HINT = "start it (./bootstrap does, as root on Debian or Ubuntu), or set DOCKER_HOST right"
NOT_RUNNABLE = (126, 127)  # the shell's codes for "cannot be executed" and "not found"


@dataclass(frozen=True)
class Image:
    """An image of the engine: its ID (the digest of its configuration), labels and user."""

    id: str
    labels: Mapping[str, str]
    user: str
    configuration: Mapping[str, Any]


class Engine:
    """The Docker engine in use, local or remote, reached when it is first needed.

    `environment` is where DOCKER_HOST, DOCKER_CONTEXT and their like are read from.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self.waits = Waits("engine")

    # --- containers ------------------------------------------------------------------------------

    def containers(self, labels: Mapping[str, str]) -> dict[str, Container]:
        """Return the containers with these labels, running or not, by their service's name."""
        found = self.containers_by_id(labels)
        return {c.labels.get("com.docker.compose.service", c.name or ""): c for c in found}

    def containers_by_id(self, labels: Mapping[str, str]) -> list[Container]:
        """Return all containers with these labels, also those that share a service's name."""
        with self._asked():
            # In one question: without "sparse", docker-py asks again for each of them.
            found = self._client.containers.list(
                all=True, sparse=True, filters={"label": _filters(labels)}
            )
        for container in found:
            listed = container.attrs
            listed["Name"], listed["Image"] = listed["Names"][0], listed["ImageID"]
            listed["Config"] = {"Labels": listed["Labels"]}
        return list(found)

    def state(self, service: str, container: Container) -> State:
        """Return the present state of a container."""
        with self._asked():
            try:
                answer = self._client.api.inspect_container(str(container.id))
            except NotFound:
                return State(service, "removing")
        state = answer["State"]
        return State(
            service, state["Status"], state["ExitCode"], state["StartedAt"], answer["RestartCount"]
        )

    def image_of(self, container: Container) -> str:
        """Return the ID of the image that a container runs."""
        return str(container.attrs["Image"])

    def ask(self, container: Container, command: tuple[str, ...], expect: str) -> Answer:
        """Run a probe in a container; yes if it ends with 0 and prints `expect`.

        Raises Misconfigured if the container has no such command.
        """
        with self._asked():
            try:
                run = self._client.api.exec_create(container.id, list(command))
                output = self._client.api.exec_start(run["Id"]).decode(errors="replace")
                code = self._client.api.exec_inspect(run["Id"])["ExitCode"]
            except APIError as error:
                if error.status_code in {404, 409}:  # gone, or not running
                    return Answer(yes=False, text=str(error.explanation))
                raise
        if code in NOT_RUNNABLE:
            raise Misconfigured(
                f"the probe {command[0]} cannot be run", evidence=output.splitlines()
            )
        if code == 0 and expect not in output:
            return Answer(yes=False, text=f"{output.strip()} (expected: {expect})")
        return Answer(yes=code == 0, text=output.strip() or f"exit code {code}")

    def last_lines(self, container: Container, count: int) -> list[str]:
        """Return the last `count` lines that a container wrote."""
        with self._asked():
            text: bytes = container.logs(tail=count)
        return text.decode(errors="replace").splitlines()

    def follow(self, container: Container, *, only_new: bool = False) -> Iterator[str]:
        """Yield the lines that a container writes, until it ends."""
        with self._asked():
            rest = ""
            stream = container.logs(stream=True, follow=True, tail=0 if only_new else "all")
            for chunk in stream:
                *lines, rest = (rest + chunk.decode(errors="replace")).split("\n")
                yield from (line.rstrip("\r") for line in lines)
            if rest:
                yield rest

    def exit_code(self, container: Container, timeout: float) -> int:
        """Wait for a container to end and return its exit code.

        Raises Unavailable if the engine does not tell within `timeout` seconds.
        """
        with self._asked():
            return int(container.wait(timeout=timeout)["StatusCode"])

    def kill(self, container: Container) -> None:
        """Kill a container; one that has ended already is fine."""
        with self._asked():
            try:
                container.kill()
            except APIError as error:
                if error.status_code not in {404, 409}:
                    raise

    def discard(self, container: Container) -> None:
        """Remove a container and its anonymous volumes; one that has gone already is fine."""
        with _translated():
            try:
                container.remove(force=True, v=True)
            except NotFound:
                return

    def start(self, containers: Iterable[Container]) -> None:
        """Start containers, side by side. Raises StageFailed if the engine cannot start one."""
        with self._asked(), ThreadPoolExecutor(8) as pool:  # a quarter of a second for each
            for started in [pool.submit(container.start) for container in containers]:
                started.result()

    def restart(self, container: Container) -> None:
        """Stop a container without giving it time, and start it again."""
        with self._asked():
            container.restart(timeout=0)

    def file(self, container: Container, path: str) -> bytes | None:
        """Return the bytes of a file in a container, running or not; None if there is none."""
        with self._asked():
            try:
                chunks, _ = container.get_archive(path)
            except NotFound:
                return None
            with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
                member = archive.extractfile(archive.getmembers()[0])
                return member.read() if member else None

    def address(self, container: Container, port: int) -> str:
        """Return `host:port` at which a container's TCP port is published, as seen from here.

        Raises StageFailed if it is not published.
        """
        with self._asked():
            container.reload()
        published = (container.ports or {}).get(f"{port}/tcp")
        if not published:
            raise StageFailed(f"port {port} of {container.name} is not published")
        host = published[0]["HostIp"]
        if host in {"0.0.0.0", "::", ""}:  # noqa: S104  (any address of the engine's machine)
            host = self._machine
        return f"{host}:{published[0]['HostPort']}"

    # --- images ----------------------------------------------------------------------------------

    def image(self, reference: str) -> Image | None:
        """Return the image of this name, tag or ID; None if the engine has none."""
        with self._asked():
            try:
                found = self._client.images.get(reference)
            except ImageNotFound:
                return None
        configuration = found.attrs["Config"]
        return Image(
            id=str(found.id),
            labels=configuration.get("Labels") or {},
            user=configuration.get("User") or "",
            configuration=found.attrs,
        )

    def tag(self, image_id: str, name: str) -> None:
        """Give an image another name, `repository:tag`."""
        repository, _, tag = name.rpartition(":")
        with self._asked():
            self._client.images.get(image_id).tag(repository, tag)

    def untag(self, name: str) -> None:
        """Take a name from an image that has others."""
        with self._asked(), suppress(ImageNotFound):
            self._client.images.remove(name, noprune=True)

    def history(self, image_id: str) -> list[str]:
        """Return the commands that made the layers of an image."""
        with self._asked():
            return [layer["CreatedBy"] for layer in self._client.api.history(image_id)]  # type: ignore[no-untyped-call]

    def archive(self, image_id: str) -> Iterator[bytes]:
        """Yield an image, all its layers, as `docker save` writes it."""
        with self._asked():
            yield from self._client.images.get(image_id).save()

    def architecture(self) -> str:
        """Return the engine's architecture as Go and Debian name it: amd64, arm64, ..."""
        with self._asked():
            return str(self._client.version()["Arch"])

    # --- removal ---------------------------------------------------------------------------------

    def remove(self, labels: Mapping[str, str]) -> list[str]:
        """Remove every container, network and volume with these labels; nothing else.

        Returns what could not be removed, with the engine's reasons.
        """
        containers = list(self.containers_by_id(labels))
        left: list[str] = []
        with ThreadPoolExecutor(8) as pool:  # the engine takes most of a second for each
            left += filter(None, pool.map(lambda c: self._removed("container", c), containers))
            with self._asked():
                networks = self._client.networks.list(filters={"label": _filters(labels)})
                volumes = self._client.volumes.list(filters={"label": _filters(labels)})
            rest = [*(("network", n) for n in networks), *(("volume", v) for v in volumes)]
            left += filter(None, pool.map(lambda one: self._removed(*one), rest))
        return left

    def remove_images(self, labels: Mapping[str, str], *, untagged_only: bool = False) -> list[str]:
        """Remove the images with these labels, or of them those without a name.

        Returns what could not be removed, with the engine's reasons.
        """
        filters: dict[str, Any] = {"label": _filters(labels)}
        if untagged_only:
            filters["dangling"] = True
        with self._asked():
            images = self._client.images.list(filters=filters)
        return [problem for problem in map(self._image_removed, images) if problem]

    def _removed(self, kind: str, thing: Any) -> str:
        try:
            with self.waits.on():
                if kind == "container":
                    thing.remove(force=True, v=True)
                elif kind == "network":
                    thing.remove()
                else:
                    thing.remove(force=True)
        except NotFound:
            return ""
        except (DockerException, requests.exceptions.RequestException) as error:
            if "already in progress" in str(error):
                return ""
            return f"{kind} {thing.name}: {error}"
        return ""

    def _image_removed(self, image: Any) -> str:
        problems = []
        # One that was pulled by its digest is kept by that name.
        names = [*image.tags, *(image.attrs.get("RepoDigests") or [])]
        for name in names or [image.id]:
            try:
                self._client.images.remove(name)
            except ImageNotFound:
                pass
            except APIError as error:
                problems.append(f"image {name}: {error.explanation}")
        return "; ".join(problems)

    # --- the connection --------------------------------------------------------------------------

    @contextmanager
    def _asked(self) -> Iterator[None]:
        with self.waits.on(), _translated():
            yield

    @cached_property
    def _client(self) -> docker.DockerClient:
        try:
            if self._environment.get("DOCKER_HOST"):
                return docker.from_env(
                    environment=self._environment,
                    version="auto",
                    timeout=TIMEOUT_SECONDS,
                    use_ssh_client=self._host.startswith("ssh:"),
                )
            context = ContextAPI.get_context(self._environment.get("DOCKER_CONTEXT"))
            return docker.DockerClient(
                base_url=self._host or None,
                tls=(context.TLSConfig if context else None) or False,
                version="auto",
                timeout=TIMEOUT_SECONDS,
                use_ssh_client=self._host.startswith("ssh:"),
            )
        except (DockerException, requests.exceptions.RequestException) as error:
            raise Unavailable(
                f"the Docker engine does not answer at {self._host or 'its default address'}",
                evidence=[str(error)],
                hint=START_HINT,
            ) from error

    @cached_property
    def _host(self) -> str:
        """The address of the engine, as the CLI would find it."""
        if address := self._environment.get("DOCKER_HOST"):
            return address
        context = ContextAPI.get_context(self._environment.get("DOCKER_CONTEXT"))
        return str(context.Host or "") if context else ""

    @property
    def _machine(self) -> str:
        """The name of the machine the engine runs on, as seen from here."""
        if "://" not in self._host or self._host.startswith(("unix:", "npipe:")):
            return "127.0.0.1"
        return self._host.split("://")[1].split("@")[-1].split("/")[0].split(":")[0]


def _filters(labels: Mapping[str, str]) -> list[str]:
    """Return the engine's filters for things with all these labels; an empty value is any."""
    return [f"{key}={value}" if value else key for key, value in labels.items()]


@contextmanager
def _translated() -> Iterator[None]:
    """Turn what docker-py raises into failures that a user can act on."""
    try:
        yield
    except Failure:
        raise
    except APIError as error:  # first, since it is a RequestException too
        why = str(error.explanation or error)
        raise classified(StageFailed(f"the engine refused: {why}"), [why]) from error
    except (requests.exceptions.RequestException, HTTPError, ConnectionError) as error:
        raise Unavailable(
            "the connection to the Docker engine broke; this run is void",
            evidence=[str(error)],
            hint="see whether the engine was stopped or restarted, and run again",
        ) from error
    except DockerException as error:
        raise Unavailable("the Docker engine cannot be used", evidence=[str(error)]) from error
