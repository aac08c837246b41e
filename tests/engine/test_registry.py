"""The client of container registries, against one in this process that does as it is told."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from tasks.engine import credentials
from tasks.engine.registry import INDEX, MANIFEST, Manifest, Repository, digest, is_loopback
from tasks.engine.retries import Deadline
from tasks.errors import Failure, NotAuthorised, StageFailed, Unavailable
from tests.engine import fake_server
from tests.engine.fake_registry import FakeRegistry
from tests.engine.fake_server import Answer

USER, PASSWORD = "captain", "secret-of-the-sea"
IMAGE_ID = f"sha256:{'ab' * 32}"
IMAGE = Manifest(
    json.dumps({"schemaVersion": 2, "config": {"digest": IMAGE_ID}, "layers": []}).encode(),
    "application/vnd.docker.distribution.manifest.v2+json",
)


class Time:
    """A clock that only moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.naps: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds


@pytest.fixture
def moment() -> Time:
    return Time()


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with fake_server.running(FakeRegistry()) as running:
        yield running


@pytest.fixture(autouse=True)
def configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that writes the Docker configuration; as it is, it holds nothing."""
    folder = tmp_path / "docker"
    folder.mkdir()
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)

    def write(**content: Any) -> None:
        (folder / "config.json").write_text(json.dumps(content))

    return write


@pytest.fixture
def deadline(moment: Time) -> Deadline:
    return Deadline(30, clock=lambda: moment.now, sleep=moment.sleep)


@pytest.fixture
def repository(registry: FakeRegistry, deadline: Deadline) -> Repository:
    return Repository(registry.address, "team/todo", deadline, plain=True)


def known(registry: FakeRegistry, configuration: Callable[..., None]) -> None:
    secret = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    configuration(auths={registry.address: {"auth": secret}})


def told(failure: Failure) -> str:
    """Return all that a user would read; no credential is ever in it."""
    text = "\n".join([failure.message, *failure.evidence, failure.hint])
    for secret in (PASSWORD, "identity-of-the-sea", "Bearer", "token-"):
        assert secret not in text
    assert base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode() not in text
    return text


# --- manifests -----------------------------------------------------------------------------------


def test_a_manifest_is_read_as_it_was_written(
    registry: FakeRegistry, repository: Repository
) -> None:
    repository.put_manifest("1.0", IMAGE)
    for reference in ("1.0", IMAGE.digest):
        there = repository.manifest(reference)
        assert there == IMAGE
        assert there is not None
        assert there.config_digest == IMAGE_ID
    assert registry.tags() == ["1.0"]
    assert repository.tags() == ["1.0"]


def test_there_is_none(repository: Repository, moment: Time) -> None:
    assert repository.manifest("1.0") is None
    assert repository.tags() == []
    assert moment.naps == []


def test_other_bytes_than_were_asked_for(registry: FakeRegistry, repository: Repository) -> None:
    registry.manifests[IMAGE.digest] = (b'{"other": 1}', MANIFEST)
    with pytest.raises(StageFailed, match=f"for {IMAGE.digest}") as caught:
        repository.manifest(IMAGE.digest)
    assert digest(b'{"other": 1}') in caught.value.message


@pytest.mark.parametrize(
    "content", [b"", b"<html>Sign in to the guest network</html>", b"[]", b"[" * 100_000, b"\xff"]
)
def test_something_else_than_a_manifest(content: bytes) -> None:
    with pytest.raises(StageFailed, match="something else than a JSON object"):
        _ = Manifest(content, MANIFEST).document


@pytest.mark.parametrize(
    "content", [b"{}", b'{"config": null}', b'{"config": 3}', b'{"manifests": []}']
)
def test_what_has_no_configuration_is_no_image(content: bytes) -> None:
    assert Manifest(content, MANIFEST).config_digest == ""


# --- blobs ---------------------------------------------------------------------------------------


def test_a_blob_is_read_as_it_was_written(registry: FakeRegistry, repository: Repository) -> None:
    repository.put_blob(b"content")
    assert repository.blob(digest(b"content")) == b"content"
    assert registry.blobs == {digest(b"content"): b"content"}


def test_a_blob_that_is_there_is_not_sent(registry: FakeRegistry, repository: Repository) -> None:
    registry.blobs[digest(b"content")] = b"content"
    repository.put_blob(b"content")
    assert registry.seen("POST") == registry.seen("PUT") == 0


def test_a_blob_that_is_missing(repository: Repository) -> None:
    with pytest.raises(StageFailed, match="has no blob sha256:"):
        repository.blob(digest(b"content"))


def test_a_blob_with_other_content(registry: FakeRegistry, repository: Repository) -> None:
    registry.blobs[digest(b"content")] = b"Content"
    with pytest.raises(StageFailed, match=f"gave {digest(b'Content')} for {digest(b'content')}"):
        repository.blob(digest(b"content"))


@pytest.mark.parametrize("place", ["absolute", "relative"])
def test_an_upload_goes_where_the_registry_says(
    registry: FakeRegistry, repository: Repository, place: str
) -> None:
    path = "/v2/team/todo/blobs/uploads/elsewhere"
    location = path if place == "relative" else f"http://{registry.address}{path}"
    registry.tell("POST", "uploads/$", Answer(202, headers={"Location": location}))
    repository.put_blob(b"content")
    assert registry.requests[-1].path == f"{path}?digest={digest(b'content')}"


def test_a_registry_that_does_not_say_where_to(
    registry: FakeRegistry, repository: Repository
) -> None:
    registry.tell("POST", "uploads/$", Answer(202))
    with pytest.raises(StageFailed, match="does not say where"):
        repository.put_blob(b"content")


def test_an_upload_that_arrives_in_half_is_sent_again(
    registry: FakeRegistry, repository: Repository, moment: Time
) -> None:
    registry.truncates = 2
    repository.put_blob(b"content")
    assert registry.blobs == {digest(b"content"): b"content"}
    assert len(moment.naps) == 2
    # each time from its beginning
    assert registry.seen("POST") == 3


def test_an_upload_that_always_arrives_in_half(
    registry: FakeRegistry, repository: Repository
) -> None:
    registry.truncates = 1000
    with pytest.raises(Unavailable) as caught:
        repository.put_blob(b"content")
    assert "upload to 127.0.0.1:" in told(caught.value)
    assert registry.blobs == {}


# --- refusals and failures -----------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """Something that is asked of a registry, and the request that it ends in."""

    method: str
    path: str
    ask: Callable[[Repository], object]


ASKED = {
    "read a manifest": Asked("GET", "manifests/1.0", lambda r: r.manifest("1.0")),
    "write a manifest": Asked("PUT", "manifests/1.0", lambda r: r.put_manifest("1.0", IMAGE)),
    "read a blob": Asked("GET", "blobs/sha256", lambda r: r.blob(digest(b"there"))),
    "look for a blob": Asked("HEAD", "blobs/sha256", lambda r: r.put_blob(b"new")),
    "begin an upload": Asked("POST", "blobs/uploads", lambda r: r.put_blob(b"new")),
    "upload": Asked("PUT", "blobs/uploads", lambda r: r.put_blob(b"new")),
    "list": Asked("GET", "tags/list", lambda r: r.tags()),
    "list referrers": Asked("GET", "referrers/", lambda r: r.referrers(IMAGE)),
    "may we write": Asked("POST", "blobs/uploads", lambda r: r.require_writable()),
}
every = pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)


@pytest.fixture
def filled(registry: FakeRegistry) -> FakeRegistry:
    registry.blobs[digest(b"there")] = b"there"
    return registry


@every
@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_server_in_trouble_is_asked_again(
    filled: FakeRegistry,
    repository: Repository,
    moment: Time,
    asked: Asked,
    status: int,
) -> None:
    filled.tell(asked.method, asked.path, Answer(status, b"<html>oops</html>"), times=2)
    asked.ask(repository)
    assert len(moment.naps) == 2


@every
@pytest.mark.parametrize("fault", ["broken", "cut"])
def test_a_connection_that_breaks_is_made_again(
    filled: FakeRegistry,
    repository: Repository,
    moment: Time,
    asked: Asked,
    fault: str,
) -> None:
    broken = fault == "broken" or asked.method == "HEAD"
    answer = Answer(200, b"x" * 1000, broken=broken, cut=not broken)
    filled.tell(asked.method, asked.path, answer)
    asked.ask(repository)
    assert len(moment.naps) == 1


@every
def test_a_server_that_stays_in_trouble(
    filled: FakeRegistry,
    repository: Repository,
    asked: Asked,
) -> None:
    filled.tell(asked.method, asked.path, Answer(503), times=float("inf"))
    with pytest.raises(Unavailable) as caught:
        asked.ask(repository)
    assert caught.value.exit_code == 69
    assert "it answers 503" in told(caught.value)
    assert f"{filled.seen(asked.method, asked.path)} tries, deadline 30 s" in caught.value.message


@every
def test_too_many_requests_and_a_time_to_wait(
    filled: FakeRegistry,
    repository: Repository,
    moment: Time,
    asked: Asked,
) -> None:
    filled.tell(asked.method, asked.path, Answer(429, headers={"Retry-After": "7"}))
    asked.ask(repository)
    assert moment.naps == [pytest.approx(7)]


@every
def test_too_many_requests_and_too_long_to_wait(
    filled: FakeRegistry,
    repository: Repository,
    moment: Time,
    asked: Asked,
) -> None:
    filled.tell(
        asked.method, asked.path, Answer(429, headers={"Retry-After": "3600"}), times=float("inf")
    )
    with pytest.raises(Unavailable, match=r"too many requests \(1 tries"):
        asked.ask(repository)
    assert moment.naps == []


@every
@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_is_final(
    filled: FakeRegistry,
    repository: Repository,
    moment: Time,
    asked: Asked,
    status: int,
) -> None:
    filled.tell(
        asked.method, asked.path, Answer(status, b'{"errors": [{"code": "DENIED"}]}'), float("inf")
    )
    with pytest.raises(NotAuthorised) as caught:
        asked.ask(repository)
    assert caught.value.exit_code == 77
    assert f"it answers {status} to nobody" in told(caught.value)
    assert f"docker login {filled.address}" in caught.value.hint
    assert filled.seen(asked.method, asked.path) == 1
    assert moment.naps == []


@every
@pytest.mark.parametrize("status", [400, 405, 413])
def test_a_refusal_of_what_was_asked_is_final_too(
    filled: FakeRegistry,
    repository: Repository,
    moment: Time,
    asked: Asked,
    status: int,
) -> None:
    filled.tell(asked.method, asked.path, Answer(status, b"too large\nreally"), times=float("inf"))
    with pytest.raises(StageFailed) as caught:
        asked.ask(repository)
    assert caught.value.message == f"{filled.address} refuses {asked.method} in team/todo: {status}"
    assert caught.value.evidence == (() if asked.method == "HEAD" else ("too large", "really"))
    assert moment.naps == []


@pytest.mark.parametrize("name", ["write a manifest", "begin an upload", "upload", "may we write"])
def test_nowhere_to_write_to(filled: FakeRegistry, repository: Repository, name: str) -> None:
    asked = ASKED[name]
    filled.tell(asked.method, asked.path, Answer(404, b"NAME_UNKNOWN"), times=float("inf"))
    with pytest.raises(StageFailed, match="404"):
        asked.ask(repository)


def test_nobody_listens(deadline: Deadline, moment: Time) -> None:
    # port 1 is given to nobody
    repository = Repository("127.0.0.1:1", "team/todo", deadline, plain=True)
    with pytest.raises(Unavailable) as caught:
        repository.manifest("1.0")
    assert caught.value.message.startswith("GET 127.0.0.1:1: ConnectionError (")
    assert len(moment.naps) > 3


def test_no_registry_but_something_else_in_its_place(
    registry: FakeRegistry, repository: Repository
) -> None:
    page = Answer(200, b"<html>Sign in</html>", {"Content-Type": "text/html"})
    registry.tell("GET", "", page, times=float("inf"))
    with pytest.raises(StageFailed, match="something else"):
        repository.tags()
    with pytest.raises(StageFailed, match="something else"):
        repository.referrers(IMAGE)


def test_tls_where_there_is_none(registry: FakeRegistry, deadline: Deadline) -> None:
    repository = Repository(registry.address, "team/todo", deadline, plain=False)
    with pytest.raises(Unavailable, match=r"certificate .* cannot be trusted"):
        repository.manifest("1.0")


# --- who we are ----------------------------------------------------------------------------------


@pytest.mark.parametrize("wants", ["basic", "bearer"])
def test_a_registry_that_knows_us(
    registry: FakeRegistry, deadline: Deadline, configuration: Callable[..., None], wants: str
) -> None:
    known(registry, configuration)
    registry.wants = wants
    repository = Repository(registry.address, "team/todo", deadline, plain=True)
    assert repository.manifest("1.0") is None
    repository.require_writable()
    repository.put_blob(b"content")
    repository.put_manifest("1.0", IMAGE)
    assert repository.manifest("1.0") == IMAGE
    # asked once for the password; for a token once to read and once to write
    refused = [r for r in registry.requests if "Authorization" not in r.headers]
    assert len(refused) == 1
    assert len(registry.tokens) == (2 if wants == "bearer" else 0)


def test_a_token_that_is_not_valid_any_more_is_replaced(
    registry: FakeRegistry, deadline: Deadline, configuration: Callable[..., None], moment: Time
) -> None:
    known(registry, configuration)
    registry.wants = "bearer"
    repository = Repository(registry.address, "team/todo", deadline, plain=True)
    repository.put_manifest("1.0", IMAGE)
    registry.tokens["token-0"] = ""
    repository.put_manifest("1.1", IMAGE)
    assert registry.tags() == ["1.0", "1.1"]
    assert moment.naps == []


def test_anonymous_where_that_is_enough(registry: FakeRegistry, repository: Repository) -> None:
    registry.wants = "bearer"
    assert repository.manifest("1.0") is None
    with pytest.raises(NotAuthorised, match="it answers 401 to nobody"):
        repository.put_manifest("1.0", IMAGE)


@pytest.mark.parametrize("wants", ["basic", "bearer"])
def test_a_wrong_password_is_said_once(
    registry: FakeRegistry,
    deadline: Deadline,
    configuration: Callable[..., None],
    moment: Time,
    wants: str,
) -> None:
    secret = base64.b64encode(f"{USER}:wrong-of-the-sea".encode()).decode()
    configuration(auths={registry.address: {"auth": secret}})
    registry.wants = wants
    repository = Repository(registry.address, "team/todo", deadline, plain=True)
    with pytest.raises(NotAuthorised) as caught:
        repository.put_manifest("1.0", IMAGE)
    text = told(caught.value)
    assert "it answers 401 with the Docker configuration's credentials" in text
    assert "wrong-of-the-sea" not in text
    assert secret not in text
    assert moment.naps == []
    assert len(registry.requests) == 2
    assert registry.tags() == []


def test_an_identity_token(
    registry: FakeRegistry, deadline: Deadline, configuration: Callable[..., None]
) -> None:
    configuration(auths={registry.address: {"identitytoken": "identity-of-the-sea"}})
    registry.wants = "bearer"
    repository = Repository(registry.address, "team/todo", deadline, plain=True)
    repository.put_manifest("1.0", IMAGE)
    assert registry.tags() == ["1.0"]


@pytest.mark.parametrize(
    ("answer", "raised", "text"),
    [
        (Answer(503), Unavailable, "/token answers 503"),
        (Answer(429, headers={"Retry-After": "3600"}), Unavailable, "too many requests"),
        (Answer(403), NotAuthorised, "it answers 401"),
        (Answer(200, b"{}"), NotAuthorised, "it answers 401"),
        (Answer(200, b"<html>"), StageFailed, "something else than a JSON object"),
        (Answer(broken=True), Unavailable, "ConnectionError"),
    ],
    ids=["down", "busy", "refused", "no token", "garbage", "broken"],
)
def test_the_one_who_gives_tokens_is_in_trouble(
    registry: FakeRegistry,
    repository: Repository,
    answer: Answer,
    raised: type[Failure],
    text: str,
) -> None:
    registry.wants = "bearer"
    registry.tell("GET", "/token", answer, times=float("inf"))
    with pytest.raises(raised) as caught:
        repository.manifest("1.0")
    assert text in told(caught.value)


@pytest.mark.parametrize("challenge", ["", "Negotiate", "Bearer", 'Bearer realm="file:///etc"'])
def test_a_challenge_that_we_have_no_answer_to(
    registry: FakeRegistry, repository: Repository, challenge: str
) -> None:
    headers = {"Www-Authenticate": challenge} if challenge else {}
    registry.tell("GET", "", Answer(401, headers=headers), times=float("inf"))
    with pytest.raises(NotAuthorised):
        repository.manifest("1.0")
    assert len(registry.requests) == 1


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that makes a credential helper, `docker-credential-test`."""
    folder = tmp_path / "helpers"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def make(script: str) -> None:
        path = folder / "docker-credential-test"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return make


