"""Settings of the tests and of commands in development: nothing has to be set."""

import os

from .base import *  # noqa: F403
from .base import DATABASE

SECRET_KEY = "of the tests, where it protects nothing"  # noqa: S105

# The unit tests never connect. The integration tests do, to a database they create themselves
# next to the one named here.
DATABASES = {
    "default": DATABASE
    | {
        "HOST": os.environ.get("APP_DB_HOST", ""),
        "PORT": os.environ.get("APP_DB_PORT", ""),
        "NAME": os.environ.get("APP_DB_NAME") or "todo",
        "USER": os.environ.get("APP_DB_USER", ""),
        "PASSWORD": os.environ.get("APP_DB_PASSWORD", ""),
    }
}
