"""Bad input is refused with a reason, in JSON, and is never an error of the server."""

import httpx
import pytest

JSON = {"Content-Type": "application/json"}

BAD_FIELDS = [
    ("title", "null"),
    ("title", '""'),
    ("title", '"  "'),
    ("title", "5"),
    ("title", "true"),
    ("title", '["walk the dog"]'),
    ("title", '"nul \\u0000 character"'),
    ("title", '"lone surrogate \\ud800"'),
    ("title", '"' + "x" * 256 + '"'),
    ("completed", "null"),
    ("completed", "1"),
    ("completed", '"true"'),
    ("completed", "{}"),
    ("order", '"first"'),
    ("order", '"1"'),
    ("order", "1.5"),
    ("order", "1e999"),
    ("order", "true"),
    ("order", "[]"),
    ("order", "2147483648"),
    ("order", "-2147483649"),
    ("order", "99999999999999999999999999"),
]


@pytest.fixture(scope="module")
def todo(client):
    """Return a todo that no refused change changes: one is enough for all of them."""
    todo = client.post("/todos", json={"title": "walk the dog"}).json()
    yield todo
    client.delete(todo["url"])


def refused(response: httpx.Response, status: int) -> dict:
    """Return the reason of a refusal."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/json"
    return response.json()


def test_title_is_required(client):
    assert list(refused(client.post("/todos", json={}), 400)) == ["title"]


@pytest.mark.parametrize(("field", "value"), BAD_FIELDS)
def test_bad_field_of_a_new_todo(client, field, value):
    title = "" if field == "title" else '"title": "x", '
    body = f'{{{title}"{field}": {value}}}'
    assert list(refused(client.post("/todos", content=body, headers=JSON), 400)) == [field]


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
@pytest.mark.parametrize(("field", "value"), BAD_FIELDS)
def test_bad_field_of_a_change(client, todo, method, field, value):
    body = f'{{"{field}": {value}}}'
    response = client.request(method, todo["url"], content=body, headers=JSON)
    assert list(refused(response, 400)) == [field]
    assert client.get(todo["url"]).json() == todo


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"title": "\xff"}',
        b'{"title": "x", "order": NaN}',
        b'{"title": "x", "order": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b"[]",
        b"null",
        b'"title"',
    ],
)
def test_body_that_is_no_todo(client, body):
    assert refused(client.post("/todos", content=body, headers=JSON), 400)


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("pk", ["0", "one", str(2**63), "9" * 100, "-1", "1.5"])
def test_unknown_todo(client, method, pk):
    assert "detail" in refused(client.request(method, f"/todos/{pk}"), 404)


@pytest.mark.parametrize("path", ["/todos/", "/nothing/here"])
def test_unknown_address(client, path):
    assert "detail" in refused(client.get(path), 404)


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_method_not_allowed_on_all_todos(client, method):
    assert "detail" in refused(client.request(method, "/todos", json={"title": "x"}), 405)


def test_method_not_allowed_on_one_todo(client, create):
    assert "detail" in refused(client.post(create()["url"], json={"title": "x"}), 405)


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded"])
def test_unsupported_media_type(client, content_type):
    response = client.post("/todos", content="title=x", headers={"Content-Type": content_type})
    assert "detail" in refused(response, 415)


def test_large_body_that_nobody_reads(client):
    # Often enough to see the answer get lost if it can.
    for _ in range(20):
        response = client.post("/todos", content="x" * 500_000)
        assert "detail" in refused(response, 415)


@pytest.mark.parametrize("charset", ["hex", "zlib", "idna", "utf-16", "nope"])
def test_charset_does_not_matter(client, charset):
    headers = {"Content-Type": f"application/json; charset={charset}"}
    response = client.post("/todos?format=json", content='{"title": ""}', headers=headers)
    assert list(refused(response, 400)) == ["title"]


def test_foreign_host(client):
    assert refused(client.get("/todos", headers={"Host": "evil.example"}), 400)
