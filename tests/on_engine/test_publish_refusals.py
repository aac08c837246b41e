"""What is not published: whatever was not accepted as it stands. The registry is not even asked."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.on_engine.publishing import SigningKey, edit_json
from tests.on_engine.servers import Registry

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.on_engine.publishing import Port, Release

pytestmark = pytest.mark.engine

GOALS = ("publish.image", "publish.artifact")


def edit_statement(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change what a receipt says; its signatures stay as they are."""

    def changed(envelope: dict[str, Any]) -> None:
        statement = json.loads(base64.b64decode(envelope["payload"]))
        edit(statement)
        envelope["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()

    edit_json(path, changed)


def receipt(release: Release, stage: str) -> Path:
    return release.target / "receipts" / f"{stage}.json"


# --- the environment and the tree ----------------------------------------------------------------


def test_an_environment_that_publishes_nothing(port: Port) -> None:
    says = ("the environment local publishes nothing", "PUBLISH=on in env/local.env allows it")
    port.fails(78, "publish", says=says, PUBLISH="off")
    port.require_untouched()


def test_an_environment_without_a_key(port: Port) -> None:
    port.fails(
        78, "publish", says=("there is no key to trust", "TRUSTED_KEYS"), INVOKE_ENV="shared"
    )
    port.require_untouched()


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"TRUSTED_KEYS": "nonsense"}, "the trusted keys are no public keys in PEM"),
        ({"TRUSTED_KEYS_FILE": "missing.pub"}, "TRUSTED_KEYS_FILE: missing.pub cannot be read"),
        ({"TRUSTED_KEYS_FILE": "target/empty"}, "TRUSTED_KEYS_FILE: target/empty is empty"),
        ({"SIGNING_KEY_FILE": "README.md"}, "the signing key is no private key in PEM"),
    ],
)
def test_a_key_that_is_none(port: Port, variables: dict[str, str], says: str) -> None:
    (port.release.target / "empty").touch()
    port.fails(78, *GOALS, says=(says,), **variables)
    port.require_untouched()


def test_a_dirty_tree(port: Port) -> None:
    (port.checkout.root / "README.md").write_text("not committed\n")
    says = (
        "what is not committed is not published to others",
        f"revision {port.release.revision}-dirty",
        "commit, then invoke release.acceptance",
    )
    port.fails(78, *GOALS, says=says)
    port.require_untouched()
    # and the tests are not run for nothing before that is said
    port.fails(78, "publish", says=says)
    assert "acceptance.run" not in port.checkout.log()


def test_another_commit(port: Port) -> None:
    port.checkout.write("README.md", "another commit\n")
    now = port.checkout.git("rev-parse", "HEAD").strip()
    says = (
        "what is checked out is not what was accepted",
        f"accepted from {port.release.revision}",
        f"now {now}",
    )
    port.fails(78, *GOALS, says=says)
    port.require_untouched()


def test_nothing_was_accepted(port: Port) -> None:
    receipt(port.release, "acceptance").unlink()
    says = ("there is no receipt of acceptance", "invoke release.acceptance writes them")
    port.fails(1, *GOALS, says=says)
    port.require_untouched()


# --- receipts ------------------------------------------------------------------------------------


def other_image(statement: dict[str, Any]) -> None:
    (subject,) = [one for one in statement["subject"] if one["name"] == "release"]
    subject["digest"]["sha256"] = "00" * 32


def other_wheel(statement: dict[str, Any]) -> None:
    wheel = next(one for one in statement["subject"] if one["name"].endswith(".whl"))
    wheel["digest"]["sha256"] = "00" * 32


def better_counts(statement: dict[str, Any]) -> None:
    (report,) = [
        one for one in statement["predicate"]["configuration"] if one["name"] == "acceptance.xml"
    ]
    report["annotations"]["passed"] = "1000"


def other_environment(statement: dict[str, Any]) -> None:
    (one,) = [
        one for one in statement["predicate"]["configuration"] if one["name"] == "environment"
    ]
    one["uri"] = "seatrial:environment:ci"


def other_commit(statement: dict[str, Any]) -> None:
    (one,) = [one for one in statement["predicate"]["configuration"] if one["name"] == "source"]
    one["digest"]["gitCommit"] = "01" * 20


EDITS = {
    "image": (other_image, "receipt image: subject: the image was built anew"),
    "wheel": (other_wheel, "receipt wheels: subject: other wheels"),
    "counts": (better_counts, "receipt acceptance: counts: ('1000', "),
    "environment": (other_environment, "receipt acceptance: environment: ci, not local"),
    "commit": (other_commit, "receipts: source: they speak of different commits"),
    "result": (
        lambda statement: statement["predicate"].update(result="FAILED"),
        "receipt acceptance: result",
    ),
    "subject": (lambda statement: statement.pop("subject"), "receipt acceptance: statement: "),
}