GIVES = (
    'read server; test "$1" = get && '
    f'echo \'{{"ServerURL": "x", "Username": "{USER}", "Secret": "{PASSWORD}"}}\''
)


@pytest.mark.parametrize("way", ["credHelpers", "credsStore"])
def test_a_credential_helper(
    registry: FakeRegistry,
    deadline: Deadline,
    configuration: Callable[..., None],
    helper: Callable[[str], None],
    way: str,
) -> None:
    helper(GIVES)
    configuration(**{way: {registry.address: "test"} if way == "credHelpers" else "test"})
    registry.wants = "basic"
    repository = Repository(registry.address, "team/todo", deadline, plain=True)
    repository.put_manifest("1.0", IMAGE)
    assert registry.tags() == ["1.0"]


def test_a_credential_helper_that_gives_an_identity_token(
    configuration: Callable[..., None], helper: Callable[[str], None]
) -> None:
    configuration(credsStore="test")
    helper('echo \'{"Username": "<token>", "Secret": "identity-of-the-sea"}\'')
    found = credentials.of("registry.example.org")
    assert (found.user, found.password, found.identity) == ("", "", "identity-of-the-sea")
    assert "identity-of-the-sea" not in repr(found)


def test_a_credential_helper_that_knows_nothing(
    configuration: Callable[..., None], helper: Callable[[str], None]
) -> None:
    configuration(credsStore="test")
    helper("echo 'credentials not found in native keychain'; exit 1")
    assert not credentials.of("registry.example.org")


