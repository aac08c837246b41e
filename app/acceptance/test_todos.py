"""Todos are created, read, changed and deleted."""

import pytest


def test_created(client, base_url):
    response = client.post("/todos", json={"title": "walk the dog"})
    assert response.status_code == 201
    assert response.headers["Content-Type"] == "application/json"
    todo = response.json()
    assert todo["url"].startswith(f"{base_url}/todos/")
    assert todo == {
        "url": todo["url"],
        "title": "walk the dog",
        "completed": False,
        "order": None,
    }
    assert response.headers["Location"] == todo["url"]
    assert client.get(response.headers["Location"]).json() == todo
    client.delete(todo["url"])


def test_created_with_all_fields(create):
    todo = create("die Straße kehren 道 🐕", completed=True, order=523)
    assert todo["title"] == "die Straße kehren 道 🐕"
    assert todo["completed"] is True
    assert todo["order"] == 523


def test_listed(client, create):
    todos = [create("walk the dog"), create("feed the cat", order=1)]
    response = client.get("/todos")
    assert response.status_code == 200
    assert all(todo in response.json() for todo in todos)


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
@pytest.mark.parametrize("change", [{"title": "walk the cat"}, {"completed": False}, {"order": 7}])
def test_one_field_changed(client, create, method, change):
    todo = create(completed=True, order=3)
    response = client.request(method, todo["url"], json=change)
    assert response.status_code == 200
    assert response.json() == todo | change
    assert client.get(todo["url"]).json() == todo | change


def test_all_fields_changed(client, create):
    todo = create()
    change = {"title": "walk the cat", "completed": True, "order": 7}
    assert client.put(todo["url"], json=change).json() == todo | change


def test_described(client, create):
    for url in ("/todos", create()["url"]):
        response = client.options(url)
        assert response.status_code == 200
        assert "application/json" in response.json()["parses"]


def test_one_deleted(client, create):
    todo, other = create(), create()
    response = client.delete(todo["url"])
    assert response.status_code == 204
    assert response.content == b""
    assert client.get(todo["url"]).status_code == 404
    assert client.get(other["url"]).status_code == 200


def test_all_deleted(client, create):
    todo = create()
    response = client.delete("/todos")
    assert response.status_code == 204
    assert response.content == b""
    assert client.get("/todos").json() == []
    assert client.get(todo["url"]).status_code == 404


@pytest.mark.parametrize("host", ["localhost", "localhost:12345"])
def test_url_is_where_the_request_came_through(client, create, scheme, host):
    path = create()["url"].removeprefix(str(client.base_url).rstrip("/"))
    todo = client.get(path, headers={"Host": host}).json()
    assert todo["url"] == f"{scheme}://{host}{path}"
    assert todo in client.get("/todos", headers={"Host": host}).json()

    response = client.post("/todos", json={"title": "x"}, headers={"Host": host})
    assert response.headers["Location"].startswith(f"{scheme}://{host}/todos/")
    client.delete(response.headers["Location"].removeprefix(f"{scheme}://{host}"))
