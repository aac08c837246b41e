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


class BehindTls(httpx.HTTPTransport):
    """What users of the application have before it: a proxy that ends TLS, and says so."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Pass a request on in plain HTTP, with the scheme that it came by."""
        request.headers["X-Forwarded-Proto"] = request.url.scheme
        request.url = request.url.copy_with(scheme="http")
        return super().handle_request(request)


@pytest.fixture(scope="session")
def scheme() -> str:
    """Return the scheme that the application is reached by."""
    return "https" if os.environ.get("APP_HTTPS") == "on" else "http"


@pytest.fixture(scope="session")
def base_url(scheme: str) -> str:
    """Return where the proxy is."""
    return f"{scheme}://{os.environ['FRONT_END']}"


@pytest.fixture(scope="session")
def revision() -> str:
    """Return which revision is expected there."""
    return os.environ["REVISION"]


@pytest.fixture(scope="session")
def client(base_url: str) -> Iterator[httpx.Client]:
    """Return a client of the API."""
    # No proxy from the environment is to come between.
    with httpx.Client(base_url=base_url, trust_env=False, transport=BehindTls()) as client:
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
