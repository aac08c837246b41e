"""A restart of the application loses nothing.

The specs run twice: those not marked `restarted`, then, after the restart, those which are.
"""

import pytest


@pytest.fixture
def left(revision):
    """Return the fields of the todo that is left behind."""
    return {"title": f"left behind by {revision}", "completed": True, "order": 42}


def find(client, fields):
    """Return all todos with these fields."""
    return [todo for todo in client.get("/todos").json() if todo.items() >= fields.items()]


@pytest.mark.last
def test_todo_is_left_behind(client, left):
    for todo in find(client, left):  # of an earlier run
        client.delete(todo["url"])
    assert client.post("/todos", json=left).status_code == 201


@pytest.mark.restarted
def test_todo_is_still_there(client, left):
    (todo,) = find(client, left)
    assert client.get(todo["url"]).json() == todo
    client.delete(todo["url"])