@pytest.mark.parametrize(
    "script",
    ["echo 'the keychain is locked' >&2; exit 1", "echo nonsense", "echo '{}'", "missing"],
    ids=["locked", "nonsense", "empty", "missing"],
)
def test_a_credential_helper_that_fails(
    registry: FakeRegistry,
    deadline: Deadline,
    configuration: Callable[..., None],
    helper: Callable[[str], None],
    script: str,
) -> None:
    configuration(credHelpers={registry.address: "test"})
    if script != "missing":
        helper(script)
    with pytest.raises(NotAuthorised) as caught:
        Repository(registry.address, "team/todo", deadline, plain=True)
    assert f"the credentials for {registry.address} cannot be read" in told(caught.value)
    assert registry.requests == []


def test_a_configuration_that_is_none(
    registry: FakeRegistry, deadline: Deadline, tmp_path: Path
) -> None:
    (tmp_path / "docker" / "config.json").write_text("nonsense")
    assert Repository(registry.address, "team/todo", deadline, plain=True).tags() == []


def test_of_another_registry_nothing_is_said(
    registry: FakeRegistry, deadline: Deadline, configuration: Callable[..., None]
) -> None:
    secret = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    configuration(auths={"registry.example.org": {"auth": secret}})
    registry.wants = "basic"
    repository = Repository(registry.address, "team/todo", deadline, plain=True)
    with pytest.raises(NotAuthorised, match="to nobody"):
        repository.manifest("1.0")
    assert all("Authorization" not in request.headers for request in registry.requests)


