"""A container registry in this process."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

from tests.engine.fake_server import Answer, FakeServer, Request

INDEX = "application/vnd.oci.image.index.v1+json"


@dataclass
class FakeRegistry(FakeServer):
    """A registry with one repository, team/todo."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    referrers_api: bool = False
    page: int = 100  # referrers to a page
    wants: str = ""  # basic, bearer: how one has to say who one is
    tokens: dict[str, str] = field(default_factory=dict)  # scopes by token
    truncates: int = 0  # so many uploads arrive in half

    def tags(self) -> list[str]:
        return sorted(name for name in self.manifests if not name.startswith("sha256:"))

    # --- answers ---------------------------------------------------------------------------------

    def by_itself(self, request: Request) -> Answer:
        parts = urlsplit(request.path)
        if parts.path == "/token":
            return self._token(request)
        if refusal := self._refusal(request):
            return refusal
        kind, _, rest = parts.path.removeprefix("/v2/team/todo/").partition("/")
        return {
            "manifests": self._manifests,
            "blobs": self._blobs,
            "referrers": self._referrers,
            "tags": self._tags,
        }.get(kind, self._nothing)(request, rest, parse_qs(parts.query))

    def _nothing(self, *_: object) -> Answer:
        return Answer(404, b'{"errors": [{"code": "NAME_UNKNOWN"}]}')

    def _tags(self, *_: object) -> Answer:
        return Answer(200, json.dumps({"name": "team/todo", "tags": self.tags()}).encode())

    def _manifests(self, request: Request, reference: str, _: object) -> Answer:
        if request.method == "PUT":
            name = f"sha256:{hashlib.sha256(request.content).hexdigest()}"
            kept = (request.content, request.headers["Content-Type"])
            self.manifests |= {name: kept, reference: kept}
            subject = json.loads(request.content).get("subject")
            headers = {"OCI-Subject": subject["digest"]} if subject and self.referrers_api else {}
            return Answer(201, headers=headers)
        if reference not in self.manifests:
            return Answer(404, b'{"errors": [{"code": "MANIFEST_UNKNOWN"}]}')
        content, kind = self.manifests[reference]
        return Answer(200, content, {"Content-Type": kind})

    def _blobs(self, request: Request, rest: str, query: dict[str, list[str]]) -> Answer:
        if request.method == "POST":
            return Answer(202, headers={"Location": "/v2/team/todo/blobs/uploads/one?state=x"})
        if request.method == "PUT":
            content = request.content
            if self.truncates > 0:
                self.truncates -= 1
                content = content[: len(content) // 2]
            name = f"sha256:{hashlib.sha256(content).hexdigest()}"
            if query["digest"] != [name]:
                return Answer(400, b'{"errors": [{"code": "DIGEST_INVALID"}]}')
            self.blobs[name] = content
            return Answer(201)
        if request.method == "DELETE":
            return Answer(204)
        found = self.blobs.get(rest)
        return Answer(200, found) if found is not None else self._nothing()

    def _referrers(self, _: object, subject: str, query: dict[str, list[str]]) -> Answer:
        if not self.referrers_api:
            return Answer(404, b"404 page not found")
        there = [
            {"digest": name, "mediaType": kind, "size": len(content)}
            for name, (content, kind) in self.manifests.items()
            if name.startswith("sha256:")
            and (json.loads(content).get("subject") or {}).get("digest") == subject
        ]
        start = int(query.get("from", ["0"])[0])
        end = start + self.page
        more = f'</v2/team/todo/referrers/{subject}?from={end}>; rel="next"'
        return Answer(
            200,
            json.dumps({"manifests": there[start:end]}).encode(),
            {"Content-Type": INDEX, **({"Link": more} if end < len(there) else {})},
        )

    # --- who is there ----------------------------------------------------------------------------

    def _refusal(self, request: Request) -> Answer | None:
        said = request.headers.get("Authorization", "")
        if self.wants == "basic" and said != basic("captain", "secret-of-the-sea"):
            return Answer(401, headers={"Www-Authenticate": 'Basic realm="The Harbour"'})
        if self.wants == "bearer":
            scope = "pull" if request.method in {"GET", "HEAD"} else "pull,push"
            wanted = f"repository:team/todo:{scope}"
            allowed = self.tokens.get(said.removeprefix("Bearer "), "")
            if not allowed.startswith(wanted):
                challenge = (
                    f'Bearer realm="http://{self.address}/token",service="harbour",scope="{wanted}"'
                )
                return Answer(401, headers={"Www-Authenticate": challenge})
        return None

    def _token(self, request: Request) -> Answer:
        query = parse_qs(urlsplit(request.path).query)
        form = parse_qs(request.content.decode())
        known = request.headers.get("Authorization") == basic("captain", "secret-of-the-sea")
        if form.get("refresh_token") == ["identity-of-the-sea"]:
            query, known = form, True
        scope = query["scope"][0]
        if not known and "push" in scope:
            return Answer(401, b'{"errors": []}')
        token = f"token-{len(self.tokens)}"
        self.tokens[token] = scope
        return Answer(200, json.dumps({"token": token, "expires_in": 60}).encode())


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
