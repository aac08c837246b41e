"""The bill of materials of a wheelhouse, in CycloneDX."""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.utils import parse_wheel_filename

from tasks.engine.wheelhouse import Wheelhouse

MEDIA_TYPE = "application/vnd.cyclonedx+json"
_NAMESPACE = uuid.UUID("6f6ed3a5-5b2f-5d0e-9a55-3c1d1f4b7a10")


def of(house: Wheelhouse) -> bytes:
    """Return the CycloneDX 1.6 JSON of a wheelhouse: same wheels, same bytes.

    https://cyclonedx.org/docs/1.6/json/
    """
    bom = Bom()
    application = _components(house.application, ComponentType.APPLICATION)[0]
    dependencies = _components(house.dependencies, ComponentType.LIBRARY)
    bom.metadata.component = application
    for component in dependencies:
        bom.components.add(component)
    bom.register_dependency(application, dependencies)
    # What would differ at each run is fixed, or derived from the content.
    bom.serial_number = uuid.uuid5(_NAMESPACE, "\n".join(_all_hashes(house)))
    bom.metadata.timestamp = None  # type: ignore[assignment]
    return JsonV1Dot6(bom).output_as_string(indent=1).encode()


def _components(wheels: Mapping[str, str], kind: ComponentType) -> list[Component]:
    made = []
    for file_name, sha256 in sorted(wheels.items()):
        name, version, _, _ = parse_wheel_filename(file_name)
        address = PackageURL("pypi", None, str(name), str(version), {"file_name": file_name})
        made.append(
            Component(
                name=str(name),
                version=str(version),
                type=kind,
                purl=address,
                bom_ref=address.to_string(),
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256)],
            )
        )
    return made


def _all_hashes(house: Wheelhouse) -> list[str]:
    return sorted([*house.application.values(), *house.dependencies.values()])
