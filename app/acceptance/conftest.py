"""What the specs share. They see the application from outside only, through its proxy."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

Create = Callable[..., dict[str, Any]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the specs marked `last` behind all others; the order is otherwise kept."""
    items.sort(key=lambda item: item.get_closest_marker("last") is not None)


@pytest.fixture(scope="session")
def base_url() -> str:
    """Return where the proxy is."""
    return os.environ["BASE_URL"].rstrip("/")


@pytest.fixture(scope="session")
def revision() -> str:
    """Return which revision is expected there."""
    return os.environ["REVISION"]


@pytest.fixture(scope="session")
def client(base_url: str) -> Iterator[httpx.Client]:
    """Return a client of the API."""
    # No proxy from the environment is to come between.
    with httpx.Client(base_url=base_url, trust_env=False) as client:
        yield client


@pytest.fixture
def create(client: httpx.Client) -> Iterator[Create]:
    """Return a function that creates todos, which are deleted after the spec."""
    urls = []

    def create(title: str = "walk the dog", **fields: object) -> dict[str, Any]:
        response = client.post("/todos", json={"title": title, **fields})
        assert response.status_code == 201, response.text
        todo = response.json()
        urls.append(todo["url"])
        return todo

    yield create
    for url in urls:
        client.delete(url)
