"""The publisher: names, permissions, what is told of failures, and what is made of evidence.

The registry is one in this process; the real ones are published to on the engine.
"""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from tasks.engine import publishing, receipts, sbom, shelf
from tasks.engine.environments import PublishEnvironment
from tasks.engine.process import CommandFailed
from tasks.engine.publishing import JUNIT_TYPE, RECEIPT_TYPE, Publisher, Tags, tags
from tasks.engine.registry import EMPTY_TYPE, MANIFEST, Manifest, Repository, digest
from tasks.engine.retries import Again, Deadline
from tasks.engine.source import UNVERSIONED, Source
from tasks.engine.verification import Evidence
from tasks.engine.wheelhouse import Wheelhouse
from tasks.errors import (
    DiskFailure,
    Failure,
    Misconfigured,
    NotAuthorised,
    StageFailed,
    Unavailable,
)
from tests.engine import fake_server
from tests.engine.conftest import Workshop
from tests.engine.evidence import COMMIT, KEY, RELEASE, WHEELS, Release
from tests.engine.fake_registry import FakeRegistry
from tests.engine.fake_server import Answer

SHORT = COMMIT[:12]

# --- names ---------------------------------------------------------------------------------------


def named(
    revision: str = COMMIT,
    exact: tuple[str, ...] = (),
    branch: str = "main",
    latest: str = "main",
    build: str = "",
) -> Tags:
    return tags(revision, exact, branch, latest, build)


def test_a_commit_has_its_short_hash_for_a_name() -> None:
    assert named(branch="") == Tags((SHORT,), ())


def test_git_s_tags_and_the_build_are_names_too_and_given_once() -> None:
    given = named(exact=("v1.0", "stable"), branch="feature", build="17")
    assert given == Tags((SHORT, "v1.0", "stable", "build-17"), ())


@pytest.mark.parametrize(
    ("branch", "latest", "moving"),
    [
        ("main", "main", ("latest",)),
        ("release/2", "release/2", ("latest",)),
        ("feature", "main", ()),
        ("main", "Main", ()),
        ("main", "", ()),
        ("", "", ()),  # a detached head is on no branch
    ],
)
def test_latest_moves_on_one_branch_alone(
    branch: str, latest: str, moving: tuple[str, ...]
) -> None:
    assert named(branch=branch, latest=latest).moving == moving


def test_a_dirty_tree_has_one_name_that_says_so() -> None:
    # such a name says too little to be given once, or to be followed
    given = named(f"{COMMIT}-dirty", exact=("v1.0",), build="17")
    assert given == Tags((), (f"{SHORT}-dirty",))


def test_without_git_there_is_one_name_that_says_so() -> None:
    assert named(UNVERSIONED, build="17") == Tags((), (UNVERSIONED,))


@pytest.mark.parametrize(
    ("tag", "usable"),
    [
        ("v1.0", True),
        ("1", True),
        ("_x", True),
        ("a" * 128, True),
        ("a" * 129, False),
        ("release/1.0", False),
        ("v1.0+build", False),
        ("-x", False),
        (".x", False),
        ("ü", False),
        ("v1:0", False),
        ("v1@0", False),
        ("", False),
        ("v1.0\n", False),
    ],
)
def test_names_that_a_registry_does_not_take_are_left_out(tag: str, *, usable: bool) -> None:
    assert (tag in named(exact=(tag,)).fixed) is usable


@given(exact=st.lists(st.text(max_size=140), max_size=4), build=st.sampled_from(["", "7"]))
def test_whatever_git_s_tags_are(exact: list[str], build: str) -> None:
    given = tags(COMMIT, exact, "main", "main", build)
    allowed = set(string.ascii_letters + string.digits + "_.-")
    assert given.fixed[0] == SHORT
    assert all(0 < len(name) <= 128 and set(name) <= allowed for name in given.fixed)
    assert all(name[0] not in ".-" for name in given.fixed)


# --- who may publish -----------------------------------------------------------------------------

PUBLIC = (
    serialization.load_pem_private_key(KEY.encode(), None)
    .public_key()
    .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    .decode()
)
CLEAN = Source(COMMIT, 0, "")
DIRTY = Source(f"{COMMIT}-dirty", 0, "")


