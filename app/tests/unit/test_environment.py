"""Reading the environment."""

import pytest
from django.core.exceptions import ImproperlyConfigured

from todo.environment import Environment


def test_text():
    environment = Environment({"NAME": "value"})
    assert environment.text("NAME") == "value"
    assert environment.text("OTHER", default="default") == "default"
    environment.check()


@pytest.mark.parametrize("variables", [{}, {"NAME": ""}])
def test_missing(variables):
    environment = Environment(variables)
    environment.text("NAME")
    with pytest.raises(ImproperlyConfigured, match="NAME is missing"):
        environment.check()


def test_all_problems_are_reported_at_once_and_no_values():
    environment = Environment({"KEY": "too short", "PORT": "http", "SWITCH": "yes", "HOSTS": "*"})
    environment.secret("KEY")
    environment.port("PORT", default="1")
    environment.switch("SWITCH", default="on")
    environment.hosts("HOSTS")
    environment.text("TEXT")
    with pytest.raises(ImproperlyConfigured) as caught:
        environment.check()
    message = str(caught.value)
    assert all(name in message for name in ("KEY", "PORT", "SWITCH", "HOSTS", "TEXT"))
    assert not any(value in message for value in ("too short", "http", "yes", "*"))


@pytest.mark.parametrize(
    ("value", "hosts"),
    [
        ("todo.example", ["todo.example"]),
        ("localhost, 127.0.0.1,[::1],", ["localhost", "127.0.0.1", "[::1]"]),
    ],
)
def test_hosts(value, hosts):
    environment = Environment({"HOSTS": value})
    assert environment.hosts("HOSTS") == hosts
    environment.check()


@pytest.mark.parametrize(
    "value",
    [",", "*", "*.todo.example", ".todo.example", "localhost:8000", "http://localhost", "a b"],
)
def test_bad_hosts(value):
    environment = Environment({"HOSTS": value})
    environment.hosts("HOSTS")
    assert environment.problems


@pytest.mark.parametrize("value", ["0", "65536", "-1", "5432 ", "٥٤٣٢", "123456"])
def test_bad_ports(value):
    environment = Environment({"PORT": value})
    environment.port("PORT", default="5432")
    assert environment.problems


@pytest.mark.parametrize(("value", "expected"), [("on", True), ("off", False), ("", True)])
def test_switch(value, expected):
    environment = Environment({"SWITCH": value})
    assert environment.switch("SWITCH", default="on") is expected
    environment.check()
