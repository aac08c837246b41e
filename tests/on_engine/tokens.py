"""A service that gives tokens for a container registry, as Docker Hub and most others have one.

https://distribution.github.io/distribution/spec/auth/token/
"""

from __future__ import annotations

import base64
import json
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509 import load_pem_x509_certificate

from tests.on_engine.servers import USER, Authority, encoded

SERVICE = "harbour"
ISSUER = "harbour master"


class TokenService:
    """Gives whoever knows the password tokens, each for just the scope that was asked for.

    `scopes` are those asked for. As a context manager it runs while its block lasts.
    """

    def __init__(self) -> None:
        authority = Authority(ISSUER)
        files = authority.files()
        self.trusted = authority.certificate
        self._certificate = load_pem_x509_certificate(files["server.pem"])
        key = serialization.load_pem_private_key(files["server.key"], None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key = key
        self.scopes: list[str] = []
        service = self

        class Handler(_Handler):
            tokens = service

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = Thread(target=self._server.serve_forever, daemon=True)

    @property
    def realm(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/token"

    def settings(self) -> dict[str, str]:
        """Return what a registry has to be told, in its environment."""
        return {
            "REGISTRY_AUTH": "token",
            "REGISTRY_AUTH_TOKEN_REALM": self.realm,
            "REGISTRY_AUTH_TOKEN_SERVICE": SERVICE,
            "REGISTRY_AUTH_TOKEN_ISSUER": ISSUER,
            "REGISTRY_AUTH_TOKEN_ROOTCERTBUNDLE": "/etc/tokens.pem",
        }

    def files(self) -> dict[str, bytes]:
        """Return what a registry has to have in /etc."""
        return {"tokens.pem": self.trusted}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def token(self, scope: str) -> str:
        """Return a token (a JWT, signed with ES256) for a scope like `repository:name:pull`."""
        now = int(time.time())
        kind, _, rest = scope.partition(":")
        name, _, actions = rest.rpartition(":")
        access = [{"type": kind, "name": name, "actions": actions.split(",")}] if scope else []
        head = {"typ": "JWT", "alg": "ES256", "x5c": [self._x5c()]}
        claims = {
            "iss": ISSUER, "sub": USER, "aud": SERVICE, "jti": uuid.uuid4().hex, "access": access,
            "iat": now, "nbf": now - 60, "exp": now + 3600,
        }  # fmt: skip
        text = f"{_encoded(json.dumps(head).encode())}.{_encoded(json.dumps(claims).encode())}"
        r, s = decode_dss_signature(self._key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{text}.{_encoded(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"

    def _x5c(self) -> str:
        der = self._certificate.public_bytes(serialization.Encoding.DER)
        return base64.b64encode(der).decode()


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


class _Handler(BaseHTTPRequestHandler):
    tokens: TokenService

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        scope = parse_qs(urlsplit(self.path).query).get("scope", [""])[0]
        self.tokens.scopes.append(scope)
        known = self.headers.get("Authorization") == f"Basic {encoded()}"
        body = json.dumps({"token": self.tokens.token(scope)} if known else {}).encode()
        self.send_response_only(200 if known else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        """Say that this is not offered: the engine asks by GET then."""
        self.send_error(404)
