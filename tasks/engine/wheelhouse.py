"""The artifact: the wheels in `target/wheelhouse`, and the record of their hashes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from tasks.engine.checkout import Checkout
from tasks.errors import StageFailed

_PARTS = ("application", "dependencies")


@dataclass(frozen=True)
class Wheelhouse:
    """The wheels by file name, with their SHA-256, in two parts."""

    application: Mapping[str, str]
    dependencies: Mapping[str, str]

    @property
    def version(self) -> str:
        """The version of the application's wheel."""
        return str(parse_wheel_filename(next(iter(self.application)))[1])


def export_folder(checkout: Checkout) -> Path:
    """Return where the builder puts the wheels: a folder of its own for each part."""
    return checkout.target / "build" / "export"


def layout_folder(checkout: Checkout) -> Path:
    """Return from where the release image is installed: laid out anew by `lay_out`."""
    return checkout.target / "build" / "wheels"


def collect(checkout: Checkout) -> Wheelhouse:
    """Move what the builder exported to the wheelhouse, and record the hashes.

    Raises StageFailed if something else than a wheel is among it.
    """
    export = export_folder(checkout)
    house = Wheelhouse(*(_hashed(export / part) for part in _PARTS))
    if len(house.application) != 1:
        names = ", ".join(house.application) or "none"
        raise StageFailed(f"the builder made {names}: one application wheel is expected")
    folder = checkout.target / "wheelhouse"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for part in _PARTS:
        for name in getattr(house, part):
            wheel = export / part / name
            wheel.chmod(0o644)
            wheel.rename(folder / name)
    shutil.rmtree(export)
    record = _record(checkout)
    temporary = record.with_suffix(".tmp")
    temporary.write_text(json.dumps(vars(house), indent=2, sort_keys=True) + "\n")
    temporary.replace(record)
    return house


def verified(checkout: Checkout) -> Wheelhouse:
    """Return the wheelhouse as it was recorded.

    Raises StageFailed if it is not there, or any file of it is not the one that was built.
    """
    record = _record(checkout)
    if not record.exists():
        raise StageFailed("there is no wheelhouse", hint="invoke build.wheels makes it")
    try:
        house = Wheelhouse(**json.loads(record.read_text()))
    except (ValueError, TypeError) as error:
        raise StageFailed(
            f"target/{record.name} is not what was recorded",
            evidence=[str(error)],
            hint="invoke build.wheels builds it anew",
        ) from None
    expected = {**house.application, **house.dependencies}
    found = _hashed(checkout.target / "wheelhouse")
    problems = [
        *(f"{name}: missing" for name in sorted(expected.keys() - found.keys())),
        *(f"{name}: was not built here" for name in sorted(found.keys() - expected.keys())),
        *(
            f"{name}: built as sha256:{expected[name]}, found sha256:{found[name]}"
            for name in sorted(expected.keys() & found.keys())
            if expected[name] != found[name]
        ),
    ]
    if problems:
        raise StageFailed(
            "target/wheelhouse is not what was built",
            evidence=problems,
            hint="invoke build.wheels builds it anew",
        )
    return house


def lay_out(checkout: Checkout) -> Wheelhouse:
    """Lay the verified wheelhouse out for the release image; return it.

    The parts have a folder each, so that the layer of the dependencies does not depend on the
    application's wheel.
    """
    house = verified(checkout)
    layout = layout_folder(checkout)
    shutil.rmtree(layout, ignore_errors=True)
    for part in _PARTS:
        (layout / part).mkdir(parents=True)
        for name in getattr(house, part):
            os.link(checkout.target / "wheelhouse" / name, layout / part / name)
    return house


def _record(checkout: Checkout) -> Path:
    return checkout.target / "wheelhouse.json"


def _hashed(folder: Path) -> dict[str, str]:
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return {path.name: _sha256(path) for path in paths}


def _sha256(path: Path) -> str:
    """Return the hash of a wheel. Raises StageFailed if it is something else, or elsewhere."""
    if path.is_symlink() or not path.is_file():
        raise StageFailed(f"{path.name} is not a plain file", hint="invoke build.wheels")
    try:
        parse_wheel_filename(path.name)
    except InvalidWheelFilename:
        raise StageFailed(
            f"{path.name} is not a wheel",
            hint="require a version that has a wheel for the image's platform",
        ) from None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