# --- may we write --------------------------------------------------------------------------------


def test_whether_we_may_write_leaves_nothing_behind(
    registry: FakeRegistry, repository: Repository
) -> None:
    repository.require_writable()
    assert registry.seen("DELETE", "blobs/uploads/one") == 1
    assert registry.blobs == {}
    assert registry.manifests == {}


@pytest.mark.parametrize("status", [403, 404, 405, 500])
def test_whether_we_may_write_does_not_depend_on_taking_it_back(
    registry: FakeRegistry, repository: Repository, moment: Time, status: int
) -> None:
    registry.tell("DELETE", "", Answer(status), times=float("inf"))
    repository.require_writable()
    assert moment.naps == []


# --- referrers -----------------------------------------------------------------------------------


def names(registry: FakeRegistry, repository: Repository) -> list[str]:
    return [
        json.loads(registry.manifests[one["digest"]][0])["annotations"][
            "org.opencontainers.image.title"
        ]
        for one in repository.referrers(IMAGE)
    ]


@pytest.mark.parametrize("api", [True, False], ids=["API", "fallback tag"])
def test_what_is_attached_is_found(
    registry: FakeRegistry, repository: Repository, *, api: bool
) -> None:
    registry.referrers_api = api
    repository.put_manifest("1.0", IMAGE)
    assert repository.referrers(IMAGE) == []
    one = repository.attach(IMAGE, "application/x-test", "one.json", b"one")
    two = repository.attach(IMAGE, "application/x-test", "two.json", b"two")
    assert [found["digest"] for found in repository.referrers(IMAGE)] == [one, two]
    artifact = json.loads(registry.manifests[one][0])
    assert artifact["subject"] == {
        "mediaType": IMAGE.media_type,
        "digest": IMAGE.digest,
        "size": len(IMAGE.content),
    }
    assert artifact["artifactType"] == "application/x-test"
    assert repository.blob(artifact["layers"][0]["digest"]) == b"one"
    assert artifact["config"]["digest"] == digest(b"{}")
    assert registry.blobs[digest(b"{}")] == b"{}"
    # the image itself is what it was
    assert repository.manifest("1.0") == IMAGE


