"""Registries and indexes of others: containers of the project's own images, run as we need them.

They carry the labels of a checkout, so that its `invoke clean` takes them away.
"""

from __future__ import annotations

import base64
import datetime as dt
import io
import ipaddress
import tarfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from docker.models.containers import Container

    from tests.on_engine.conftest import CheckoutUnderTest

USER = "captain"
PASSWORD = "full-ahead-0c7e41"  # noqa: S105
# bcrypt of it, since the registry takes no other hash; 5 rounds, since it is asked often
HTPASSWD = f"{USER}:$2b$05$abcdefghijklmnopqrstuuSWfCbc.Rl1/QF.y6zG8tYtjAgQ8zg.O\n"

PATIENCE = 120.0
_DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
_OCI = "application/vnd.oci.image"
ACCEPT = f"{_OCI}.manifest.v1+json, {_OCI}.index.v1+json, {_DOCKER}"

# pypiserver's own application, asking for a password whatever is wanted, with TLS if there is a
# certificate: its command line has neither without more packages.
_INDEX = """
import os, ssl, sys
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import pypiserver

class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

class Quiet(WSGIRequestHandler):
    def log_message(self, *_):
        pass

user, password = sys.argv[1:]
app = pypiserver.app(
    roots=["/packages"], hash_algo="sha256", disable_fallback=True, backend_arg="simple-dir",
    authenticate=["update", "list", "download"], auther=lambda *who: who == (user, password),
)
server = make_server("0.0.0.0", 8080, app, Server, Quiet)
if os.path.exists("/etc/server.pem"):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain("/etc/server.pem", "/etc/server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""


def encoded(password: str = PASSWORD) -> str:
    """Return name and password as HTTP's Basic authentication and Docker's configuration do."""
    return base64.b64encode(f"{USER}:{password}".encode()).decode()


class Authority:
    """A certificate authority of the tests' own."""

    def __init__(self, name: str = "seatrial tests") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )
        self.certificate = _pem(certificate)

    def files(self) -> dict[str, bytes]:
        """Return the certificate and key of a server on this machine, to be put in /etc."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
            x509.DNSName("localhost"),
        ]
        certificate = (
            self._builder(
                x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")]), key.public_key()
            )
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return {"server.pem": _pem(certificate), "server.key": private}

    def _builder(
        self, subject: x509.Name, public: ec.EllipticCurvePublicKey
    ) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=2))
        )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


@dataclass
class Server:
    """A server in a container; `scheme`, `user` and `ca_file` say how to talk to it."""

    container: Container
    port: int
    scheme: str = "http"
    user: tuple[str, str] | None = None
    ca_file: str = ""

    @property
    def address(self) -> str:
        """The host:port it is reached at; another one each time it was started."""
        self.container.reload()
        published = (self.container.ports or {}).get(f"{self.port}/tcp") or [{"HostPort": "1"}]
        return f"127.0.0.1:{published[0]['HostPort']}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.address}/"

    def ask(self, path: str, method: str = "GET", **more: Any) -> requests.Response:
        return requests.request(
            method,
            f"{self.url}{path}",
            auth=self.user,
            verify=self.ca_file or True,
            timeout=PATIENCE,
            **more,
        )

    def start(self) -> None:
        """Start it, again perhaps, and wait until it answers."""
        self.container.start()
        end = time.monotonic() + PATIENCE
        while True:
            try:
                self.ask("")
            except requests.exceptions.ConnectionError:
                assert time.monotonic() < end, str(self.container.logs())
                time.sleep(0.05)
            else:
                return

    def kill(self) -> None:
        """Kill it; it may be started again, with all that it holds."""
        self.container.kill()

    def put(self, folder: str, files: Mapping[str, bytes]) -> None:
        """Put files into the container."""
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                member.mode = 0o644
                archive.addfile(member, io.BytesIO(content))
        assert self.container.put_archive(folder, stream.getvalue())

    def run(self, *command: str) -> str:
        """Run a command in the container, and return what it prints."""
        code, output = self.container.exec_run(list(command))
        text = cast("bytes", output).decode()
        assert code == 0, text
        return text


class Registry(Server):
    """A container registry, and what it holds."""

    def tags(self, repository: str) -> list[str]:
        answer = self.ask(f"v2/{repository}/tags/list")
        return sorted(answer.json().get("tags") or []) if answer.ok else []

    def manifest(self, repository: str, reference: str) -> dict[str, Any]:
        """Return a manifest; empty if there is none."""
        answer = self.ask(f"v2/{repository}/manifests/{reference}", headers={"Accept": ACCEPT})
        return cast("dict[str, Any]", answer.json()) if answer.ok else {}

    def digest(self, repository: str, reference: str) -> str:
        """Return a manifest's digest; empty if there is none."""
        answer = self.ask(
            f"v2/{repository}/manifests/{reference}", "HEAD", headers={"Accept": ACCEPT}
        )
        return answer.headers["Docker-Content-Digest"] if answer.ok else ""

    def image_id(self, repository: str, reference: str) -> str:
        """Return the ID of the image of a tag or digest; empty if there is none."""
        return str(self.manifest(repository, reference).get("config", {}).get("digest", ""))

    def holds(self, repository: str) -> dict[str, str]:
        """Return the digests of all tags."""
        return {tag: self.digest(repository, tag) for tag in self.tags(repository)}


