"""The bill of materials: valid, complete, and the same for the same wheels."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tasks.engine import sbom
from tasks.engine.wheelhouse import Wheelhouse

APPLICATION = {"todo_backend-1.2.3-py3-none-any.whl": "aa" * 32}
DEPENDENCIES = {
    "Django-5.2-py3-none-any.whl": "bb" * 32,
    "psycopg_binary-3.2-cp311-cp311-manylinux_2_17_x86_64.whl": "cc" * 32,
    "x-1.0+local.1-2b-py3-none-any.whl": "dd" * 32,
}
HOUSE = Wheelhouse(APPLICATION, DEPENDENCIES)


@pytest.fixture
def document() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(sbom.of(HOUSE))
    return read


def test_it_is_valid_cyclonedx(document: dict[str, Any]) -> None:
    # against the schema that comes with the library: nobody is asked
    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document))
    assert problem is None
    assert document["bomFormat"] == "CycloneDX"
    assert document["specVersion"] == "1.6"


def test_the_validator_would_tell(document: dict[str, Any]) -> None:
    document["components"][0]["hashes"][0]["alg"] = "SHA-1024"
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(json.dumps(document)) is not None


def test_it_is_about_the_application(document: dict[str, Any]) -> None:
    component = document["metadata"]["component"]
    assert component["type"] == "application"
    assert (component["name"], component["version"]) == ("todo-backend", "1.2.3")
    assert component["hashes"] == [{"alg": "SHA-256", "content": "aa" * 32}]


def test_it_lists_each_wheel_by_its_hash_and_address(document: dict[str, Any]) -> None:
    listed = {one["hashes"][0]["content"]: one for one in document["components"]}
    assert listed.keys() == set(DEPENDENCIES.values())
    assert {one["type"] for one in listed.values()} == {"library"}
    django = listed["bb" * 32]
    assert (django["name"], django["version"]) == ("django", "5.2")
    assert django["purl"] == "pkg:pypi/django@5.2?file_name=Django-5.2-py3-none-any.whl"
    assert listed["dd" * 32]["purl"].startswith("pkg:pypi/x@1.0%2Blocal.1?file_name=x-1.0%2Blocal")


def test_the_application_depends_on_all_of_them(document: dict[str, Any]) -> None:
    graph = {one["ref"]: set(one.get("dependsOn", [])) for one in document["dependencies"]}
    references = {one["bom-ref"] for one in document["components"]}
    assert graph[document["metadata"]["component"]["bom-ref"]] == references


def test_the_same_wheels_are_the_same_bytes() -> None:
    backwards = Wheelhouse(APPLICATION, dict(reversed(DEPENDENCIES.items())))
    texts = {hashlib.sha256(sbom.of(house)).hexdigest() for house in (HOUSE, HOUSE, backwards)}
    assert len(texts) == 1


@pytest.mark.parametrize(
    "other",
    [
        Wheelhouse({"todo_backend-1.2.3-py3-none-any.whl": "ab" * 32}, DEPENDENCIES),
        Wheelhouse({"todo_backend-1.2.4-py3-none-any.whl": "aa" * 32}, DEPENDENCIES),
        Wheelhouse(APPLICATION, {}),
    ],
    ids=["another hash", "another version", "no dependencies"],
)
def test_other_wheels_are_other_bytes(other: Wheelhouse) -> None:
    assert sbom.of(other) != sbom.of(HOUSE)
    text = sbom.of(other).decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


def test_nothing_of_the_moment_or_the_machine_is_in_it(document: dict[str, Any]) -> None:
    assert "timestamp" not in document["metadata"]
    other = json.loads(sbom.of(Wheelhouse(APPLICATION, {})))
    assert document["serialNumber"] != other["serialNumber"]
    assert document["serialNumber"].startswith("urn:uuid:")