def test_the_fallback_tag_is_kept_where_there_is_no_api(
    registry: FakeRegistry, repository: Repository
) -> None:
    repository.attach(IMAGE, "application/x-test", "one.json", b"one")
    tag = f"sha256-{hashlib.sha256(IMAGE.content).hexdigest()}"
    assert registry.tags() == [tag]
    content, kind = registry.manifests[tag]
    assert kind == INDEX
    index = json.loads(content)
    assert index["mediaType"] == INDEX
    described = index["manifests"][0]
    assert described["artifactType"] == "application/x-test"
    assert described["annotations"] == {"org.opencontainers.image.title": "one.json"}
    assert described["size"] == len(registry.manifests[described["digest"]][0])


def test_there_is_no_fallback_tag_where_there_is_an_api(
    registry: FakeRegistry, repository: Repository
) -> None:
    registry.referrers_api = True
    repository.attach(IMAGE, "application/x-test", "one.json", b"one")
    assert registry.tags() == []


@pytest.mark.parametrize("api", [True, False], ids=["API", "fallback tag"])
def test_the_same_attached_twice_is_there_once(
    registry: FakeRegistry, repository: Repository, *, api: bool
) -> None:
    registry.referrers_api = api
    for _ in range(3):
        repository.attach(IMAGE, "application/x-test", "one.json", b"one")
        repository.attach(IMAGE, "application/x-test", "two.json", b"two")
    assert names(registry, repository) == ["one.json", "two.json"]


