"""Settings of the released image, all of them from the environment; see the README."""

import os

from ..environment import Environment
from .base import *  # noqa: F403
from .base import DATABASE

environment = Environment(os.environ)

SECRET_KEY = environment.secret("APP_SECRET_KEY")
ALLOWED_HOSTS = environment.hosts("APP_ALLOWED_HOSTS")

DATABASES = {
    "default": DATABASE
    | {
        "HOST": environment.text("APP_DB_HOST"),
        "PORT": environment.port("APP_DB_PORT", default="5432"),
        "NAME": environment.text("APP_DB_NAME"),
        "USER": environment.text("APP_DB_USER"),
        "PASSWORD": environment.text("APP_DB_PASSWORD"),
        # Each thread keeps its connection, and looks at it before it is used for another request.
        "CONN_MAX_AGE": 60,
        "CONN_HEALTH_CHECKS": True,
    }
}

https = environment.switch("APP_HTTPS", default="on")

environment.check()

SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = https

if https:
    # A proxy in front terminates TLS. It has to set this header, whatever the client sent.
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_HSTS_SECONDS = 365 * 24 * 60 * 60
    SILENCED_SYSTEM_CHECKS = [
        # Whether all subdomains speak TLS as well, and whether browsers should be told so for
        # good, is for the owner of the domain to say, not for one application on it.
        "security.W005",
        "security.W021",
    ]
else:
    # Without TLS, as on a developer's machine or in a test, what depends on it has to be off:
    # browsers would neither follow the redirect nor send the cookies back.
    SILENCED_SYSTEM_CHECKS = [
        "security.W004",  # HSTS
        "security.W008",  # redirect to HTTPS
        "security.W012",  # session cookie
        "security.W016",  # CSRF cookie
    ]
