"""Serves a Python index: pypiserver, which never replaces a file that is there.

That includes a file that arrived in part: it would take it, and keep it. Here it is refused.
"""

import hashlib

import pypiserver
from pypiserver.__main__ import WsgiHandler
from pypiserver.bottle_wrapper import HTTPError, request, run


def require_whole() -> None:
    """Refuse a file that is not what its sender says it is."""
    upload = request.files.get("content") if request.method == "POST" else None
    if upload is None:
        return
    found = hashlib.file_digest(upload.file, "sha256").hexdigest()
    upload.file.seek(0)
    if found != request.forms.get("sha256_digest"):
        raise HTTPError(400, f"The digest of what arrived is {found}, not what was announced.")


# Nobody is asked for a password: it is reachable from this machine alone.
app = pypiserver.app(
    roots=["/packages"],
    authenticate=[],
    password_file=".",  # noqa: S106  (for none)
    hash_algo="sha256",
    disable_fallback=True,
    backend_arg="simple-dir",
)
app.add_hook("before_request", require_whole)
run(app, server="wsgiref", host="", port=8080, handler_class=WsgiHandler, quiet=True)
