"""The project's images: built in one graph by `docker buildx bake`, from `compose/images.yaml`."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from tasks.engine import base, buildsecrets, compose, source, versions, wheelhouse
from tasks.engine.process import EVIDENCE_LINES, CommandFailed
from tasks.engine.roles import ImageRoles, parse
from tasks.engine.tools import Tools
from tasks.errors import Misconfigured, StageFailed

FILE = "images.yaml"

# What knows nothing of the source is built beside the rest, in a call of its own: a second or two
# earlier it is there, and the databases start.
_BESIDE = frozenset({"services", "publishing"})

# What stands on the wheelhouse, and bears its version.
_OF_WHEELS = frozenset({"release", "check"})

STEP_WIDTH = 100
_STEP = re.compile(r"(#\d+) ((?:\[(?![^]]*internal)[^]]+\] |ERROR).*)")
# BuildKit ends with the step that failed, between two rules: its name, then its lines.
_RULE = "------"
_FAILED_STEP = re.compile(r" > (\[.*):")
_SECONDS = re.compile(r"^\d+\.\d+ ")
# BuildKit loses track now and then of what builds beside each other share; a second try succeeds.
# See https://github.com/moby/buildkit/issues/2303.
_LOST_TRACK = "inconsistent graph state"
_UNSET = re.compile(r"required variable (\w+) is missing a value")


class Images:
    """Builds images, and knows those of this checkout by their roles.

    `expected` are the roles whose images the stages of this run will ask for.
    """

    def __init__(self, tools: Tools, source: source.Source) -> None:
        self._tools = tools
        self._source = source
        self.expected: frozenset[str] = frozenset()
        self._built: set[str] = set()
        self._building = {beside: threading.Lock() for beside in (True, False)}
        self._released = False  # whether the release image is the one of the wheelhouse
        self._versions_suffice = False

    @cached_property
    def roles(self) -> ImageRoles:
        """Which bake target plays which role."""
        environment = self._environment(self._tools.settings.base_image)
        return parse(read_config(self._tools, "roles", FILE, environment), ImageRoles, FILE)

    def build(self, role: str) -> None:
        """Build the images that play a role, and with them what else this run is known to need.

        What stages need is in `expected`, so the first that asks builds for all of them. If that
        fails they are built one by one, so that the stage whose image it is fails. Raises
        StageFailed with the builder's last words.
        """
        with self._building[role in _BESIDE]:
            if role in self._built:
                return
            together = self._together(role)
            try:
                self._bake(together)
            except StageFailed:
                if together == [role]:
                    raise
                self.expected = frozenset()
                together = [role]
                self._bake(together)
            self._built.update(together)

    def _together(self, role: str) -> list[str]:
        expected = self.expected & _BESIDE if role in _BESIDE else self.expected - _BESIDE
        together = sorted({role} | expected - self._built)
        if "wheelhouse" in together and not source.version(self._tools.checkout.root):
            return [one for one in together if one not in _OF_WHEELS]  # once it is known
        return together

    def _bake(self, roles: Sequence[str], *, again: bool = True) -> None:
        tools = self._tools
        if not tools.dry:
            self._require_versions()
        if "wheelhouse" in roles and not tools.dry:
            shutil.rmtree(wheelhouse.export_folder(tools.checkout), ignore_errors=True)
        targets = [target for role in roles for target in self._targets(role)]
        if not targets:  # none named would be all of them
            return
        found = tools.settings.base_image if tools.dry else base.find(tools) or base.make(tools)
        try:
            tools.processes.run(
                compose.bake(
                    FILE, targets, tools.settings.build_cache_from, tools.settings.build_cache_to
                ),
                environment={**self._environment(found), **self._of_wheels(roles)},
                folder=tools.compose_folder,
                show=_Steps(),
            )
        except CommandFailed as error:
            if again and any(_LOST_TRACK in line for line in error.output):
                tools.console.note(f"BuildKit lost track ({_LOST_TRACK}): building once more")
                self._bake(roles, again=False)
                return
            raise StageFailed(
                f"building {', '.join(targets)} failed",
                evidence=failed_step(error.output) or error.evidence,
                hint="compose/images.yaml and the Dockerfiles beside it say how it is built",
            ) from error

    def remove_replaced(self) -> None:
        """Remove the images whose names this run has given to others."""
        if self._built and not self._tools.dry:
            self._tools.engine.remove_images(self._tools.checkout.labels, untagged_only=True)

    def _targets(self, role: str) -> tuple[str, ...]:
        named: str | tuple[str, ...] = getattr(self.roles, role)
        return (named,) if isinstance(named, str) else named

    def base(self) -> None:
        """Make sure of the image that `base` is built from."""
        base.make(self._tools)

    def wheels(self) -> None:
        """Build the wheelhouse and take it over into `target/wheelhouse`."""
        self.build("wheelhouse")
        if self._tools.dry:
            return
        house = wheelhouse.collect(self._tools.checkout)
        count = len(house.dependencies)
        self._tools.console.note(f"{next(iter(house.application))} and {count} dependencies")
        if house.version != source.version(self._tools.checkout.root):
            self._built -= _OF_WHEELS  # whose label was to be true

    def release(self) -> None:
        """Build the release image from the wheelhouse."""
        if not self._tools.dry:
            wheelhouse.verified(self._tools.checkout)
        self.build("release")
        self._released = True

    def made(self, name: str) -> bool:
        """Whether this run has made the image of this name, for containers to be created of it."""
        prefix, _, target = name.rpartition("/")
        if target == self.roles.release and not self._released:
            return False
        built = tuple(self._built)  # to which another stage may add at this moment
        return prefix == self._tools.image_prefix and any(
            target in self._targets(role) for role in built
        )

    def check_release(self) -> None:
        """Check what the release image holds, before it is ever started.

        Raises StageFailed if a package that its packages require is missing, if it would run as
        root, or if a secret is in its history or configuration.
        """
        try:
            self.build("check")
        except StageFailed as failure:
            raise StageFailed(
                "the release image is not complete",
                evidence=failure.evidence,
                hint="what is missing belongs to the application's locked requirements",
            ) from failure
        if self._tools.dry:
            return
        image = self._tools.engine.image(self.release_id())
        if image is None:
            raise StageFailed("there is no release image", hint="invoke release.image builds it")
        if image.user.split(":")[0] in {"", "0", "root"}:
            raise StageFailed("the release image runs as root", hint="its Dockerfile lacks a USER")
        shown = json.dumps(image.configuration) + "\n".join(self._tools.engine.history(image.id))
        if self._tools.console.mask(shown) != shown:
            raise StageFailed(
                "the release image has a secret in its configuration or history",
                hint="hand secrets to builds with RUN --mount=type=secret",
            )

    def _require_versions(self) -> None:
        """Ask once whether engine and client are new enough: every way begins with a build."""
        if not self._versions_suffice:
            versions.require(self._tools)
            self._versions_suffice = True

    def base_id(self) -> str:
        """Return the ID of the image beneath all others; empty if there is none."""
        return self._id_of(self.roles.base)

    def release_id(self) -> str:
        """Return the ID of the release image that was built last; empty if there is none."""
        return self._id_of(self.roles.release)

    def accepted_id(self) -> str:
        """Return the ID of the release image that was accepted last; empty if there is none."""
        return self._id_of("accepted")

    def _id_of(self, target: str) -> str:
        if self._tools.dry:
            return ""
        image = self._tools.engine.image(f"{self._tools.image_prefix}/{target}")
        return image.id if image else ""

    def _of_wheels(self, roles: Sequence[str]) -> dict[str, str]:
        """Return what a build of these has to be told of the wheels that it installs.

        WHEELS is a context, as bake names it: what the same graph builds, or the wheelhouse that is
        there, laid out anew. VERSION is the application's.
        """
        if not _OF_WHEELS & set(roles):
            return {}
        checkout = self._tools.checkout
        if "wheelhouse" in roles:
            wheels = f"target:{self.roles.wheelhouse}"
            return {"WHEELS": wheels, "VERSION": source.version(checkout.root)}
        version = "" if self._tools.dry else wheelhouse.lay_out(checkout).version
        return {"WHEELS": self._seen(wheelhouse.layout_folder(checkout)), "VERSION": version}

    def _environment(self, base_source: str) -> dict[str, str]:
        tools = self._tools
        build = tools.checkout.target / "build"
        secrets = buildsecrets.BuildSecrets(build / "pip.conf", build / "ca.pem")
        if not tools.dry:
            secrets = buildsecrets.write(build, tools.environ)
        return {
            **tools.settings.compose_environment(),
            "CHECKOUT": tools.checkout.id,
            "IMAGE_PREFIX": tools.image_prefix,
            "BASE_SOURCE": base_source,
            "CHANGED": str(self._source.changed),
            "EXPORT_FOLDER": self._seen(wheelhouse.export_folder(tools.checkout)),
            "WHEELS": ".",  # of those that install none, as the file wants it
            "VERSION": "",
            "REVISION": self._source.revision,
            "SOURCE": self._source.address,
            "CREATED": self._source.created,
            "PIP_CONF": self._seen(secrets.pip_conf),
            "CA_FILE": self._seen(secrets.ca_file),
            # Else buildx asks git seven questions for each target: the labels say what it is of.
            "BUILDX_GIT_INFO": "0",
        }

    def _seen(self, path: Path) -> str:
        """Return a path as seen from the compose folder, in which builds run.

        Parts of an absolute one would not survive: bake writes paths into lists with commas.
        """
        return os.path.relpath(path, self._tools.compose_folder)


def read_config(tools: Tools, project: str, file: str, environment: dict[str, str]) -> str:
    """Return what `docker compose config` resolves a file of `compose/` to.

    Raises Misconfigured if Compose does not take it, naming a variable that has no value.
    """
    try:
        return tools.processes.read(
            compose.config(project, file), environment=environment, folder=tools.compose_folder
        )
    except CommandFailed as error:
        unset = _UNSET.search(" ".join(error.output))
        if unset is None:
            if not tools.dry:
                versions.require(tools)  # without its plugin the client refuses all there is
            message = f"Compose does not take compose/{file}"
            raise Misconfigured(message, evidence=error.evidence) from error
        name = tools.settings.name
        raise Misconfigured(
            f"{unset[1]} has no value, and compose/{file} needs one",
            evidence=error.evidence,
            hint=f"set it in env/{name}.env; a secret in env/{name}.secrets.env "
            "or in the process environment",
        ) from error


def failed_step(output: Sequence[str]) -> list[str]:
    """Return of a failed build's output the step that failed and what it printed, once each."""
    found: list[str] = []
    for line in output:
        if match := _FAILED_STEP.fullmatch(line):
            found = [match[1]]
        elif line == _RULE and len(found) > 1:
            break
        elif found:
            found.append(_SECONDS.sub("  ", line))
    return found[:1] + found[1:][-EVIDENCE_LINES:]


class _Steps:
    """Shows of a build's output its steps, each once, and its errors."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def __call__(self, line: str) -> str:
        match = _STEP.match(line)
        if match is None or (match[1] in self._seen and not match[2].startswith("ERROR")):
            return ""
        self._seen.add(match[1])
        return match[2] if len(match[2]) <= STEP_WIDTH else match[2][: STEP_WIDTH - 3] + "..."
