"""Who we are at a container registry, and how we say so.

https://distribution.github.io/distribution/spec/auth/
"""

from __future__ import annotations

import base64
import json
import warnings
from dataclasses import dataclass, field
from typing import Any

import requests
from docker import auth
from docker.errors import DockerException
from oras.auth.token import TokenAuth
from oras.auth.utils import parse_auth_header

from tasks.engine.retries import Again, retry_after
from tasks.errors import NotAuthorised, StageFailed


@dataclass(frozen=True)
class Credentials:
    """User and password, or an identity token; or nothing, for nobody."""

    user: str = ""
    password: str = field(default="", repr=False)
    identity: str = field(default="", repr=False)

    def __bool__(self) -> bool:
        return bool(self.password or self.identity)

    @property
    def basic(self) -> str:
        """User and password, as a header has them."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


def of(registry: str) -> Credentials:
    """Return those of the Docker configuration, through its helpers if it has any.

    Raises NotAuthorised if a helper fails.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a helper that is missing: the error says so too
            found = auth.resolve_authconfig(auth.load_config(), registry) or {}
    except (DockerException, ValueError, KeyError) as error:
        raise NotAuthorised(
            f"the credentials for {registry} cannot be read",
            evidence=[str(error)] if isinstance(error, DockerException) else [],
            hint="see the Docker configuration, and the credential helper that it names",
        ) from None
    known = {key.lower(): value for key, value in found.items()}
    return Credentials(*(known.get(k) or "" for k in ("username", "password", "identitytoken")))


class Refused(Exception):  # noqa: N818
    """The registry does not let us in, and there is nothing more that we could say."""

    def __init__(self, code: int) -> None:
        super().__init__(f"it answers {code}")


class Authentication(TokenAuth):  # type: ignore[misc]
    """Answers a registry's challenge: with the password, or a token for just what was asked.

    What was answered last goes with each request that follows. oras by itself knows no registry
    that wants the password, and keeps a token that is too old, or for something else.
    """

    def __init__(self, session: requests.Session, ca_file: str, known: Credentials) -> None:
        super().__init__()
        self.session = session
        self._verify = ca_file or True
        self._known = known

    def get_auth_header(self) -> dict[str, str]:
        """Return what goes with each request."""
        return {"Authorization": self.token} if self.token else {}

    def authenticate_request(
        self, original: requests.Response, headers: dict[str, str], **_: bool
    ) -> tuple[dict[str, str], bool]:
        """Return the headers to try again with. Raises Refused if there are no better ones."""
        challenge = original.headers.get("Www-Authenticate", "")
        scheme = challenge.partition(" ")[0].lower()
        answer = ""
        if scheme == "basic" and self._known.password:
            answer = self._known.basic
        elif scheme == "bearer" and (token := self._token(challenge)):
            answer = f"Bearer {token}"
        if not answer or answer == original.request.headers.get("Authorization"):
            raise Refused(original.status_code)
        self.token = answer
        return {**headers, "Authorization": answer}, True

    def _token(self, challenge: str) -> str:
        """Return a token for what a challenge speaks of; empty if we get none."""
        wanted = parse_auth_header(challenge)
        realm, known = str(wanted.realm), self._known
        if not realm.startswith(("http:", "https:")):
            return ""
        asked = {"service": wanted.service or "", "scope": wanted.scope or ""}
        if known.identity:
            form = {**asked, "grant_type": "refresh_token", "refresh_token": known.identity,
                    "client_id": "seatrial"}  # fmt: skip
            answer = self.session.post(realm, data=form, verify=self._verify)
        else:
            headers = {"Authorization": known.basic} if known.password else {}
            answer = self.session.get(realm, params=asked, headers=headers, verify=self._verify)
        if answer.status_code == requests.codes.too_many_requests:
            raise Again("too many requests", retry_after(answer.headers.get("Retry-After")))
        if answer.status_code >= requests.codes.internal_server_error:
            raise Again(f"{realm} answers {answer.status_code}")
        about = parsed(answer.content) if answer.ok else {}
        return str(about.get("token") or about.get("access_token") or "")


def parsed(content: bytes) -> dict[str, Any]:
    """Return a JSON object. Raises StageFailed if it is something else."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise StageFailed(
            "the registry gave something else than a JSON object",
            hint="is it a registry, and nothing in between that answers in its place?",
        )
    return document