class Index(Server):
    """A Python index, and what it holds."""

    def files(self) -> dict[str, str]:
        """Return the SHA-256 of its files by name."""
        lines = self.run("sh", "-c", "cd /packages && sha256sum -- * 2>/dev/null || true")
        return {name: sha for sha, name in (line.split(maxsplit=1) for line in lines.splitlines())}

    def empty(self) -> None:
        self.run("sh", "-c", "rm -rf /packages/*")


@dataclass
class Harbour:
    """Where servers are run: on the engine, from the images of a checkout."""

    checkout: CheckoutUnderTest
    servers: list[Server] = field(default_factory=list)

    def registry(
        self,
        *,
        password: bool = False,
        authority: Authority | None = None,
        ca_file: str = "",
        environment: Mapping[str, str] | None = None,
        files: Mapping[str, bytes] | None = None,
    ) -> Registry:
        """Run a registry: with a password, or TLS with a certificate of `authority`, if wanted."""
        variables = {"REGISTRY_LOG_LEVEL": "warn", **(environment or {})}
        put = dict(files or {})
        if password:
            put["htpasswd"] = HTPASSWD.encode()
            variables |= {
                "REGISTRY_AUTH": "htpasswd",
                "REGISTRY_AUTH_HTPASSWD_REALM": "harbour",
                "REGISTRY_AUTH_HTPASSWD_PATH": "/etc/htpasswd",
            }
        if authority:
            put |= authority.files()
            variables |= {
                "REGISTRY_HTTP_TLS_CERTIFICATE": "/etc/server.pem",
                "REGISTRY_HTTP_TLS_KEY": "/etc/server.key",
            }
        registry = Registry(
            self._created("registry", 5000, environment=variables),
            5000,
            "https" if authority else "http",
            (USER, PASSWORD) if password else None,
            ca_file,
        )
        self._start(registry, put)
        return registry

    def index(
        self, *, password: bool = False, authority: Authority | None = None, ca_file: str = ""
    ) -> Index:
        """Run an index: with a password, or TLS with a certificate of `authority`, if wanted."""
        command = ["python", "-c", _INDEX, USER, PASSWORD] if password or authority else None
        index = Index(
            self._created("index", 8080, command=command),
            8080,
            "https" if authority else "http",
            (USER, PASSWORD) if command else None,
            ca_file,
        )
        self._start(index, authority.files() if authority else {})
        return index

    def close(self) -> None:
        for server in self.servers:
            server.container.remove(force=True, v=True)

    def _created(
        self,
        image: str,
        port: int,
        *,
        command: Sequence[str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Container:
        return self.checkout.client.containers.create(
            self.checkout.image(image),
            list(command) if command else None,
            environment=dict(environment or {}),
            labels=self.checkout.labels,
            ports=cast("Any", {f"{port}/tcp": ("127.0.0.1", None)}),  # any free one
        )

    def _start(self, server: Server, files: Mapping[str, bytes]) -> None:
        self.servers.append(server)
        if files:
            server.put("/etc", files)
        server.start()