def test_what_others_keep_under_the_fallback_tag_stays(
    registry: FakeRegistry, repository: Repository
) -> None:
    tag = f"sha256-{hashlib.sha256(IMAGE.content).hexdigest()}"
    theirs = {"mediaType": MANIFEST, "digest": f"sha256:{'01' * 32}", "size": 3, "more": "kept"}
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [theirs]}
    registry.manifests[tag] = (json.dumps(index).encode(), INDEX)
    repository.attach(IMAGE, "application/x-test", "one.json", b"one")
    listed = repository.referrers(IMAGE)
    assert listed[0] == theirs
    assert len(listed) == 2


def test_all_pages_of_referrers_are_read(registry: FakeRegistry, repository: Repository) -> None:
    registry.referrers_api = True
    registry.page = 2
    for number in range(5):
        repository.attach(IMAGE, "application/x-test", f"{number}.json", b"%d" % number)
    assert names(registry, repository) == [f"{number}.json" for number in range(5)]


@pytest.mark.parametrize("manifests", [None, 3, [3], [{}], [{"digest": 3}], [None]], ids=repr)
def test_an_index_with_nonsense_in_it(
    registry: FakeRegistry, repository: Repository, manifests: Any
) -> None:
    tag = f"sha256-{hashlib.sha256(IMAGE.content).hexdigest()}"
    registry.manifests[tag] = (json.dumps({"manifests": manifests}).encode(), INDEX)
    assert repository.referrers(IMAGE) == []


