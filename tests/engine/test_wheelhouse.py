"""The artifact: collected, recorded, and refused when it is not what was built."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.engine import wheelhouse
from tasks.engine.checkout import Checkout
from tasks.errors import StageFailed

APPLICATION = "todo-1.2.3-py3-none-any.whl"
ONE = "one_thing-1.0-py3-none-any.whl"
TWO = "two-2.0-cp311-cp311-manylinux_2_17_x86_64.whl"

Export = Callable[..., None]


@pytest.fixture
def export(checkout: Checkout) -> Export:
    """Return a function that does what the builder does: puts files in the export folder."""

    def put(
        application: tuple[str, ...] = (APPLICATION,), dependencies: tuple[str, ...] = (ONE, TWO)
    ) -> None:
        for part, names in (("application", application), ("dependencies", dependencies)):
            folder = wheelhouse.export_folder(checkout) / part
            folder.mkdir(parents=True, exist_ok=True)
            for name in names:
                (folder / name).write_bytes(f"content of {name}".encode())
                (folder / name).chmod(0o600)

    return put


@pytest.fixture
def house(checkout: Checkout, export: Export) -> Path:
    """Return the folder of a wheelhouse that is as it should be."""
    export()
    wheelhouse.collect(checkout)
    return checkout.target / "wheelhouse"


def refused(action: Callable[[Checkout], object], checkout: Checkout) -> StageFailed:
    with pytest.raises(StageFailed) as caught:
        action(checkout)
    assert caught.value.exit_code == 1
    return caught.value


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def digest(name: str) -> str:
    return hashlib.sha256(f"content of {name}".encode()).hexdigest()


# --- collected -----------------------------------------------------------------------------------


def test_what_was_built_is_taken_over(checkout: Checkout, export: Export) -> None:
    export()
    collected = wheelhouse.collect(checkout)
    assert collected.application == {APPLICATION: digest(APPLICATION)}
    assert collected.dependencies == {ONE: digest(ONE), TWO: digest(TWO)}
    assert collected.version == "1.2.3"
    folder = checkout.target / "wheelhouse"
    assert names(folder) == sorted([APPLICATION, ONE, TWO])
    # a builder that runs as root leaves files that only root may read
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o644}
    assert not wheelhouse.export_folder(checkout).exists()


def test_the_record_is_read_back_as_it_was(checkout: Checkout, export: Export) -> None:
    export()
    assert wheelhouse.collect(checkout) == wheelhouse.verified(checkout)
    assert not list(checkout.target.glob("*.tmp"))


def test_the_record_does_not_depend_on_the_order_of_files(
    checkout: Checkout, export: Export
) -> None:
    texts = []
    for dependencies in ((ONE, TWO), (TWO, ONE)):
        export(dependencies=dependencies)
        wheelhouse.collect(checkout)
        texts.append((checkout.target / "wheelhouse.json").read_text())
    assert texts[0] == texts[1]


def test_nothing_of_an_earlier_wheelhouse_stays(
    checkout: Checkout, house: Path, export: Export
) -> None:
    export(application=("todo-2.0-py3-none-any.whl",), dependencies=(TWO,))
    wheelhouse.collect(checkout)
    assert names(house) == ["todo-2.0-py3-none-any.whl", TWO]
    assert wheelhouse.verified(checkout).version == "2.0"


@pytest.mark.parametrize("made", [True, False], ids=["empty folder", "no folder"])
def test_an_application_without_dependencies(
    checkout: Checkout, export: Export, *, made: bool
) -> None:
    export(dependencies=())
    if not made:
        (wheelhouse.export_folder(checkout) / "dependencies").rmdir()
    assert wheelhouse.collect(checkout).dependencies == {}
    assert names(checkout.target / "wheelhouse") == [APPLICATION]


@pytest.mark.parametrize(
    ("application", "told"),
    [
        ((), "none"),
        ((APPLICATION, "todo-1.2.4-py3-none-any.whl"), f"{APPLICATION}, todo-1.2.4"),
    ],
)
def test_the_application_is_one_wheel(
    checkout: Checkout, house: Path, export: Export, application: tuple[str, ...], told: str
) -> None:
    before = names(house)
    export(application=application)
    failure = refused(wheelhouse.collect, checkout)
    assert failure.message.startswith(f"the builder made {told}")
    assert "one application wheel is expected" in failure.message
    assert names(house) == before


def test_a_builder_that_exported_nothing(checkout: Checkout) -> None:
    assert refused(wheelhouse.collect, checkout).message.startswith("the builder made none")


@pytest.mark.parametrize(
    "name",
    ["one-1.0.tar.gz", "one-1.0.zip", "README.txt", "nonsense.whl", "one-1.0-py3.whl"],
)
def test_something_else_than_a_wheel_is_refused(
    checkout: Checkout, house: Path, export: Export, name: str
) -> None:
    before = names(house)
    export(dependencies=(ONE, name))
    failure = refused(wheelhouse.collect, checkout)
    assert failure.message == f"{name} is not a wheel"
    assert "platform" in failure.hint
    # the old wheelhouse is intact
    assert names(house) == before
    wheelhouse.verified(checkout)


def test_a_folder_among_the_wheels_is_refused(checkout: Checkout, export: Export) -> None:
    export()
    (wheelhouse.export_folder(checkout) / "dependencies" / "two-3.0-py3-none-any.whl").mkdir()
    assert refused(wheelhouse.collect, checkout).message.endswith("is not a plain file")


def test_a_link_among_what_was_built_is_refused(
    checkout: Checkout, export: Export, tmp_path: Path
) -> None:
    export()
    outside = tmp_path / "outside.whl"
    outside.write_text("secret")
    link = wheelhouse.export_folder(checkout) / "dependencies" / "three-3.0-py3-none-any.whl"
    link.symlink_to(outside)
    failure = refused(wheelhouse.collect, checkout)
    assert failure.message == "three-3.0-py3-none-any.whl is not a plain file"
    assert outside.read_text() == "secret"


# --- verified ------------------------------------------------------------------------------------


def test_what_was_built_is_what_is_there(checkout: Checkout, house: Path) -> None:
    assert {*wheelhouse.verified(checkout).application} == {APPLICATION}
    assert house.is_dir()


def test_there_is_none(checkout: Checkout) -> None:
    failure = refused(wheelhouse.verified, checkout)
    assert failure.message == "there is no wheelhouse"
    assert failure.hint == "invoke build.wheels makes it"


def test_one_byte_changed(checkout: Checkout, house: Path) -> None:
    (house / ONE).write_bytes(f"Content of {ONE}".encode())
    failure = refused(wheelhouse.verified, checkout)
    assert failure.message == "target/wheelhouse is not what was built"
    found = hashlib.sha256(f"Content of {ONE}".encode()).hexdigest()
    assert failure.evidence == (f"{ONE}: built as sha256:{digest(ONE)}, found sha256:{found}",)
    assert "build.wheels" in failure.hint


def test_one_missing(checkout: Checkout, house: Path) -> None:
    (house / TWO).unlink()
    assert refused(wheelhouse.verified, checkout).evidence == (f"{TWO}: missing",)


def test_all_missing(checkout: Checkout, house: Path) -> None:
    for path in house.iterdir():
        path.unlink()
    house.rmdir()
    failure = refused(wheelhouse.verified, checkout)
    assert failure.evidence == tuple(f"{name}: missing" for name in sorted([APPLICATION, ONE, TWO]))


def test_one_too_many(checkout: Checkout, house: Path) -> None:
    (house / "evil-1.0-py3-none-any.whl").write_text("not yours")
    failure = refused(wheelhouse.verified, checkout)
    assert failure.evidence == ("evil-1.0-py3-none-any.whl: was not built here",)


def test_all_that_is_wrong_is_told_at_once(checkout: Checkout, house: Path) -> None:
    (house / ONE).write_text("changed")
    (house / TWO).rename(house / "two-2.1-py3-none-any.whl")
    told = refused(wheelhouse.verified, checkout).evidence
    assert [line.split(":")[0] for line in told] == [TWO, "two-2.1-py3-none-any.whl", ONE]


@pytest.mark.parametrize("where", ["outside", "inside", "nowhere"])
def test_a_link_in_place_of_a_wheel(
    checkout: Checkout, house: Path, tmp_path: Path, where: str
) -> None:
    # Even one with the very content that was built: what it points to may change at any time.
    target = {"outside": tmp_path / "one", "inside": house / TWO, "nowhere": house / "gone"}[where]
    if where == "outside":
        target.write_bytes(f"content of {ONE}".encode())
    (house / ONE).unlink()
    (house / ONE).symlink_to(target)
    failure = refused(wheelhouse.verified, checkout)
    assert failure.message == f"{ONE} is not a plain file"
    assert "build.wheels" in failure.hint


def test_a_pipe_in_place_of_a_wheel_is_not_waited_for(checkout: Checkout, house: Path) -> None:
    (house / ONE).unlink()
    os.mkfifo(house / ONE)
    assert refused(wheelhouse.verified, checkout).message == f"{ONE} is not a plain file"


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "{}", '{"application": {}}', '{"a": {}, "dependencies": {}}', "\xff"],
)
def test_a_record_that_is_none(checkout: Checkout, house: Path, text: str) -> None:
    record = checkout.target / "wheelhouse.json"
    record.write_bytes(text.encode("latin-1"))
    failure = refused(wheelhouse.verified, checkout)
    assert failure.message == "target/wheelhouse.json is not what was recorded"
    assert house.is_dir()


def test_a_record_that_does_not_fit_the_wheels(checkout: Checkout, house: Path) -> None:
    record = checkout.target / "wheelhouse.json"
    about = json.loads(record.read_text())
    about["dependencies"][ONE] = digest(TWO)
    record.write_text(json.dumps(about))
    assert refused(wheelhouse.verified, checkout).evidence[0].startswith(f"{ONE}: built as sha256:")
    assert house.is_dir()


# --- laid out ------------------------------------------------------------------------------------


def test_the_parts_are_laid_out_apart(checkout: Checkout, house: Path) -> None:
    laid_out = wheelhouse.lay_out(checkout)
    assert laid_out == wheelhouse.verified(checkout)
    layout = wheelhouse.layout_folder(checkout)
    assert names(layout) == ["application", "dependencies"]
    assert names(layout / "application") == [APPLICATION]
    assert names(layout / "dependencies") == [ONE, TWO]
    assert (layout / "dependencies" / ONE).read_bytes() == (house / ONE).read_bytes()


def test_nothing_of_an_earlier_layout_stays(checkout: Checkout, house: Path) -> None:
    stray = wheelhouse.layout_folder(checkout) / "dependencies" / "evil-1.0-py3-none-any.whl"
    stray.parent.mkdir(parents=True)
    stray.write_text("left behind")
    wheelhouse.lay_out(checkout)
    assert not stray.exists()
    assert house.is_dir()


def test_what_was_tampered_with_is_not_laid_out(checkout: Checkout, house: Path) -> None:
    (house / APPLICATION).write_text("tampered")
    refused(wheelhouse.lay_out, checkout)
    assert not wheelhouse.layout_folder(checkout).exists()


def test_taking_the_layout_away_leaves_the_wheelhouse(checkout: Checkout, house: Path) -> None:
    wheelhouse.lay_out(checkout)
    wheelhouse.lay_out(checkout)
    assert names(house) == sorted([APPLICATION, ONE, TWO])
    wheelhouse.verified(checkout)