@pytest.fixture
def publisher(workshop: Workshop) -> Callable[..., Publisher]:
    def make(source: Source = CLEAN, **settings: str) -> Publisher:
        nowhere = cast("PublishEnvironment", None)
        return Publisher(
            workshop.tools(dry=False, **{"PUBLISH": "on", **settings}), source, nowhere
        )

    return make


def test_an_environment_that_publishes_nothing(publisher: Callable[..., Publisher]) -> None:
    with pytest.raises(Misconfigured, match="the environment local publishes nothing") as caught:
        publisher(PUBLISH="off").require_permission()
    assert caught.value.exit_code == 78
    assert caught.value.hint == "PUBLISH=on in env/local.env allows it"


@pytest.mark.parametrize("source", [DIRTY, Source(UNVERSIONED, 0, "")], ids=["dirty", "no git"])
@pytest.mark.parametrize("where", [{"REGISTRY": "r.example.org"}, {"INDEX_URL": "https://i.org/"}])
def test_what_is_not_committed_is_not_published_to_others(
    publisher: Callable[..., Publisher], source: Source, where: dict[str, str]
) -> None:
    with pytest.raises(Misconfigured, match="what is not committed") as caught:
        publisher(source, **where).require_permission()
    assert caught.value.evidence == (f"revision {source.revision}",)
    publisher(source).require_permission()  # on this machine it may


def test_no_key_is_needed_on_this_machine_alone(
    publisher: Callable[..., Publisher], workshop: Workshop
) -> None:
    publisher().require_permission()
    tools = workshop.tools(PUBLISH="on")
    other = replace(tools, settings=tools.settings.model_copy(update={"name": "ci"}))
    elsewhere = Publisher(other, CLEAN, cast("PublishEnvironment", None))
    with pytest.raises(Misconfigured, match="there is no key to trust"):
        elsewhere.require_permission()


@pytest.mark.parametrize("key", [{"SIGNING_KEY": KEY}, {"TRUSTED_KEYS": PUBLIC}])
def test_whose_signatures_are_trusted(
    publisher: Callable[..., Publisher], key: dict[str, str]
) -> None:
    trusted = publisher(**key)._trusted()
    assert [one.keyid for one in trusted] == [receipts.signer(KEY).public_key.keyid]


def test_the_time_for_publishing_begins_when_that_does(
    publisher: Callable[..., Publisher],
) -> None:
    # Whether we may is asked before the tests, which may take longer than publishing.
    one = publisher(PUBLISH_DEADLINE="17")
    one.require_permission()
    assert "_deadline" not in vars(one)
    assert one._deadline.seconds == 17
    assert one._deadline is one._deadline


# --- what a push said ----------------------------------------------------------------------------

LAYERS = ["The push refers to repository [127.0.0.1:40312/team/todo]",
          "4030401f5003: Preparing", "503429aaaa00: Layer already exists",
          "denied500401: Pushed"]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("denied: ", NotAuthorised),
        ("denied: requested access to the resource is denied", NotAuthorised),
        ("unauthorized: authentication required", NotAuthorised),
        ("unauthorized: ", NotAuthorised),
        ("no basic auth credentials", NotAuthorised),
        ("error parsing HTTP 403 response body: invalid character '<'", NotAuthorised),
        ("unexpected status from PUT request to https://r/v2/: 403 Forbidden", NotAuthorised),
        ("received unexpected HTTP status: 500 Internal Server Error", Again),
        ("received unexpected HTTP status: 503 Service Unavailable", Again),
        ("toomanyrequests: ", Again),
        ("toomanyrequests: slow down", Again),
        ('Put "http://127.0.0.1:40312/v2/x/manifests/1": read: connection reset by peer', Again),
        ('Head "http://127.0.0.1:40312/v2/": dial tcp: connect: connection refused', Again),
        ('Get "https://r.example.org/v2/": net/http: TLS handshake timeout', Again),
        ('Patch "http://127.0.0.1:500/v2/x": EOF', Again),
        ("write tcp 127.0.0.1:1->127.0.0.1:403: write: broken pipe", Again),
        ('Get "https://r.example.org/v2/": dial tcp: lookup r.example.org: no such host', Again),
        ("blob upload unknown", Again),
        ("digest invalid: provided digest did not match uploaded content", Again),
        ("manifest invalid: manifest invalid", CommandFailed),
        ("unknown: ", CommandFailed),
        ("name unknown: repository 401-to-503 not known to registry", CommandFailed),
        ("An image does not exist locally with the tag: 127.0.0.1:40312/team/todo", CommandFailed),
    ],
)  # fmt: skip
def test_what_a_push_said(line: str, kind: type[Exception]) -> None:
    repository = Repository("127.0.0.1:40312", "team/todo", Deadline(1), plain=True)
    error = CommandFailed(["docker", "push", "127.0.0.1:40312/team/todo:1"], 1, [*LAYERS, line])
    assert type(publishing._classified(error, repository)) is kind