# --- addresses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "yes"),
    [
        ("localhost", True),
        ("localhost:5000", True),
        ("127.0.0.1:5000", True),
        ("127.1.2.3", True),
        ("[::1]:5000", True),
        ("[::1]", True),
        ("127.0.0.1.example.org:5000", False),
        ("localhost.example.org", False),
        ("registry.example.org", False),
        ("192.168.0.1:5000", False),
        ("[::2]:5000", False),
        ("docker.io", False),
    ],
)
def test_which_addresses_are_this_machine_s(address: str, *, yes: bool) -> None:
    assert is_loopback(address) is yes


def test_docker_hub_is_asked_where_it_answers(
    deadline: Deadline, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def request(_: object, method: str, url: str, **__: object) -> requests.Response:
        seen.append(f"{method} {url}")
        answer = requests.Response()
        answer.status_code = 404
        return answer

    monkeypatch.setattr(requests.Session, "request", request)
    assert Repository("docker.io", "team/todo", deadline, plain=False).manifest("1.0") is None
    assert seen == ["GET https://registry-1.docker.io/v2/team/todo/manifests/1.0"]
    assert Repository("docker.io", "team/todo", deadline, plain=False).reference == (
        "docker.io/team/todo"
    )


def test_no_request_outlives_the_deadline(
    monkeypatch: pytest.MonkeyPatch, moment: Time, deadline: Deadline
) -> None:
    timeouts: list[float] = []

    def request(*_: object, timeout: float, **__: object) -> requests.Response:
        timeouts.append(timeout)
        moment.now += timeout
        raise requests.exceptions.ReadTimeout

    monkeypatch.setattr(requests.Session, "request", request)
    repository = Repository("registry.example.org", "team/todo", deadline, plain=False)
    with pytest.raises(Unavailable, match="ReadTimeout"):
        repository.manifest("1.0")
    assert timeouts == [pytest.approx(30)]