@pytest.mark.parametrize(("edit", "says"), EDITS.values(), ids=EDITS)
def test_a_receipt_was_edited(
    port: Port, edit: Callable[[dict[str, Any]], object], says: str
) -> None:
    # Nobody has signed it: it is refused for what it says.
    edit_statement(receipt(port.release, "acceptance"), edit)
    port.fails(1, *GOALS, says=(says,))
    port.require_untouched()


def test_a_report_was_edited(port: Port) -> None:
    report = port.release.target / "reports" / "unit.xml"
    report.write_text(report.read_text().replace("testcase", "testCase", 1))
    says = ("receipt unit: report: unit.xml is another than the one it was written for",)
    port.fails(1, *GOALS, says=says)
    port.require_untouched()


def test_a_receipt_is_garbage(port: Port) -> None:
    receipt(port.release, "image").write_text("garbage")
    port.fails(1, *GOALS, says=("receipt image: envelope: ",))
    port.require_untouched()


@pytest.fixture
def signed(port: Port, shared_release: Release, signing_key: SigningKey) -> Port:
    """Return a port to publish to in an environment whose receipts are signed."""
    assert port.release is shared_release
    port.settings = {"INVOKE_ENV": "shared", "TRUSTED_KEYS_FILE": str(signing_key.public)}
    return port


@pytest.mark.parametrize("stage", ["unit", "integration", "wheels", "image", "acceptance"])
def test_a_signed_receipt_was_edited(signed: Port, stage: str) -> None:
    # in a way that would pass unnoticed, but for the signature
    edit_statement(
        receipt(signed.release, stage), lambda statement: statement["predicate"].update(more="x")
    )
    signed.fails(1, *GOALS, says=(f"receipt {stage}: signature: by no trusted key, or of another",))
    signed.require_untouched()


def test_an_unsigned_receipt_of_an_environment_that_wants_signed_ones(signed: Port) -> None:
    edit_json(receipt(signed.release, "unit"), lambda envelope: envelope.update(signatures=[]))
    signed.fails(1, *GOALS, says=("receipt unit: signature: ", "(signed by nobody)"))
    signed.require_untouched()


def test_signed_by_another_key(signed: Port, tmp_path: Path) -> None:
    theirs = SigningKey.made(tmp_path, "theirs")
    says = ("receipt unit: signature: by no trusted key, or of another text (signed by ",)
    signed.fails(1, *GOALS, says=says, TRUSTED_KEYS_FILE=str(theirs.public))
    # the key that we would sign with is trusted where none is named: it is not that one either
    signed.fails(1, *GOALS, says=says, TRUSTED_KEYS_FILE="", SIGNING_KEY_FILE=str(theirs.private))
    signed.require_untouched()


def test_the_receipts_of_another_environment(signed: Port) -> None:
    # what `local` accepted, without a signature, is not what this environment wants
    signed.release.restore("local")
    signed.fails(1, *GOALS, says=("receipt unit: signature: ", "(signed by nobody)"))
    signed.require_untouched()


# --- the image and the wheels --------------------------------------------------------------------


@pytest.fixture(scope="module")
def _rebuilt(released: Release) -> str:
    """Build another image after the acceptance; return the commit, with `target/` kept under it."""
    released.restore()
    released.checkout.change(
        "app/todo/health.py", "The health check.", "The health check, changed."
    )
    released.checkout.passes("release.image")
    commit = released.checkout.git("rev-parse", "HEAD").strip()
    shutil.copytree(released.target, released.kept / commit)
    released.restore()
    return commit


@pytest.fixture
def rebuilt(port: Port, _rebuilt: str) -> Path:
    """Return, in a checkout where another image was built, what is kept of the acceptance."""
    port.release.restore(_rebuilt)
    port.checkout.git("reset", "--quiet", "--hard", _rebuilt)
    return port.release.kept / "local"


def test_the_image_was_built_anew_after_its_acceptance(port: Port, rebuilt: Path) -> None:
    assert rebuilt.is_dir()
    accepted = port.release.image_id
    built = port.checkout.client.images.get(port.checkout.image("app")).id
    assert built != accepted
    says = (
        "receipt image: subject: the image was built anew after its acceptance",
        f"accepted: {accepted}",
        f"built:    {built}",
        "invoke release.acceptance",
    )
    port.fails(1, *GOALS, says=says)
    port.require_untouched()
    # what was accepted is still on the engine, for whoever goes back to it
    assert port.checkout.client.images.get(f"{port.checkout.image('accepted')}").id == accepted


def test_the_receipts_of_an_earlier_commit_are_replayed(port: Port, rebuilt: Path) -> None:
    # all of them, and its reports: they agree with one another, but not with what is here
    for name in ("receipts", "reports"):
        shutil.copytree(rebuilt / name, port.release.target / name, dirs_exist_ok=True)
    says = ("target/wheelhouse holds other wheels than those accepted",)
    port.fails(1, *GOALS, says=says)
    # and with its wheels it would be what was accepted then: not what is checked out now
    shutil.rmtree(port.release.target / "wheelhouse")
    shutil.copytree(rebuilt / "wheelhouse", port.release.target / "wheelhouse")
    shutil.copy(rebuilt / "wheelhouse.json", port.release.target)
    port.fails(78, *GOALS, says=("what is checked out is not what was accepted",))
    port.require_untouched()


