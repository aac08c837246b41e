"""The health check, with a database that only seems to be there."""

import logging

import pytest
from django.db import InterfaceError, OperationalError

from todo.models import Todo


@pytest.fixture
def database(monkeypatch, settings):
    """Set what the database does when it is asked for a todo."""
    settings.REVISION = "0123abc"

    def behaves(query):
        monkeypatch.setattr(Todo.objects, "exists", query, raising=False)

    behaves(lambda: False)
    return behaves


@pytest.mark.usefixtures("database")
def test_ok(client):
    response = client.get("/healthz")
    assert response.status_code == 200
    assert response.json() == {"status": "ok", "revision": "0123abc"}
    assert "no-store" in response["Cache-Control"]


@pytest.mark.parametrize("error", [OperationalError, InterfaceError])
def test_no_database(client, database, caplog, error):
    def fail():
        raise error("connection to db.example failed")

    database(fail)
    with caplog.at_level(logging.ERROR):
        response = client.get("/healthz")
    assert response.status_code == 503
    assert response.json() == {"status": "database unavailable", "revision": "0123abc"}
    assert "connection to db.example failed" in caplog.text


@pytest.mark.usefixtures("database")
def test_neither_https_nor_the_host_matters(client, settings):
    settings.SECURE_SSL_REDIRECT = True
    settings.ALLOWED_HOSTS = ["todo.example"]
    assert client.get("/todos", headers={"Host": "todo.example"}).status_code == 301
    assert client.get("/healthz", headers={"Host": "127.0.0.1:8000"}).status_code == 200


def test_cannot_be_written_to(client):
    assert client.post("/healthz").status_code == 405
