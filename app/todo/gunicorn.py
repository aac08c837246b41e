"""Configuration of the server: ``gunicorn --config python:todo.gunicorn``."""

import contextlib
from typing import Any

wsgi_app = "todo.wsgi:application"
bind = "0.0.0.0:8000"  # of the container: what is published is the port of the proxy

# Loading the application opens no connection, so nothing unsafe is shared by the workers, which
# start faster and with less memory.
preload_app = True
workers = 2
worker_class = "gthread"
threads = 4

# Workers show that they are alive by touching a file, which on a disk can block them.
worker_tmp_dir = "/dev/shm"  # noqa: S108
# Less than the ten seconds between Docker's SIGTERM and its SIGKILL.
graceful_timeout = 8

accesslog = "-"

# Django alone decides whether X-Forwarded-Proto can be trusted (see APP_HTTPS).
forwarded_allow_ips = ""

# Nobody administers it at run time, and there may be no place to write a socket to.
control_socket_disable = True


def post_request(_worker: Any, request: Any, _environ: Any, _response: Any) -> None:
    """Read what the application left of the body, as after an unsupported media type.

    If the connection were closed with data unread, it would be reset, and the answer could get
    lost on its way to the proxy.
    """
    with contextlib.suppress(OSError):
        while request.body.read(64 * 1024):
            pass
