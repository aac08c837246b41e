"""The API on its database."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from todo.models import Todo

JSON = "application/json"


@pytest.fixture
def todo():
    return Todo.objects.create(title="walk the dog", completed=True, order=3)


def address(todo):
    return f"/todos/{todo.pk}"


def test_list(client, todo):
    other = Todo.objects.create(title="feed the cat")
    first = Todo.objects.create(title="get up", order=1)
    response = client.get("/todos")
    assert response.status_code == 200
    # By order, and those without one last.
    assert [item["url"] for item in response.json()] == [
        f"http://testserver{address(item)}" for item in (first, todo, other)
    ]


def test_create(client):
    response = client.post("/todos", {"title": "walk the dog"}, content_type=JSON)
    assert response.status_code == 201
    todo = Todo.objects.get()
    assert response.json() == {
        "url": f"http://testserver{address(todo)}",
        "title": "walk the dog",
        "completed": False,
        "order": None,
    }
    assert response["Location"] == response.json()["url"]
    assert client.get(response["Location"]).json() == response.json()


@pytest.mark.parametrize("title", ["x" * 255, "🐕" * 255, "'; DROP TABLE todo_todo; --"])
def test_title_fits_the_database(client, title):
    response = client.post("/todos", {"title": title}, content_type=JSON)
    assert response.status_code == 201
    assert Todo.objects.get().title == title


@pytest.mark.parametrize("order", [-(2**31), 2**31 - 1])
def test_order_fits_the_database(client, order):
    response = client.post("/todos", {"title": "x", "order": order}, content_type=JSON)
    assert response.status_code == 201
    assert Todo.objects.get().order == order


def test_bad_input_changes_nothing(client, todo):
    assert client.post("/todos", {}, content_type=JSON).status_code == 400
    response = client.put(address(todo), {"title": "", "completed": False}, content_type=JSON)
    assert response.status_code == 400
    assert Todo.objects.get().completed is True


@pytest.mark.parametrize("method", ["put", "patch"])
@pytest.mark.parametrize(
    "change", [{"title": "walk the cat"}, {"completed": False}, {"order": 7}, {"order": None}, {}]
)
def test_change_of_one_field(client, todo, method, change):
    response = getattr(client, method)(address(todo), change, content_type=JSON)
    assert response.status_code == 200
    expected = {"title": "walk the dog", "completed": True, "order": 3} | change
    assert response.json() == {"url": f"http://testserver{address(todo)}"} | expected
    assert Todo.objects.filter(pk=todo.pk, **expected).exists()


@pytest.mark.parametrize("method", ["put", "patch"])
def test_change_is_made_under_a_lock(client, todo, method):
    with CaptureQueriesContext(connection) as queries:
        getattr(client, method)(address(todo), {"order": 7}, content_type=JSON)
    assert any("FOR UPDATE" in query["sql"] for query in queries)


def test_options(client, todo):
    response = client.options(address(todo))
    assert response.status_code == 200
    assert set(response.json()["actions"]["PUT"]) == {"url", "title", "completed", "order"}


def test_delete_one(client, todo):
    other = Todo.objects.create(title="feed the cat")
    response = client.delete(address(todo))
    assert response.status_code == 204
    assert response.content == b""
    assert client.get(address(todo)).status_code == 404
    assert list(Todo.objects.all()) == [other]


@pytest.mark.usefixtures("todo")
def test_delete_all(client):
    response = client.delete("/todos")
    assert response.status_code == 204
    assert client.get("/todos").json() == []


@pytest.mark.parametrize("method", ["get", "put", "patch", "delete"])
@pytest.mark.parametrize("pk", ["0", "999999", str(2**63), "9" * 100, "9" * 5000])
def test_unknown_todo(client, method, pk):
    response = getattr(client, method)(f"/todos/{pk}", content_type=JSON)
    assert response.status_code == 404
    assert "detail" in response.json()


@pytest.mark.parametrize("path", ["/todos", "/todos/{}"])
def test_browsable(client, todo, path):
    response = client.get(path.format(todo.pk), headers={"Accept": "text/html"})
    assert response.status_code == 200
    assert response["Content-Type"].startswith("text/html")
    assert "walk the dog" in response.content.decode()
