"""The release settings, as a server and Django's deployment checks see them."""

import os
import runpy
import sys

import pytest
from django.conf import settings as in_use
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.test import override_settings
from gunicorn.app.wsgiapp import WSGIApplication

from todo.wsgi import application

SECRETS = {
    "APP_SECRET_KEY": "0123456789abcdefghijklmnopqrstuvwxyz-0123456789abcdefghijklmnopqrstuvwxyz",
    "APP_DB_PASSWORD": "the password of the database",
}
GOOD = {
    "APP_ALLOWED_HOSTS": "todo.example,localhost",
    "APP_DB_HOST": "db.example",
    "APP_DB_NAME": "todo",
    "APP_DB_USER": "todo",
    **SECRETS,
}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith("APP_")]:
        monkeypatch.delenv(name)
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)


def release():
    return runpy.run_module("todo.settings.release")


def test_from_the_environment():
    settings = release()
    assert settings["DEBUG"] is False
    assert settings["SECRET_KEY"] == GOOD["APP_SECRET_KEY"]
    assert settings["ALLOWED_HOSTS"] == ["todo.example", "localhost"]
    database = settings["DATABASES"]["default"]
    assert database["HOST"] == "db.example"
    assert database["PORT"] == "5432"
    assert database["NAME"] == "todo"
    assert database["USER"] == "todo"
    assert database["PASSWORD"] == GOOD["APP_DB_PASSWORD"]


def test_https_is_on_unless_switched_off(monkeypatch):
    assert release()["SECURE_SSL_REDIRECT"] is True
    monkeypatch.setenv("APP_HTTPS", "off")
    settings = release()
    assert settings["SECURE_SSL_REDIRECT"] is False
    # Without a proxy that sets the header, any client could.
    assert "SECURE_PROXY_SSL_HEADER" not in settings


def test_missing_variables_are_named_all_at_once(monkeypatch):
    for name in GOOD:
        monkeypatch.delenv(name)
    with pytest.raises(ImproperlyConfigured) as caught:
        release()
    assert all(f"{name} is missing" in str(caught.value) for name in GOOD)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("APP_ALLOWED_HOSTS", "*"),
        ("APP_DB_PORT", "postgresql"),
        ("APP_HTTPS", "yes"),
        ("APP_SECRET_KEY", "short"),
    ],
)
def test_bad_variables_are_named(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ImproperlyConfigured, match=name):
        release()


def check(**but):
    """Run Django's deployment checks on the release settings, some of which may be others."""
    values = {**release(), **but}
    # The database is not asked, and of what is the same everywhere nothing has to be loaded anew.
    changed = {
        name: value
        for name, value in values.items()
        if name.isupper() and name != "DATABASES" and value != getattr(in_use, name, None)
    }
    with override_settings(**changed):
        call_command("check", deploy=True, fail_level="WARNING")


@pytest.mark.parametrize("https", ["on", "off"])
def test_deployment_checks(monkeypatch, https):
    monkeypatch.setenv("APP_HTTPS", https)
    check()


def test_deployment_checks_would_tell():
    with pytest.raises(SystemCheckError, match=r"security\.W012"):
        check(SESSION_COOKIE_SECURE=False)


def test_server_loads_the_application(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gunicorn", "--config", "python:todo.gunicorn"])
    assert WSGIApplication().load() is application