def test_a_push_that_nobody_let_in_says_where_and_what_to_do() -> None:
    repository = Repository("r.example.org", "team/todo", Deadline(1), plain=False)
    error = CommandFailed(["docker", "push", "x"], 1, [*LAYERS, "denied: no"])
    failure = publishing._classified(error, repository)
    assert isinstance(failure, NotAuthorised)
    assert failure.message == "r.example.org does not let us push to team/todo"
    assert failure.evidence[-1] == "denied: no"
    assert not any("4030401f5003" in line for line in failure.evidence)
    assert "docker login r.example.org" in failure.hint


def test_a_push_that_took_too_long() -> None:
    repository = Repository("r.example.org", "team/todo", Deadline(1), plain=False)
    error = CommandFailed(["docker", "push", "x"], -15, [*LAYERS], late=True)
    failure = publishing._classified(error, repository)
    assert isinstance(failure, Again)
    assert str(failure) == f"the engine did not get done with it: {LAYERS[-1]}"


# --- all of it, or a part ------------------------------------------------------------------------


STEPS = ("artifact", "image", "evidence")
HALF_WAY = {
    "artifact": ("nothing", "wheels, image, evidence"),
    "image": ("wheels", "image, evidence"),
    "evidence": ("wheels, image", "evidence"),
}


@pytest.mark.parametrize("fails", STEPS)
@pytest.mark.parametrize("kind", [StageFailed, Unavailable, NotAuthorised, DiskFailure])
def test_of_a_failure_half_way_it_is_told_what_is_there(
    publisher: Callable[..., Publisher],
    monkeypatch: pytest.MonkeyPatch,
    fails: str,
    kind: type[Failure],
) -> None:
    there, missing = HALF_WAY[fails]
    failure, done = kind("no", evidence=["because"]), []

    def step(name: str) -> Callable[[Publisher], None]:
        def publish(_: Publisher) -> None:
            if name == fails:
                raise failure
            done.append(name)

        return publish

    for name in STEPS:
        monkeypatch.setattr(Publisher, name, step(name))
    with pytest.raises(kind) as caught:
        publisher().everything()
    assert caught.value is failure
    assert failure.evidence == (
        "because",
        f"of the release, published: {there}",
        f"of the release, missing: {missing}",
    )
    assert done == list(STEPS[: STEPS.index(fails)])


