"""The application is in good order: its health, its static files, its pages."""

import re

import pytest


def test_health(client, revision):
    response = client.get("/healthz")
    assert response.status_code == 200
    assert response.json() == {"status": "ok", "revision": revision}


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/static/admin/css/base.css", r"text/css"),
        ("/static/rest_framework/css/bootstrap.min.css", r"text/css"),
        ("/static/rest_framework/js/default.js", r"(application|text)/javascript"),
    ],
)
def test_static_files_are_served_by_the_proxy(client, path, content_type):
    response = client.get(path, headers={"Accept-Encoding": "identity"})
    assert response.status_code == 200
    assert re.match(content_type, response.headers["Content-Type"])
    assert response.headers["Server"].startswith("nginx")
    # The application's answers carry the proxy's name as well, but only the proxy makes an ETag
    # of a file's time and size.
    assert re.fullmatch(rf'"[0-9a-f]+-{len(response.content):x}"', response.headers["ETag"])


def test_unknown_static_file(client):
    assert client.get("/static/nothing").status_code == 404


def test_admin_asks_for_a_login(client):
    response = client.get("/admin/", follow_redirects=True)
    assert response.status_code == 200
    assert response.url.path == "/admin/login/"
    assert 'name="password"' in response.text
    assert 'href="/static/admin/css/base.css"' in response.text


def test_api_is_browsable(client, create):
    todo = create("walk the <dog>")
    for url in ("/todos", todo["url"]):
        response = client.get(url, headers={"Accept": "text/html"})
        assert response.status_code == 200
        assert response.headers["Content-Type"].startswith("text/html")
        assert "walk the &lt;dog&gt;" in response.text
        assert "/static/rest_framework/css/bootstrap.min.css" in response.text


@pytest.mark.parametrize("path", ["/nothing/here", "/todos/0", "/admin/nothing"])
def test_errors_show_nothing_of_the_inside(client, path):
    response = client.get(path, headers={"Accept": "text/html"}, follow_redirects=True)
    assert not re.search("DEBUG|URLconf|Traceback", response.text)
