"""Python indexes: what their pages say, what gets there, and what is told when it does not.

`uv` is a script here that does what the real one was seen to do; the real one publishes to a real
index on the engine.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests

from tasks.engine import index as room
from tasks.engine.console import Console
from tasks.engine.index import Index
from tasks.engine.process import CommandFailed, Processes
from tasks.engine.retries import Deadline
from tasks.errors import Failure, NotAuthorised, StageFailed, Unavailable
from tests.engine import fake_server
from tests.engine.conftest import Programs
from tests.engine.fake_server import Answer, FakeServer, Request

TODO = "todo_backend-1.0-py3-none-any.whl"
DJANGO = "django-5.2-py3-none-any.whl"
YAML = "PyYAML-6.0.01-1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"
CONTENT = {TODO: b"content of todo", DJANGO: b"content of django"}
WHEELS = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}
PASSWORD = "secret-of-the-sea"  # noqa: S105


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class FakeIndex(FakeServer):
    """An index whose files are those of a folder."""

    folder: Path = Path()
    fragment: str = "sha256={sha256}"
    wants: tuple[str, str] | None = None

    def by_itself(self, request: Request) -> Answer:
        project = request.path.removeprefix("/simple/").rstrip("/")
        files = [
            path
            for path in sorted(self.folder.iterdir())
            if path.name.split("-")[0].lower().replace("_", "-") == project
        ]
        if not files:
            return Answer(404)
        links = "".join(
            f'<a href="../../packages/{path.name}'
            f'#{self.fragment.format(sha256=sha256(path.read_bytes()))}">{path.name}</a><br>'
            for path in files
        )
        return Answer(200, f"<!DOCTYPE html><html><body>{links}</body></html>".encode())


@dataclass
class Time:
    """A clock that only moves when somebody sleeps."""

    now: float = 1000.0
    naps: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds


@pytest.fixture
def moment() -> Time:
    return Time()


@pytest.fixture
def deadline(moment: Time) -> Deadline:
    return Deadline(30, clock=lambda: moment.now, sleep=moment.sleep)


@pytest.fixture
def house(tmp_path: Path) -> Path:
    folder = tmp_path / "wheelhouse"
    folder.mkdir()
    for name, content in CONTENT.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeIndex]:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "index"
    folder.mkdir()
    with fake_server.running(FakeIndex(folder=folder)) as running:
        yield running


@pytest.fixture
def door(console: Console, programs: Programs, tmp_path: Path) -> Processes:
    """Return a door whose programs are doubles."""
    return Processes(console, {"PATH": f"{programs.folder}:/usr/bin:/bin"}, tmp_path)


@pytest.fixture
def index(server: FakeIndex, door: Processes, deadline: Deadline) -> Index:
    return Index(door, deadline, url=f"http://{server.address}/")


# What uv says, each time after "Uploading ...", as it was seen.
SAYS = "error: Failed to publish `{file}` to `http://127.0.0.1:40312/`"
ANSWERS = f"{SAYS}\n  cause: Server returned status code {{status}}. Server says: {{text}}"
BROKEN = f"""{SAYS}
  cause: Failed to send POST request
  cause: error sending request for url (http://127.0.0.1:40312/)
  cause: client error (SendRequest)
  cause: connection error
  cause: Connection reset by peer (os error 104)"""


class Uv:
    """A `uv` that puts the files into the folder of an index, after it has failed as told."""

    def __init__(self, programs: Programs, folder: Path) -> None:
        self._programs = programs
        self._folder = folder
        self._state = folder.parent / "uv-state"
        self._state.mkdir()
        self.works()

    @property
    def calls(self) -> list[str]:
        return self._programs.calls

    def works(self) -> None:
        """Have it upload all files."""
        self.fails("", times=0)

    def fails(self, text: str, times: int = 1000, at: str = "") -> None:
        """Have it fail so many times with this text, at the first file or the one named `at`."""
        state, folder = shlex.quote(str(self._state)), shlex.quote(str(self._folder))
        (self._state / "text").write_text(text.format(file=at or "x") + "\n")
        (self._state / "left").write_text(f"{times}\n")
        self._programs.put(
            "uv",
            f"""
            echo "$UV_PUBLISH_USERNAME:$UV_PUBLISH_PASSWORD:$SSL_CERT_FILE" >>{state}/who
            read left <{state}/left
            echo "Publishing files to http://127.0.0.1:40312/"
            for file; do
                case $file in *.whl) ;; *) continue ;; esac
                echo "Uploading $file (403.1KiB)"
                if [ "$left" -gt 0 ] && {{ [ -z "{at}" ] || [ "$file" = "{at}" ]; }}; then
                    echo $((left - 1)) >{state}/left
                    cat {state}/text >&2
                    exit 2
                fi
                cp "$file" {folder}/
            done
            """,
        )

    @property
    def who(self) -> list[str]:
        return (self._state / "who").read_text().splitlines()


@pytest.fixture
def uv(programs: Programs, server: FakeIndex) -> Uv:
    return Uv(programs, server.folder)


def told(failure: Failure) -> str:
    text = "\n".join([failure.message, *failure.evidence, failure.hint])
    assert PASSWORD not in text
    return text


# --- what its pages say --------------------------------------------------------------------------


def test_an_empty_index_has_nothing(index: Index, server: FakeIndex) -> None:
    assert index.hashes(list(WHEELS)) == {}
    # by the names that projects have in an index (PEP 503)
    assert [r.path for r in server.requests] == ["/simple/django/", "/simple/todo-backend/"]


def test_the_hashes_of_what_is_there(index: Index, server: FakeIndex) -> None:
    for name, content in CONTENT.items():
        (server.folder / name).write_bytes(content)
    (server.folder / "todo_backend-0.9-py3-none-any.whl").write_bytes(b"older")
    assert index.hashes(list(WHEELS)) == WHEELS
    assert index.hashes([TODO]) == {TODO: WHEELS[TODO]}


@pytest.mark.parametrize("fragment", ["", "md5=0123", "sha256"])
def test_an_index_that_gives_no_sha256(index: Index, server: FakeIndex, fragment: str) -> None:
    (server.folder / TODO).write_bytes(b"x")
    server.fragment = fragment
    with pytest.raises(StageFailed, match=f"gives no sha256 for {TODO}"):
        index.hashes(list(WHEELS))


@pytest.mark.parametrize(
    ("page", "found"),
    [
        ("", {}),
        ("<html><body>No links here</body></html>", {}),
        ('<a>no address</a><a href="">empty</a><a href>none</a>', {}),
        (f'<a href="/p/{TODO}#sha256=ab">x</a>', {TODO: "ab"}),
        (f"<A HREF='https://files.example.org/p/{TODO}#sha256=ab'>x</A>", {TODO: "ab"}),
        (f'<a data-requires-python="&gt;=3.11" href="{TODO}#sha256=ab">x</a>', {TODO: "ab"}),
        (f'<a href="{TODO}?x=1&amp;y=2#sha256=ab">x</a>', {TODO: "ab"}),
        ('<a href="todo%5Fbackend-1.0-py3-none-any.whl#sha256=ab">x</a>', {TODO: "ab"}),
        (f'<a href="{TODO}#sha256=ab">x', {TODO: "ab"}),
        (f'<!-- <a href="{TODO}#sha256=ab">x</a> -->', {}),
        (f'<a href="{TODO}.metadata#sha256=cd">x</a>', {}),
    ],
)
def test_pages_of_all_kinds(
    index: Index, server: FakeIndex, page: str, found: dict[str, str]
) -> None:
    server.tell("GET", "/simple/todo-backend/", Answer(200, page.encode()))
    assert index.hashes([TODO]) == found


@pytest.mark.parametrize(
    ("url", "simple", "expected"),
    [
        ("https://i.example.org/", "", "https://i.example.org/simple/"),
        ("https://i.example.org", "", "https://i.example.org/simple/"),
        ("https://i.example.org/a/upload", "", "https://i.example.org/a/upload/simple/"),
        ("https://up.example.org/legacy/", "https://example.org/s/", "https://example.org/s/"),
    ],
)
def test_where_an_index_is_read(
    door: Processes, deadline: Deadline, url: str, simple: str, expected: str
) -> None:
    assert Index(door, deadline, url=url, simple_url=simple).simple_url == expected


def test_read_at_another_address_than_written_to(
    server: FakeIndex, door: Processes, deadline: Deadline
) -> None:
    index = Index(
        door,
        deadline,
        url="https://up.example.org/legacy/",
        simple_url=f"http://{server.address}/simple",
    )
    (server.folder / TODO).write_bytes(CONTENT[TODO])
    assert index.hashes([TODO]) == {TODO: WHEELS[TODO]}


# --- refusals and failures while it is read ------------------------------------------------------


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_server_in_trouble_is_asked_again(
    index: Index, server: FakeIndex, moment: Time, status: int
) -> None:
    server.tell("GET", "", Answer(status), times=2)
    assert index.hashes([TODO]) == {}
    assert len(moment.naps) == 2


@pytest.mark.parametrize("fault", ["broken", "cut"])
def test_a_connection_that_breaks_is_made_again(
    index: Index, server: FakeIndex, moment: Time, fault: str
) -> None:
    (server.folder / TODO).write_bytes(CONTENT[TODO])
    answer = Answer(200, b"x" * 1000, broken=fault == "broken", cut=fault == "cut")
    server.tell("GET", "", answer)
    assert index.hashes([TODO]) == {TODO: WHEELS[TODO]}
    assert len(moment.naps) == 1


def test_a_server_that_stays_in_trouble(index: Index, server: FakeIndex) -> None:
    server.tell("GET", "", Answer(503), times=float("inf"))
    with pytest.raises(Unavailable) as caught:
        index.hashes([TODO])
    assert caught.value.exit_code == 69
    assert caught.value.message == (
        f"read {index.simple_url}: it answers 503 ({len(server.requests)} tries, deadline 30 s)"
    )


@pytest.mark.parametrize(("after", "naps"), [("7", [pytest.approx(7)]), ("31", [])])
def test_too_many_requests(
    index: Index, server: FakeIndex, moment: Time, after: str, naps: list[float]
) -> None:
    server.tell("GET", "", Answer(429, headers={"Retry-After": after}))
    if naps:
        assert index.hashes([TODO]) == {}
    else:
        with pytest.raises(Unavailable, match=r"too many requests \(1 tries"):
            index.hashes([TODO])
    assert moment.naps == naps


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_is_final(index: Index, server: FakeIndex, moment: Time, status: int) -> None:
    server.tell("GET", "", Answer(status), times=float("inf"))
    with pytest.raises(NotAuthorised) as caught:
        index.hashes([TODO])
    assert caught.value.exit_code == 77
    assert caught.value.message == f"{index.simple_url} answers {status}"
    assert "INDEX_USERNAME" in caught.value.hint
    assert len(server.requests) == 1
    assert moment.naps == []


def test_another_refusal_is_final_too(index: Index, server: FakeIndex, moment: Time) -> None:
    server.tell("GET", "", Answer(410), times=float("inf"))
    with pytest.raises(StageFailed, match="answers 410"):
        index.hashes([TODO])
    assert moment.naps == []


def test_nobody_listens(door: Processes, deadline: Deadline) -> None:
    index = Index(door, deadline, url="http://127.0.0.1:1/")  # a port given to nobody
    with pytest.raises(Unavailable, match=r"read http://127\.0\.0\.1:1/simple/: ConnectionError"):
        index.hashes([TODO])


def test_tls_where_there_is_none(
    server: FakeIndex, door: Processes, deadline: Deadline, moment: Time
) -> None:
    index = Index(door, deadline, url=f"https://{server.address}/")
    with pytest.raises(Unavailable, match=r"certificate .* cannot be trusted") as caught:
        index.hashes([TODO])
    assert "CA_FILE" in caught.value.hint
    assert moment.naps == []


def test_the_user_is_told_to_the_index_and_to_nobody_else(
    server: FakeIndex, door: Processes, deadline: Deadline, uv: Uv, house: Path
) -> None:
    index = Index(
        door,
        deadline,
        url=f"http://{server.address}/",
        user=("captain", PASSWORD),
        ca_file="/ca.pem",
    )
    index.publish(house, WHEELS)
    assert all(r.headers["Authorization"].startswith("Basic ") for r in server.requests)
    assert uv.who == [f"captain:{PASSWORD}:/ca.pem"]
    assert all(PASSWORD not in call and "captain" not in call for call in uv.calls)


def test_nobody_is_told_where_nobody_is_named(
    index: Index, server: FakeIndex, uv: Uv, house: Path
) -> None:
    index.publish(house, WHEELS)
    assert all("Authorization" not in r.headers for r in server.requests)
    # uv wants something: pypiserver takes anything
    assert uv.who == ["anonymous:anonymous:"]


# --- published -----------------------------------------------------------------------------------


def test_what_is_missing_is_uploaded(index: Index, server: FakeIndex, uv: Uv, house: Path) -> None:
    assert index.publish(house, WHEELS) == sorted(WHEELS)
    assert {p.name: p.read_bytes() for p in server.folder.iterdir()} == CONTENT
    assert len(uv.calls) == 1


def test_what_is_there_is_not_uploaded_again(
    index: Index, server: FakeIndex, uv: Uv, house: Path
) -> None:
    (server.folder / DJANGO).write_bytes(CONTENT[DJANGO])
    assert index.publish(house, WHEELS) == [TODO]
    assert uv.calls[0].endswith(f" {TODO}")
    assert DJANGO not in uv.calls[0]
    assert index.publish(house, WHEELS) == []
    assert len(uv.calls) == 1


def test_the_argv_of_an_upload() -> None:
    assert room.upload("https://i.example.org/", ["a.whl", "b.whl"]) == [
        "uv", "publish", "--no-config", "--trusted-publishing", "never", "--no-attestations",
        "--publish-url", "https://i.example.org/", "a.whl", "b.whl",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (TODO, TODO),
        ("todo.backend-1.0-py3-none-any.whl", TODO),
        ("Django-5.2-py3-none-any.whl", DJANGO),
        ("SQLAlchemy-2.0.post01-py3-none-any.whl", "sqlalchemy-2.0.post1-py3-none-any.whl"),
        (YAML, YAML.replace("PyYAML-6.0.01", "pyyaml-6.0.1")),
        ("x-1.0+Local.1-2b-py2.py3-none-any.whl", "x-1.0+local.1-2b-py2.py3-none-any.whl"),
        ("nonsense.whl", "nonsense.whl"),
        ("x-1.0.tar.gz", "x-1.0.tar.gz"),
    ],
)
def test_names_as_an_index_has_them(name: str, expected: str) -> None:
    assert room.normalized(name) == expected
    assert room.normalized(expected) == expected


def test_a_wheel_whose_name_is_not_as_an_index_has_it(
    index: Index, server: FakeIndex, uv: Uv, house: Path
) -> None:
    # as many on PyPI; uv skips such a file, and says that all went well
    (house / YAML).write_bytes(b"content of yaml")
    wheels = {**WHEELS, YAML: sha256(b"content of yaml")}
    assert index.publish(house, wheels) == sorted(wheels)
    assert room.normalized(YAML) in [path.name for path in server.folder.iterdir()]
    assert YAML not in uv.calls[0]
    assert index.hashes(list(wheels)) == wheels
    assert index.publish(house, wheels) == []
    # nor does it matter how others have named it there
    (server.folder / room.normalized(YAML)).rename(server.folder / YAML)
    assert index.publish(house, wheels) == []
    assert len(uv.calls) == 1


def test_other_content_is_there_under_the_same_name(
    index: Index, server: FakeIndex, uv: Uv, house: Path
) -> None:
    (server.folder / TODO).write_bytes(b"other")
    with pytest.raises(StageFailed) as caught:
        index.publish(house, WHEELS)
    assert caught.value.exit_code == 1
    assert caught.value.message == f"{index.simple_url} has other content under the same name"
    assert caught.value.evidence == (
        f"{TODO}: accepted sha256:{WHEELS[TODO]}, there sha256:{sha256(b'other')}",
    )
    # nothing is sent, the other wheels neither
    assert uv.calls == []
    assert [p.name for p in server.folder.iterdir()] == [TODO]


def test_what_arrived_is_not_what_was_sent(
    index: Index, server: FakeIndex, programs: Programs, house: Path
) -> None:
    programs.put("uv", f"printf half >{server.folder}/{TODO}; cp {DJANGO} {server.folder}/")
    with pytest.raises(StageFailed, match="other content") as caught:
        index.publish(house, WHEELS)
    assert caught.value.evidence[0].endswith(f"there sha256:{sha256(b'half')}")


def test_taken_but_not_listed(
    index: Index, programs: Programs, server: FakeIndex, house: Path
) -> None:
    programs.put("uv", f"cp {DJANGO} {server.folder}/")
    with pytest.raises(StageFailed) as caught:
        index.publish(house, WHEELS)
    assert caught.value.message == f"{index.url} took {TODO}, but does not list it"
    assert "INDEX_SIMPLE_URL" in caught.value.hint


# --- when the upload fails -----------------------------------------------------------------------


def answers(status: str, text: str = "") -> str:
    return ANSWERS.replace("{status}", status).replace("{text}", text)


@pytest.mark.parametrize(
    "text",
    [
        answers("500 Internal Server Error"),
        answers("502 Bad Gateway", "<html>403 times we tried</html>"),
        answers("503 Service Unavailable"),
        answers("429 Too Many Requests"),
        answers("400 Bad Request", "The digest supplied does not match a digest calculated"),
        BROKEN,
        BROKEN.replace("Connection reset by peer (os error 104)", "operation timed out"),
    ],
    ids=["500", "502", "503", "429", "truncated", "reset", "slow"],
)
def test_what_may_succeed_later_is_tried_again(
    index: Index, uv: Uv, house: Path, moment: Time, text: str
) -> None:
    uv.fails(text, times=2)
    assert index.publish(house, WHEELS) == sorted(WHEELS)
    assert len(uv.calls) == 3
    assert len(moment.naps) == 2


def test_what_arrived_is_not_sent_again(index: Index, uv: Uv, house: Path) -> None:
    uv.fails(answers("503 Service Unavailable"), times=1, at=TODO)
    assert index.publish(house, WHEELS) == sorted(WHEELS)
    assert DJANGO in uv.calls[0]
    assert TODO in uv.calls[0]
    assert DJANGO not in uv.calls[1]
    assert TODO in uv.calls[1]


def test_it_stays_in_trouble(
    index: Index, server: FakeIndex, uv: Uv, house: Path, door: Processes
) -> None:
    uv.fails(answers("503 Service Unavailable"), at=TODO)
    with pytest.raises(Unavailable) as caught:
        index.publish(house, WHEELS)
    assert caught.value.exit_code == 69
    tries = len(uv.calls)
    assert caught.value.message == (
        f"upload to {index.url}: it answers 503 ({tries} tries, deadline 30 s)"
    )
    assert caught.value.evidence == (f"published: {DJANGO}", f"missing: {TODO}")
    assert [p.name for p in server.folder.iterdir()] == [DJANGO]
    # and once it works, the rest follows
    uv.works()
    later = Index(door, Deadline(1000), url=index.url)
    assert later.publish(house, WHEELS) == [TODO]


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden"])
def test_an_upload_that_is_not_allowed(
    index: Index, uv: Uv, house: Path, moment: Time, status: str
) -> None:
    uv.fails(answers(status, "invalid or non-existent authentication information"))
    with pytest.raises(NotAuthorised) as caught:
        index.publish(house, WHEELS)
    assert caught.value.exit_code == 77
    assert caught.value.message == (f"{index.url} does not let us upload: it answers {status[:3]}")
    assert caught.value.evidence[-2:] == (
        "published: nothing",
        f"missing: {DJANGO}, {TODO}",
    )
    assert "INDEX_USERNAME and INDEX_PASSWORD" in told(caught.value)
    assert len(uv.calls) == 1
    assert moment.naps == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (answers("400 Bad Request", "no wheels of this project"), "no wheels of this project"),
        (answers("409 Conflict", "exists, 503 of them"), "exists, 503 of them"),
        (answers("404 Not Found"), "404 Not Found"),
        ("error: a bug in uv", "a bug in uv"),
    ],
    ids=["400", "409", "404", "uv"],
)
def test_another_refusal_is_final(index: Index, uv: Uv, house: Path, text: str, said: str) -> None:
    uv.fails(text)
    with pytest.raises(CommandFailed) as caught:
        index.publish(house, WHEELS)
    assert caught.value.exit_code == 1
    assert said in told(caught.value)
    assert caught.value.evidence[-1] == f"missing: {DJANGO}, {TODO}"
    assert len(uv.calls) == 1


def test_a_certificate_that_cannot_be_trusted_is_not_tried_again(
    index: Index, uv: Uv, house: Path, moment: Time
) -> None:
    uv.fails(BROKEN.replace("connection error", "invalid peer certificate: UnknownIssuer"))
    with pytest.raises(Unavailable, match=r"certificate of .* cannot be trusted"):
        index.publish(house, WHEELS)
    assert moment.naps == []


def test_after_a_failure_the_index_does_not_answer(
    index: Index, server: FakeIndex, uv: Uv, house: Path
) -> None:
    uv.fails(answers("403 Forbidden"))
    pages = 2 * len(WHEELS)  # before, and at the upload
    server.tell("GET", "", Answer(404), times=pages)
    server.tell("GET", "", Answer(403), times=float("inf"))
    with pytest.raises(NotAuthorised) as caught:
        index.publish(house, WHEELS)
    assert "published: unknown, since the index does not answer" in caught.value.evidence


def test_an_upload_that_hangs_ends_with_the_deadline(
    server: FakeIndex, door: Processes, programs: Programs, house: Path
) -> None:
    programs.put("uv", "sleep 1000")
    index = Index(door, Deadline(1), url=f"http://{server.address}/")
    with pytest.raises(Unavailable) as caught:
        index.publish(house, WHEELS)
    assert "deadline 1 s" in caught.value.message


def test_no_request_outlives_the_deadline(
    monkeypatch: pytest.MonkeyPatch, moment: Time, door: Processes, deadline: Deadline
) -> None:
    timeouts: list[float] = []

    def get(*_: object, timeout: float, **__: object) -> requests.Response:
        timeouts.append(timeout)
        moment.now += timeout
        raise requests.exceptions.ReadTimeout

    monkeypatch.setattr(requests, "get", get)
    with pytest.raises(Unavailable, match="ReadTimeout"):
        Index(door, deadline, url="https://i.example.org/").hashes([TODO])
    assert timeouts == [pytest.approx(30)]