def test_all_of_it_ends_with_the_verification(
    publisher: Callable[..., Publisher], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    for name in STEPS:
        monkeypatch.setattr(Publisher, name, lambda _, name=name: done.append(name))
    monkeypatch.setattr(Publisher, "verify", lambda _: "PASSED")
    assert publisher().everything() == "PASSED"
    assert done == list(STEPS)


# --- certificates --------------------------------------------------------------------------------


def test_which_certificates_others_are_checked_by(workshop: Workshop, tmp_path: Path) -> None:
    def found(environ: Mapping[str, str], **settings: str) -> str:
        tools = replace(workshop.tools(dry=False, **settings), environ=environ)
        return Publisher(tools, CLEAN, cast("PublishEnvironment", None))._ca_file

    ours, usual = tmp_path / "ours.pem", tmp_path / "usual.pem"
    ours.touch()
    usual.touch()
    assert found({}) == ""
    assert found({"SSL_CERT_FILE": str(usual)}) == str(usual)
    assert found({"SSL_CERT_FILE": "/nowhere.pem"}) == ""
    # from the checkout, wherever a command is run
    assert found({"SSL_CERT_FILE": str(usual)}, CA_FILE="ours.pem") == str(ours)
    assert found({}, CA_FILE=str(ours)) == str(ours)
    with pytest.raises(Misconfigured, match=r"CA_FILE: there is no file nowhere\.pem"):
        found({}, CA_FILE="nowhere.pem")


# --- evidence ------------------------------------------------------------------------------------

LOCAL = Release(
    unit=replace(Release().unit, environment="local"),
    integration=replace(Release().integration, environment="local"),
    acceptance=replace(Release().acceptance, environment="local"),
)
SBOM = sbom.of(
    Wheelhouse(
        {name: sha for name, sha in WHEELS.items() if name.startswith("todo")},
        {name: sha for name, sha in WHEELS.items() if not name.startswith("todo")},
    )
)


def image(image_id: str = f"sha256:{RELEASE}") -> Manifest:
    document = {"schemaVersion": 2, "config": {"digest": image_id}, "layers": []}
    return Manifest(json.dumps(document).encode(), MANIFEST)


@pytest.fixture(params=[True, False], ids=["API", "fallback tag"])
def registry(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[FakeRegistry]:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with fake_server.running(FakeRegistry(referrers_api=request.param)) as running:
        yield running


@pytest.fixture
def repository(registry: FakeRegistry) -> Repository:
    repository = Repository(registry.address, "team/todo", Deadline(100), plain=True)
    repository.put_manifest("1.0", image())
    return repository


def attach(
    repository: Repository,
    evidence: Evidence,
    *,
    bom: bytes = SBOM,
    subject: Manifest | None = None,
    but: str = "",
) -> None:
    """Attach evidence, all of it or all but one file."""
    files = [
        *((f"{stage}.xml", JUNIT_TYPE, content) for stage, content in evidence.junit.items()),
        ("sbom.cdx.json", sbom.MEDIA_TYPE, bom),
        *((f"{s}.json", RECEIPT_TYPE, content) for s, content in evidence.envelopes.items()),
    ]
    for name, kind, content in files:
        if name != but:
            repository.attach(subject or image(), kind, name, content)


Verify = Callable[..., str]


@pytest.fixture
def verify(publisher: Callable[..., Publisher], registry: FakeRegistry) -> Verify:
    def verified(name: str = "team/todo:1.0", **settings: str) -> str:
        known = {"TRUSTED_KEYS": PUBLIC, "PUBLISH_DEADLINE": "100", **settings}
        return publisher(VERIFY_IMAGE=f"{registry.address}/{name}", **known).verify()

    return verified


def refused(verify: Verify, name: str = "team/todo:1.0", **settings: str) -> StageFailed:
    with pytest.raises(StageFailed) as caught:
        verify(name, **settings)
    assert caught.value.exit_code == 1
    return caught.value


def test_what_holds_is_verified(
    registry: FakeRegistry, repository: Repository, verify: Verify
) -> None:
    attach(repository, LOCAL.evidence())
    expected = (
        f"PASSED: {registry.address}/team/todo@{image().digest}, commit {COMMIT}, "
        "2 passed, 1 skipped in the environment local, "
    )
    assert verify() == f"{expected}signed"
    assert verify(TRUSTED_KEYS="") == f"{expected}UNSIGNED"
    for name in (f"team/todo@{image().digest}", f"team/todo:other@{image().digest}"):
        assert verify(name) == f"{expected}signed"


def test_nothing_is_attached(
    registry: FakeRegistry, repository: Repository, verify: Verify
) -> None:
    assert repository.manifest("1.0")
    failure = refused(verify)
    assert failure.message == (
        f"no evidence is attached to {registry.address}/team/todo@{image().digest}"
    )
    assert failure.hint == "invoke publish.evidence attaches it"


ATTACHED = [
    *(f"{stage}.json" for stage in shelf.STAGES),
    *(f"{stage}.xml" for stage in ("unit", "integration", "acceptance")),
    "sbom.cdx.json",
]


@pytest.mark.parametrize("name", ATTACHED)
def test_a_part_is_missing(repository: Repository, verify: Verify, name: str) -> None:
    attach(repository, LOCAL.evidence(), but=name)
    failure = refused(verify)
    assert name.partition(".")[0] in failure.message
    # and once it is there, all is well
    attach(repository, LOCAL.evidence())
    assert verify().startswith("PASSED")


def test_nothing_is_there(registry: FakeRegistry, verify: Verify) -> None:
    failure = refused(verify)
    assert failure.message == f"there is no {registry.address}/team/todo:1.0"


def test_a_name_that_says_too_little(verify: Verify) -> None:
    with pytest.raises(Misconfigured, match="names neither a tag nor a digest"):
        verify("team/todo")


def test_the_evidence_of_another_image(repository: Repository, verify: Verify) -> None:
    other = image(f"sha256:{'99' * 32}")
    repository.put_manifest("1.0", other)
    attach(repository, LOCAL.evidence(), subject=other)
    failure = refused(verify)
    assert failure.message == "receipt acceptance: subject: it speaks of another image"
    assert failure.evidence == (
        f"accepted: sha256:{RELEASE}",
        f"there: sha256:{'99' * 32}",
    )


def test_by_somebody_whom_we_do_not_trust(repository: Repository, verify: Verify) -> None:
    attach(repository, LOCAL.evidence(key=""))
    assert "receipt unit: signature: " in refused(verify).message
    assert verify(TRUSTED_KEYS="").endswith("UNSIGNED")


@pytest.mark.parametrize(
    "bom",
    [
        b"",
        b"[]",
        b"{}",
        b'{"metadata": {"component": {"hashes": 3}}}',
        sbom.of(Wheelhouse({"todo-1.0-py3-none-any.whl": "cd" * 32}, {})),
        sbom.of(Wheelhouse(WHEELS, {"evil-1.0-py3-none-any.whl": "ee" * 32})),
    ],
    ids=["empty", "list", "object", "nonsense", "one too few", "one too many"],
)
def test_a_bill_of_other_materials(repository: Repository, verify: Verify, bom: bytes) -> None:
    attach(repository, LOCAL.evidence(), bom=bom)
    assert refused(verify).message == (
        "sbom.cdx.json: it does not list the wheels that were accepted"
    )
    # one that does is enough
    attach(repository, LOCAL.evidence())
    assert verify().startswith("PASSED")


def test_accepted_twice_each_of_the_two_is_enough(repository: Repository, verify: Verify) -> None:
    again = replace(LOCAL, unit=replace(LOCAL.unit, subjects={"tests": "ff" * 32}))
    attach(repository, LOCAL.evidence())
    attach(repository, again.evidence())
    assert verify().startswith("PASSED")


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("name", ["unit.json", "acceptance.xml", "sbom.cdx.json"])
def test_garbage_beside_what_holds(
    repository: Repository, verify: Verify, name: str, *, first: bool
) -> None:
    if first:
        repository.attach(image(), RECEIPT_TYPE, name, b"garbage")
    attach(repository, LOCAL.evidence())
    if not first:
        repository.attach(image(), RECEIPT_TYPE, name, b"garbage")
    assert verify().startswith("PASSED")


ANNOTATED = {"org.opencontainers.image.title": "report.html"}


@pytest.mark.parametrize(
    "change",
    [
        {"layers": None},
        {"layers": []},
        {"layers": [{"digest": f"sha256:{'00' * 32}"}]},
        {"layers": [{"digest": f"sha256:{'00' * 32}", "annotations": None}]},
        {"layers": [{"digest": f"sha256:{'00' * 32}", "annotations": ANNOTATED}]},
        {"layers": [3, None, "x"]},
        {"layers": 3},
    ],
)
def test_what_others_attach_is_none_of_our_business(
    repository: Repository, verify: Verify, change: dict[str, Any]
) -> None:
    # A scanner's report, a signature of another kind; perhaps it is not even there any more.
    theirs = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": "application/vnd.theirs",
        "config": {"mediaType": EMPTY_TYPE, "digest": digest(b"{}"), "size": 2},
        "subject": {"digest": image().digest, "mediaType": MANIFEST, "size": 1},
        "annotations": {},
        **change,
    }
    manifest = Manifest(json.dumps(theirs).encode(), MANIFEST)
    answer = repository.put_manifest(manifest.digest, manifest)
    if "OCI-Subject" not in answer.headers:
        repository._add_to_fallback(image(), manifest, theirs)
    attach(repository, LOCAL.evidence())
    assert verify().startswith("PASSED")


def test_what_is_listed_is_not_there_any_more(
    registry: FakeRegistry, repository: Repository, verify: Verify
) -> None:
    gone = repository.attach(image(), "application/vnd.theirs", "report.html", b"<html>")
    attach(repository, LOCAL.evidence())
    registry.tell("GET", f"manifests/{gone}", Answer(404), times=float("inf"))
    assert verify().startswith("PASSED")
