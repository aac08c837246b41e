"""Requests which are answered without the database."""

import io
import json
from wsgiref.util import setup_testing_defaults

import pytest

from todo.wsgi import application

JSON = "application/json"


@pytest.mark.parametrize("path", ["/", "/todos/", "/todos/1/", "/todos/one", "/todos/%00", "/nope"])
def test_unknown_address(client, path):
    response = client.get(path)
    assert response.status_code == 404
    assert response.json() == {"detail": "Not found."}


@pytest.mark.parametrize(
    ("method", "path"), [("PUT", "/todos"), ("PATCH", "/todos"), ("POST", "/todos/1")]
)
def test_method_not_allowed(client, method, path):
    response = client.generic(method, path, "{}", content_type=JSON)
    assert response.status_code == 405
    assert "detail" in response.json()


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded"])
def test_unsupported_media_type(client, content_type):
    response = client.post("/todos", "title=x", content_type=content_type)
    assert response.status_code == 415
    assert "detail" in response.json()


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
@pytest.mark.parametrize("accept", [JSON, "text/html"])
def test_body_that_is_no_todo(client, body, accept):
    response = client.post("/todos", body, content_type=JSON, headers={"Accept": accept})
    assert response.status_code == 400
    assert response["Content-Type"].startswith(accept)


@pytest.mark.parametrize("charset", ["hex", "zlib", "idna", "utf-16", "nope"])
def test_charset_does_not_matter(charset):
    body = b'{"title": ""}'
    environ = {
        "CONTENT_LENGTH": str(len(body)),
        "CONTENT_TYPE": f"{JSON}; charset={charset}",
        "HTTP_HOST": "testserver",
        "PATH_INFO": "/todos",
        "QUERY_STRING": "format=json",
        "REQUEST_METHOD": "POST",
        "wsgi.input": io.BytesIO(body),
    }
    setup_testing_defaults(environ)
    statuses = []
    response = application(environ, lambda status, _headers: statuses.append(status))
    assert statuses == ["400 Bad Request"]
    assert list(json.loads(b"".join(response))) == ["title"]


def test_foreign_host(client, settings):
    settings.ALLOWED_HOSTS = ["todo.example"]
    response = client.get("/todos", headers={"Host": "evil.example"})
    assert response.status_code == 400
    assert "error" in response.json()


def test_pre_flight_is_not_redirected(client, settings):
    settings.SECURE_SSL_REDIRECT = True
    headers = {"Origin": "https://client.example", "Access-Control-Request-Method": "DELETE"}
    response = client.options("/todos", headers=headers)
    assert response.status_code == 200
    assert response["Access-Control-Allow-Origin"] == "*"
    assert "DELETE" in response["Access-Control-Allow-Methods"]


def test_admin_is_not_for_other_origins(client):
    response = client.get("/admin/login/", headers={"Origin": "https://client.example"})
    assert response.status_code == 200
    assert "Access-Control-Allow-Origin" not in response
