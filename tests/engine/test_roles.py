"""Which service plays which role, and what a compose file that does not say so is answered."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from pydantic import ValidationError

from tasks.engine import roles
from tasks.errors import Misconfigured

DATABASE = {"service": "db", "probe": ["ask", "it"]}
UNIT = {"name": "unit", "service": "unit", "report": "/reports/unit.xml"}
ACCEPTANCE = {"name": "acceptance", "service": "specs", "report": "/r.xml", "restart": "web"}

TEST: dict[str, Any] = {
    "x-seatrial": {"database": DATABASE, "tests": [UNIT]},
    "services": {"db": {}, "unit": {}},
}
RELEASE: dict[str, Any] = {
    "x-seatrial": {
        "database": DATABASE,
        "check": ["check"],
        "initialisation": ["static", "schema"],
        "application": "web",
        "frontend": {"service": "proxy", "port": 8080, "probe": ["get"], "expect": "ok"},
        "tests": [ACCEPTANCE],
    },
    "services": {name: {} for name in ("db", "check", "static", "schema", "web", "proxy", "specs")},
}
# Each role a target of its name, or two of them: whatever roles there are.
IMAGES: dict[str, Any] = {
    "x-seatrial": {
        role: role if about.annotation is str else [role, f"{role}-2"]
        for role, about in roles.ImageRoles.model_fields.items()
    },
    "services": {f"{role}{n}": {} for role in roles.ImageRoles.model_fields for n in ("", "-2")},
}


def parsed_test(document: dict[str, Any]) -> roles.TestRoles:
    return roles.parse(json.dumps(document), roles.TestRoles, "test.yaml")


def parsed_release(document: dict[str, Any]) -> roles.ReleaseRoles:
    return roles.parse(json.dumps(document), roles.ReleaseRoles, "release.yaml")


def changed(document: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """Return the document with another value in its x-seatrial part; None takes the key away."""
    new = copy.deepcopy(document)
    *folders, last = path.split(".")
    part = new["x-seatrial"]
    for folder in folders:
        part = part[int(folder) if folder.isdigit() else folder]
    if value is None:
        del part[last]
    else:
        part[last] = value
    return new


# --- understood ----------------------------------------------------------------------------------


def test_roles_of_a_test_environment() -> None:
    found = parsed_test(TEST)
    assert found.database == roles.Probed(service="db", probe=("ask", "it"), expect="")
    assert found.tests == (
        roles.Tests(name="unit", service="unit", report="/reports/unit.xml", restart=""),
    )


def test_roles_of_a_release_environment() -> None:
    found = parsed_release(RELEASE)
    assert found.application == "web"
    assert found.initialisation == ("static", "schema")
    assert (found.frontend.service, found.frontend.port, found.frontend.expect) == (
        "proxy", 8080, "ok",
    )  # fmt: skip
    assert found.tests[0].restart == "web"


def test_several_services_may_make_one_report() -> None:
    tests = [ACCEPTANCE, {**ACCEPTANCE, "service": "proxy"}]
    found = parsed_release(changed(RELEASE, "tests", tests))
    assert [one.service for one in found.tests] == ["specs", "proxy"]


@pytest.mark.parametrize(
    ("written", "meant"),
    [("$$HOME", "$HOME"), ("$$$$", "$$"), ("$", "$"), ("a$$b$$c", "a$b$c"), ("plain", "plain")],
)
def test_the_doubled_dollar_of_compose_is_one(written: str, meant: str) -> None:
    found = parsed_test(changed(TEST, "database.probe", ["sh", "-c", written]))
    assert found.database.probe == ("sh", "-c", meant)


def test_roles_do_not_change() -> None:
    found = parsed_test(TEST)
    with pytest.raises(ValidationError, match="frozen"):
        found.database.service = "other"


# --- not understood ------------------------------------------------------------------------------


def refused(
    document: dict[str, Any], kind: type[roles.ReleaseRoles] = roles.ReleaseRoles
) -> Misconfigured:
    with pytest.raises(Misconfigured) as caught:
        roles.parse(json.dumps(document), kind, "release.yaml")
    assert caught.value.exit_code == 78
    assert "compose/release.yaml" in caught.value.message
    return caught.value


@pytest.mark.parametrize("part", [None, [], "text", 3], ids=repr)
def test_a_part_that_is_no_mapping(part: object) -> None:
    assert refused({**RELEASE, "x-seatrial": part}).evidence


def test_a_file_without_the_part_is_told_every_role_it_lacks() -> None:
    failure = refused({"services": {}})
    assert "does not say which service plays which role" in failure.message
    assert "README" in failure.hint
    missing = {line.split(":")[0] for line in failure.evidence}
    assert missing == {
        f"x-seatrial.{role}"
        for role in ("database", "check", "initialisation", "application", "frontend", "tests")
    }


@pytest.mark.parametrize("role", list(RELEASE["x-seatrial"]))
def test_each_role_has_to_be_played(role: str) -> None:
    failure = refused(changed(RELEASE, role, None))
    assert failure.evidence == (f"x-seatrial.{role}: Field required",)


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("databse", DATABASE, "x-seatrial.databse"),
        ("database.prob", ["x"], "x-seatrial.database.prob"),
        ("database.probe", [], "x-seatrial.database.probe"),
        ("database.probe", "ask it", "x-seatrial.database.probe"),
        ("database.service", 3, "x-seatrial.database.service"),
        ("frontend.port", None, "x-seatrial.frontend.port"),
        ("frontend.port", "eighty", "x-seatrial.frontend.port"),
        ("tests", [], "x-seatrial.tests"),
        ("tests.0.name", "smoke", "x-seatrial.tests.0.name"),
        ("tests.0.report", None, "x-seatrial.tests.0.report"),
    ],
)
def test_what_is_wrong_is_named_by_its_path(path: str, value: object, named: str) -> None:
    failure = refused(changed(RELEASE, path, value))
    assert failure.evidence[0].split(": ")[0] == named


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("database.service", "nobody"),
        ("check", ["check", "nobody"]),
        ("initialisation", ["nobody"]),
        ("application", "nobody"),
        ("frontend.service", "nobody"),
        ("tests.0.service", "nobody"),
        ("tests.0.restart", "nobody"),
    ],
)
def test_a_role_played_by_a_service_that_is_not_there(path: str, value: object) -> None:
    failure = refused(changed(RELEASE, path, value))
    assert failure.message.endswith("names services that are not there: ['nobody']")


def test_all_services_that_are_not_there_are_named_at_once() -> None:
    document = changed(changed(RELEASE, "application", "b"), "check", ["c", "a"])
    assert "['a', 'b', 'c']" in refused(document).message


def test_image_roles_name_targets() -> None:
    found = roles.parse(json.dumps(IMAGES), roles.ImageRoles, "images.yaml")
    assert found.services == ("services", "services-2")
    assert (found.release, found.wheelhouse) == ("release", "wheelhouse")


def test_a_target_that_is_not_there() -> None:
    with pytest.raises(Misconfigured, match=r"compose/images\.yaml.*\['nobody'\]"):
        roles.parse(
            json.dumps(changed(IMAGES, "services", ["services", "nobody"])),
            roles.ImageRoles,
            "images.yaml",
        )


@pytest.mark.parametrize("role", list(IMAGES["x-seatrial"]))
def test_each_target_has_to_be_named(role: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        roles.parse(json.dumps(changed(IMAGES, role, None)), roles.ImageRoles, "images.yaml")
    assert caught.value.evidence == (f"x-seatrial.{role}: Field required",)
