"""The witness: what the receipts of each stage say, and who signs for it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tasks.engine import receipts, shelf, verification, wheelhouse, witness
from tasks.engine.receipts import Receipt
from tasks.engine.reports import Counts
from tasks.engine.source import UNVERSIONED, Source
from tasks.engine.tools import Tools
from tasks.engine.verification import Evidence
from tasks.engine.witness import Witness
from tasks.errors import Misconfigured, StageFailed
from tests.engine.conftest import Workshop
from tests.engine.evidence import COMMIT, KEY

SOURCE = Source(COMMIT, 1_700_000_000, "https://git.example.org/todo")
IDS = {"db": "d0" * 32, "nginx": "09" * 32, "app": "a0" * 32, "unit": "70" * 32,
       "integration": "71" * 32, "test": "72" * 32}  # fmt: skip
APPLICATION, DEPENDENCY = "todo-1.0-py3-none-any.whl", "django-5.2-py3-none-any.whl"
HIDDEN = "APP_X_SECRET"
COUNTS = Counts(2, 0, 1, ("t::a", "t::b"))
JUNIT = (
    b'<testsuites><testsuite><testcase classname="t" name="a"/><testcase classname="t" name="b"/>'
    b'<testcase classname="t" name="c"><skipped/></testcase></testsuite></testsuites>'
)


@dataclass
class Environment:
    """A test or release environment: what the witness asks of one."""

    roles: Any
    configuration: str = "services: {}"
    own: bool = False
    images: Mapping[str, str] = field(
        default_factory=lambda: {name: f"sha256:{digest}" for name, digest in IDS.items()}
    )

    def images_in_use(self) -> Mapping[str, str]:
        return self.images


def test_environment(**changes: Any) -> Any:
    roles = SimpleNamespace(
        database=SimpleNamespace(service="db"),
        tests=[
            SimpleNamespace(name="unit", service="unit"),
            SimpleNamespace(name="integration", service="integration"),
        ],
    )
    return Environment(roles, **changes)


test_environment.__test__ = False  # type: ignore[attr-defined]


def release_environment(**changes: Any) -> Any:
    roles = SimpleNamespace(
        database=SimpleNamespace(service="db"),
        frontend=SimpleNamespace(service="nginx"),
        application="app",
        tests=[SimpleNamespace(name="acceptance", service="test")],
    )
    return Environment(roles, **changes)


@dataclass
class TaggingEngine:
    """An engine that notes which names it is told to give."""

    names: dict[str, str] = field(default_factory=dict)

    def tag(self, image_id: str, name: str) -> None:
        self.names[name] = image_id


@pytest.fixture
def tools(workshop: Workshop) -> Tools:
    """Return tools, in a checkout with a wheelhouse and reports."""
    target = workshop.checkout.target
    for part, name in (("application", APPLICATION), ("dependencies", DEPENDENCY)):
        folder = wheelhouse.export_folder(workshop.checkout) / part
        folder.mkdir(parents=True)
        (folder / name).write_bytes(f"content of {name}".encode())
    wheelhouse.collect(workshop.checkout)
    (target / "reports").mkdir()
    for name in verification.TEST_STAGES:
        (target / "reports" / f"{name}.xml").write_bytes(JUNIT)
    engine = cast("Any", TaggingEngine())
    return replace(workshop.tools(dry=False, **{HIDDEN: "hush, all of you"}), engine=engine)


def sees(tools: Tools, source: Source = SOURCE) -> Witness:
    return Witness(tools, source, "20260101-000000-abcd")


def all_of_it(tools: Tools, source: Source = SOURCE) -> None:
    """See a whole release pass."""
    saw = sees(tools, source)
    saw.tests("unit", test_environment(), COUNTS)
    saw.tests("integration", test_environment(), COUNTS)
    saw.wheels("sha256:" + "ba" * 32)
    saw.image("sha256:" + IDS["app"], "sha256:" + "ba" * 32)
    saw.acceptance(release_environment(), COUNTS)


def read(tools: Tools, stage: str) -> Receipt:
    return receipts.open_sealed(stage, shelf.content(tools.checkout.target, stage), [])


def sha256(name: str) -> str:
    return hashlib.sha256(f"content of {name}".encode()).hexdigest()


WHEELS = {APPLICATION: sha256(APPLICATION), DEPENDENCY: sha256(DEPENDENCY)}


# --- what they say -------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", verification.TEST_STAGES)
def test_with_what_tests_were_judged(tools: Tools, stage: str) -> None:
    all_of_it(tools)
    receipt = read(tools, stage)
    assert receipt.predicate_type == receipts.TEST_RESULT
    assert receipt.result == "PASSED"
    assert receipt.predicate["passedTests"] == ["t::a", "t::b"]
    inputs = receipt.inputs
    assert inputs["source"].digest == {"gitCommit": COMMIT}
    assert inputs["source"].uri == "https://git.example.org/todo"
    assert inputs["source"].notes == {"dirty": "no"}
    assert inputs["environment"].uri == "seatrial:environment:local"
    configuration = hashlib.sha256(b"services: {}").hexdigest()
    assert inputs["configuration"].digest == {"sha256": configuration}
    assert inputs["seatrial"].uri == witness.builder()
    assert inputs["run"].uri == "seatrial:run:20260101-000000-abcd"
    assert inputs["run"].notes.keys() == {"started", "finished"}
    report = inputs[f"{stage}.xml"]
    assert report.digest == {"sha256": hashlib.sha256(JUNIT).hexdigest()}
    assert report.notes == {"passed": "2", "failed": "0", "skipped": "1"}


def test_which_images_were_judged_and_by_which(tools: Tools) -> None:
    all_of_it(tools)
    assert read(tools, "unit").subjects == {"tests": IDS["unit"]}
    assert read(tools, "integration").subjects == {"tests": IDS["integration"]}
    assert read(tools, "acceptance").subjects == {"release": IDS["app"], **WHEELS}

    def images(stage: str) -> dict[str, str]:
        things = read(tools, stage).inputs.items()
        return {name[6:]: one.digest["sha256"] for name, one in things if name[:6] == "image:"}

    assert images("unit") == {}
    assert images("integration") == {"db": IDS["db"]}
    assert images("acceptance") == {name: IDS[name] for name in ("db", "nginx", "test")}


def test_what_was_built_of_what(tools: Tools) -> None:
    all_of_it(tools)
    for stage, subjects in (("wheels", WHEELS), ("image", {"release": IDS["app"]})):
        receipt = read(tools, stage)
        assert receipt.predicate_type == receipts.PROVENANCE
        assert receipt.subjects == subjects
        assert receipt.inputs["source"].digest == {"gitCommit": COMMIT}
        assert receipt.inputs["image:base"].digest == {"sha256": "ba" * 32}
        details = receipt.predicate["runDetails"]
        assert details["builder"]["id"] == witness.builder()
        assert details["metadata"]["invocationId"] == "20260101-000000-abcd"
    of = read(tools, "image").inputs
    assert {name: of[name].digest["sha256"] for name in WHEELS} == WHEELS


@pytest.mark.parametrize(
    ("source", "commit", "dirty"),
    [
        (SOURCE, COMMIT, False),
        (replace(SOURCE, revision=f"{COMMIT}-dirty"), COMMIT, True),
        (Source(UNVERSIONED, 0, ""), UNVERSIONED, True),
    ],
    ids=["clean", "dirty", "no git"],
)
def test_what_they_say_is_accepted(
    tools: Tools, source: Source, commit: str, *, dirty: bool
) -> None:
    all_of_it(tools, source)
    target = tools.checkout.target
    evidence = Evidence(
        {stage: shelf.content(target, stage) for stage in shelf.STAGES},
        dict.fromkeys(verification.TEST_STAGES, JUNIT),
    )
    accepted = verification.judge(evidence, "local", [])
    assert accepted.image_id == f"sha256:{IDS['app']}"
    assert accepted.wheels == WHEELS
    assert (accepted.revision, accepted.dirty) == (commit, dirty)


def test_no_secret_is_in_them_but_they_tell_if_one_changes(
    tools: Tools, workshop: Workshop
) -> None:
    all_of_it(tools)
    text = b"".join(
        path.read_bytes() for path in (tools.checkout.target / "receipts").iterdir()
    ).decode()
    assert "hush" not in text
    before = read(tools, "unit").inputs["secrets"].digest
    all_of_it(tools)
    assert read(tools, "unit").inputs["secrets"].digest == before
    settings = workshop.tools(dry=False, **{HIDDEN: "something else"}).settings
    all_of_it(replace(tools, settings=settings))
    assert read(tools, "unit").inputs["secrets"].digest != before
    # nobody else can tell what it was by trying
    plain = hashlib.sha256(b"hush, all of you").hexdigest()
    assert plain not in json.dumps(dict(before))


def test_the_accepted_image_gets_a_name_that_keeps_it(tools: Tools) -> None:
    all_of_it(tools)
    engine = cast("TaggingEngine", tools.engine)
    name = f"{tools.image_prefix}/accepted:latest"
    assert engine.names == {name: f"sha256:{IDS['app']}"}


# --- what they do not say ------------------------------------------------------------------------


def test_an_environment_of_the_user_s_own_proves_less(
    tools: Tools, capsys: pytest.CaptureFixture[str]
) -> None:
    sees(tools).acceptance(release_environment(own=True), COUNTS)
    assert not shelf.path(tools.checkout.target, "acceptance").exists()
    assert cast("TaggingEngine", tools.engine).names == {}
    assert "no receipt" in capsys.readouterr().err


def test_a_dry_run_writes_none(tools: Tools) -> None:
    dry = sees(replace(tools, dry=True))
    dry.tests("unit", test_environment(), None)
    dry.wheels("")
    dry.image("", "")
    dry.acceptance(release_environment(), None)
    assert not (tools.checkout.target / "receipts").exists()


def test_wheels_that_were_tampered_with_are_not_vouched_for(tools: Tools) -> None:
    (tools.checkout.target / "wheelhouse" / DEPENDENCY).write_text("tampered")
    saw, told = sees(tools), "target/wheelhouse is not what was built"
    with pytest.raises(StageFailed, match=told):
        saw.wheels("sha256:00")
    with pytest.raises(StageFailed, match=told):
        saw.image("sha256:00", "sha256:00")
    with pytest.raises(StageFailed, match=told):
        saw.acceptance(release_environment(), COUNTS)
    assert not (tools.checkout.target / "receipts").exists()


# --- who signs -----------------------------------------------------------------------------------


@pytest.fixture
def with_settings(tools: Tools, workshop: Workshop) -> Callable[..., Tools]:
    return lambda **settings: replace(
        tools, settings=workshop.tools(dry=False, **settings).settings
    )


def test_nobody_signs_where_no_key_is_named(tools: Tools) -> None:
    all_of_it(tools)
    for stage in shelf.STAGES:
        envelope = json.loads(shelf.content(tools.checkout.target, stage))
        assert envelope["signatures"] == []


@pytest.mark.parametrize("way", ["value", "file", "file elsewhere"])
def test_the_key_signs_all_of_them(
    with_settings: Callable[..., Tools], tmp_path: Path, way: str
) -> None:
    file = tmp_path / "key.pem"
    file.write_text(KEY)
    named = {
        "value": {"SIGNING_KEY": KEY},
        "file": {"SIGNING_KEY_FILE": "key.pem"},
        "file elsewhere": {"SIGNING_KEY_FILE": str(file)},
    }[way]
    signing = with_settings(**named)
    all_of_it(signing)
    trusted = [receipts.signer(KEY).public_key]
    for stage in shelf.STAGES:
        content = shelf.content(signing.checkout.target, stage)
        assert receipts.open_sealed(stage, content, trusted).stage == stage


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"SIGNING_KEY": "nonsense"}, "the signing key is no private key"),
        ({"SIGNING_KEY_FILE": "nowhere.pem"}, "SIGNING_KEY_FILE: nowhere.pem cannot be read"),
        ({"SIGNING_KEY_FILE": "empty.pem"}, "SIGNING_KEY_FILE: empty.pem is empty"),
        ({"SIGNING_KEY_FILE": "binary.pem"}, "SIGNING_KEY_FILE: binary.pem cannot be read"),
        ({"SIGNING_KEY_FILE": "."}, "SIGNING_KEY_FILE: . cannot be read"),
    ],
)
def test_a_key_that_is_none_signs_nothing(
    with_settings: Callable[..., Tools], tmp_path: Path, settings: dict[str, str], told: str
) -> None:
    (tmp_path / "empty.pem").write_text(" \n")
    (tmp_path / "binary.pem").write_bytes(b"\xff\xfe")
    with pytest.raises(Misconfigured, match=told) as caught:
        all_of_it(with_settings(**settings))
    assert caught.value.exit_code == 78
    assert not (tmp_path / "target" / "receipts").exists()


def test_trusted_keys_from_a_value_or_a_file(
    with_settings: Callable[..., Tools], tmp_path: Path
) -> None:
    (tmp_path / "keys.pem").write_text("public keys")
    assert witness.trusted_keys(with_settings()) == ""
    assert witness.trusted_keys(with_settings(TRUSTED_KEYS="these")) == "these"
    assert witness.trusted_keys(with_settings(TRUSTED_KEYS_FILE="keys.pem")) == "public keys"
    both = with_settings(TRUSTED_KEYS="these", TRUSTED_KEYS_FILE="keys.pem")
    assert witness.trusted_keys(both) == "these"
    with pytest.raises(Misconfigured, match="TRUSTED_KEYS_FILE"):
        witness.trusted_keys(with_settings(TRUSTED_KEYS_FILE="nowhere.pem"))
