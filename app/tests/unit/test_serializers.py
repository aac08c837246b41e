"""Which input is taken, and which is not."""

import pytest

from todo.models import Todo
from todo.serializers import TodoSerializer


def test_only_the_title_is_required():
    serializer = TodoSerializer(data={"title": "walk the dog"})
    assert serializer.is_valid()
    assert serializer.validated_data == {"title": "walk the dog"}


@pytest.mark.parametrize(
    "data",
    [
        {"title": "x" * 255},
        {"title": "Straße 道 🐕"},
        {"completed": True},
        {"order": -(2**31)},
        {"order": 2**31 - 1},
        {"order": None},
    ],
)
def test_good_input(data):
    serializer = TodoSerializer(data=data, partial=True)
    assert serializer.is_valid()
    assert serializer.validated_data == data


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("title", ""),
        ("title", " \n"),
        ("title", "x" * 256),
        ("title", "nul \0 character"),
        ("title", "lone surrogate \ud800"),
        ("title", None),
        ("title", 5),
        ("title", True),
        ("title", ["walk the dog"]),
        ("completed", None),
        ("completed", 1),
        ("completed", "true"),
        ("completed", {}),
        ("order", "1"),
        ("order", 1.5),
        ("order", True),
        ("order", []),
        ("order", 2**31),
        ("order", -(2**31) - 1),
        ("order", float("inf")),
    ],
)
def test_bad_input(field, value):
    serializer = TodoSerializer(data={"title": "walk the dog", field: value})
    assert not serializer.is_valid()
    assert list(serializer.errors) == [field]


def test_url_is_not_for_the_client_to_set():
    serializer = TodoSerializer(data={"title": "walk the dog", "url": "http://evil.example/"})
    assert serializer.is_valid()
    assert "url" not in serializer.validated_data


@pytest.mark.parametrize("host", ["localhost", "localhost:12345", "todo.example"])
def test_url_is_where_the_request_came_through(rf, settings, host):
    settings.ALLOWED_HOSTS = ["localhost", "todo.example"]
    request = rf.get("/todos", headers={"Host": host})
    data = TodoSerializer(Todo(pk=7, title="x"), context={"request": request}).data
    assert data == {
        "url": f"http://{host}/todos/7",
        "title": "x",
        "completed": False,
        "order": None,
    }


def test_url_is_https_behind_a_proxy_that_says_so(rf, settings):
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    headers = {"Host": "localhost:8443", "X-Forwarded-Proto": "https"}
    settings.ALLOWED_HOSTS = ["localhost"]
    request = rf.get("/todos", headers=headers)
    data = TodoSerializer(Todo(pk=7, title="x"), context={"request": request}).data
    assert data["url"] == "https://localhost:8443/todos/7"