def test_the_receipt_of_another_image_is_replayed(port: Port, rebuilt: Path) -> None:
    # the acceptance of before, for the image of now
    shutil.copy(rebuilt / "receipts" / "acceptance.json", receipt(port.release, "acceptance"))
    port.fails(1, *GOALS, says=("receipt image: subject: the image was built anew",))
    port.require_untouched()


def test_the_accepted_image_is_gone(port: Port) -> None:
    client, accepted = port.checkout.client, port.release.image_id
    names = client.images.get(accepted).tags
    try:
        client.images.remove(accepted, force=True)
        port.fails(1, *GOALS, says=(f"the engine has no image {accepted}, which was accepted",))
        port.require_untouched()
    finally:
        # From the registry of this machine, where it was published.
        container = port.checkout.running("registry")
        assert container is not None
        address = Registry(container, 5000).address
        image = client.images.pull(f"{address}/seatrial", "latest")
        for name in names:
            image.tag(*name.rsplit(":", 1))
    assert image.id == accepted


def some_wheel(port: Port) -> Path:
    (wheel,) = (port.release.target / "wheelhouse").glob("sqlparse-*.whl")
    return wheel


def test_a_wheel_was_tampered_with(port: Port) -> None:
    wheel = some_wheel(port)
    wheel.write_bytes(wheel.read_bytes() + b"\0")
    sha256 = port.release.wheels[wheel.name]
    says = ("target/wheelhouse is not what was built", f"{wheel.name}: built as sha256:{sha256}")
    port.fails(1, *GOALS, says=says)
    port.require_untouched()


def test_a_wheel_is_a_link_that_points_outside(port: Port, tmp_path: Path) -> None:
    wheel = some_wheel(port)
    outside = tmp_path / wheel.name
    wheel.rename(outside)
    wheel.symlink_to(outside)
    port.fails(1, *GOALS, says=(f"{wheel.name} is not a plain file",))
    port.require_untouched()
    # nor is a release built from it: the wheels are built anew
    result = port.checkout.invoke("release.image")
    assert result.code == 0, result.text
    assert wheel.is_file()
    assert not wheel.is_symlink()


def test_a_wheel_too_many(port: Port) -> None:
    stranger = some_wheel(port).with_name("stranger-1.0-py3-none-any.whl")
    stranger.write_bytes(b"unknown here")
    port.fails(1, *GOALS, says=(f"{stranger.name}: was not built here",))
    port.require_untouched()


def test_wheels_and_their_record_were_exchanged(port: Port) -> None:
    # the record says what is there; the receipts say what was accepted
    wheel = some_wheel(port)
    wheel.write_bytes(b"something else")
    sha256 = hashlib.sha256(b"something else").hexdigest()
    record = port.release.target / "wheelhouse.json"
    edit_json(record, lambda house: house["dependencies"].update({wheel.name: sha256}))
    port.fails(1, *GOALS, says=("target/wheelhouse holds other wheels than those accepted",))
    port.require_untouched()


# --- what is built -------------------------------------------------------------------------------

DOWNLOADED = "--only-binary=:all: --dest=/wheels -r /tmp/requirements.lock"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("mv /wheels/sqlparse-*.whl /wheels/sqlparse-1.tar.gz", "sqlparse-1.tar.gz is not a wheel"),
        ("mv /wheels/sqlparse-*.whl /wheels/sqlparse-1-cp311-cp311-win_amd64.whl", "win_amd64"),
        ("ln -s /etc/passwd /wheels/evil-1.0-py3-none-any.whl", "evil-1.0-py3-none-any.whl"),
    ],
    ids=["an sdist", "for another platform", "a link"],
)
def test_what_is_built_of_other_things_than_wheels(
    release: Release, command: str, says: str
) -> None:
    checkout = release.checkout
    checkout.change("compose/app/Dockerfile", DOWNLOADED, f"{DOWNLOADED} && {command}")
    checkout.fails(1, "release.image", says=(says,), keeps=True)
    assert not (release.target / "receipts" / "image.json").exists()


def test_the_acceptance_comes_first(release: Release) -> None:
    # What was accepted is not what is there now, and that does not pass.
    checkout = release.checkout
    checkout.write("app/acceptance/test_fails.py", "def test_fails() -> None:\n    assert False\n")
    checkout.fails(1, "publish", says=("tests: ", "1 failed", "test_fails"), keeps=True)
    assert "acceptance.run | started" in checkout.log()
    assert "publish.all | started" not in checkout.log()
    assert not (release.target / "receipts" / "acceptance.json").exists()
    checkout.fails(1, *GOALS, says=("there is no receipt of acceptance",), keeps=True)
