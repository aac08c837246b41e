"""Which service plays which role: the `x-seatrial` part of the compose files, validated.

This is all that the tasks know of an application. The compose file is read as Compose resolved it,
so the roles may use the same variables as the services.
"""

from __future__ import annotations

import json
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.errors import Misconfigured


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Probed(_Part):
    """A service and the question it is asked: `probe` is run in its container.

    The answer is yes if the probe ends with 0 and prints `expect`.
    """

    service: str
    probe: tuple[str, ...] = Field(min_length=1)
    expect: str = ""


class FrontEnd(Probed):
    """The service through which users come in, at its container's `port`."""

    port: int


class Tests(_Part):
    """A service that runs tests and leaves a JUnit file at `report`, a path in its container.

    Before it runs, the service `restart` (if any) is started again and must get ready. Several
    services of one `name` make one report.
    """

    name: Literal["unit", "integration", "acceptance"]
    service: str
    report: str
    restart: str = ""


class TestRoles(_Part):
    """The roles of `compose/test.yaml`."""

    database: Probed
    tests: tuple[Tests, ...]


class ReleaseRoles(_Part):
    """The roles of `compose/release.yaml`."""

    database: Probed
    check: tuple[str, ...]
    initialisation: tuple[str, ...]
    application: str
    frontend: FrontEnd
    tests: tuple[Tests, ...] = Field(min_length=1)


class ImageRoles(_Part):
    """The roles of `compose/images.yaml`: names of bake targets."""

    base: str
    wheelhouse: str
    tests: str
    release: str
    check: str
    acceptance: str
    services: tuple[str, ...]
    publishing: tuple[str, ...]


class PublishRoles(_Part):
    """The roles of `compose/publish.yaml`: the registry and index of this machine."""

    registry: FrontEnd
    index: FrontEnd


Roles = TypeVar("Roles", bound=_Part)


def parse(config: str, kind: type[Roles], file: str) -> Roles:
    """Return the roles that `config` gives: the JSON that `docker compose config` prints.

    `file` is its name, for the errors. Raises Misconfigured if a role is missing, unknown, or
    played by a service that is not there.
    """
    document: dict[str, Any] = json.loads(config)
    # Compose keeps the doubled dollar of its files in what it prints.
    part = json.loads(json.dumps(document.get("x-seatrial", {})).replace("$$", "$"))
    try:
        roles = kind.model_validate(part)
    except ValidationError as error:
        raise Misconfigured(
            f"compose/{file}: x-seatrial does not say which service plays which role",
            evidence=[
                f"x-seatrial.{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
                for problem in error.errors()
            ],
            hint='the README\'s "Adopting it" lists the roles',
        ) from None
    missing = sorted(_services(roles) - set(document["services"]))
    if missing:
        raise Misconfigured(
            f"compose/{file}: x-seatrial names services that are not there: {missing}"
        )
    return roles


def _services(role: Any) -> set[str]:
    """Return the services that a role, or a group of roles, names."""
    match role:
        case Tests():
            return {role.service} | ({role.restart} if role.restart else set())
        case Probed():
            return {role.service}
        case str():
            return {role}
        case tuple():
            return set().union(*map(_services, role))
        case BaseModel():
            return set().union(
                *(_services(getattr(role, name)) for name in type(role).model_fields)
            )
    return set()
