"""A container registry, as the OCI distribution specification has it.

`oras` carries the requests and the authentication; what is read and written here is bytes, so that
a digest is that of what was sent. https://github.com/opencontainers/distribution-spec
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import requests
from oras.provider import Registry as OrasRegistry

from tasks.engine import credentials
from tasks.engine.credentials import Authentication, Refused, parsed
from tasks.engine.retries import Again, Deadline, retry_after
from tasks.errors import Failure, NotAuthorised, StageFailed, Unavailable

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
TITLE = "org.opencontainers.image.title"
EMPTY = b"{}"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
_DOCKER = "application/vnd.docker.distribution.manifest"
_ACCEPTED = f"{MANIFEST}, {INDEX}, {_DOCKER}.v2+json, {_DOCKER}.list.v2+json"
_TOO_MANY = 429
_REQUEST_TIMEOUT = 60.0


@dataclass(frozen=True)
class Manifest:
    """A manifest as the registry holds it: its bytes, their digest and their media type."""

    content: bytes
    media_type: str

    @property
    def digest(self) -> str:
        """The manifest's digest, computed here."""
        return digest(self.content)

    @property
    def document(self) -> dict[str, Any]:
        """The manifest, parsed. Raises StageFailed if it is no JSON object."""
        return parsed(self.content)

    @property
    def config_digest(self) -> str:
        """The digest of the image's configuration, which is the image's ID; empty for an index."""
        config = self.document.get("config")
        return str(config.get("digest", "")) if isinstance(config, dict) else ""

    @property
    def files(self) -> dict[str, str]:
        """The digests of an artifact's files, by their titles."""
        layers = self.document.get("layers")
        found: dict[str, str] = {}
        for layer in layers if isinstance(layers, list) else []:
            notes = layer.get("annotations") if isinstance(layer, dict) else None
            title = notes.get(TITLE) if isinstance(notes, dict) else None
            if title:
                found[str(title)] = str(layer.get("digest", ""))
        return found


def digest(content: bytes) -> str:
    """Return the OCI digest of some bytes."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class _Transport(OrasRegistry):  # type: ignore[misc]
    """oras' requests; its own retries go, since ours have a deadline."""

    do_request = OrasRegistry.do_request.__wrapped__


class Repository:
    """One repository of a registry.

    `registry` is host or host:port, `name` the repository's path. With `plain` it is spoken to in
    HTTP, else by TLS, checked against `ca_file` if one is given.
    """

    def __init__(
        self, registry: str, name: str, deadline: Deadline, *, plain: bool, ca_file: str = ""
    ) -> None:
        self.registry = registry
        self.name = name
        self._deadline = deadline
        self._plain = plain
        self._transport = _Transport(registry, insecure=plain, tls_verify=ca_file or True)
        self._known = credentials.of(registry)
        session = self._transport.session
        session.request = self._timed(session.request)
        self._transport.auth = Authentication(session, ca_file, self._known)

    @property
    def reference(self) -> str:
        """The repository's name with its registry's, as an image reference begins."""
        return f"{self.registry}/{self.name}"

    def manifest(self, reference: str) -> Manifest | None:
        """Return the manifest of a tag or digest; None if there is none.

        Raises StageFailed if the registry gives other bytes than the digest asked for.
        """
        answer = self._ask("GET", f"manifests/{reference}", headers={"Accept": _ACCEPTED})
        if answer.status_code == requests.codes.not_found:
            return None
        found = Manifest(answer.content, answer.headers.get("Content-Type", "").split(";")[0])
        if reference.startswith("sha256:") and found.digest != reference:
            raise StageFailed(f"the registry gave {found.digest} for {reference}")
        return found

    def put_manifest(self, reference: str, manifest: Manifest) -> requests.Response:
        """Store a manifest under a tag or its digest; return the registry's answer."""
        return self._ask(
            "PUT",
            f"manifests/{reference}",
            headers={"Content-Type": manifest.media_type},
            data=manifest.content,
        )

    def blob(self, blob_digest: str) -> bytes:
        """Return a blob's bytes. Raises StageFailed if it is missing or not what it is called."""
        answer = self._ask("GET", f"blobs/{blob_digest}")
        if answer.status_code == requests.codes.not_found:
            raise StageFailed(f"{self.reference} has no blob {blob_digest}")
        if digest(answer.content) != blob_digest:
            raise StageFailed(f"the registry gave {digest(answer.content)} for {blob_digest}")
        return answer.content

    def require_writable(self) -> None:
        """Raise NotAuthorised if we may not push: the engine would ask for a minute before it does.

        An upload is begun and given up.
        """
        began = self._ask("POST", "blobs/uploads/")
        with suppress(Failure, Again):  # it forgets it by itself, too
            self._once("DELETE", self._place(began))

    def put_blob(self, content: bytes) -> None:
        """Store a blob, unless it is there already."""
        name = digest(content)
        if self._ask("HEAD", f"blobs/{name}").status_code == requests.codes.ok:
            return

        def upload() -> None:
            place = self._place(self._once("POST", "blobs/uploads/"))
            mark = "&" if "?" in place else "?"
            try:
                self._once(
                    "PUT",
                    f"{place}{mark}digest={name}",
                    headers={"Content-Type": "application/octet-stream"},
                    data=content,
                )
            except StageFailed as refusal:
                # What arrived is not what was sent: truncated on its way.
                if "_INVALID" in " ".join(refusal.evidence):
                    raise Again(refusal.message) from refusal
                raise

        self._deadline.tried(f"upload to {self.registry}", upload)

    def _place(self, began: requests.Response) -> str:
        """Return where an upload goes that has begun."""
        if "Location" not in began.headers:
            raise StageFailed(f"{self.registry} does not say where to upload to")
        return str(requests.compat.urljoin(began.url, began.headers["Location"]))

    def tags(self) -> list[str]:
        """Return all tags of the repository."""
        answer = self._ask("GET", "tags/list")
        return list(parsed(answer.content).get("tags") or []) if answer.ok else []

    # --- referrers -------------------------------------------------------------------------------

    def attach(self, subject: Manifest, artifact_type: str, name: str, content: bytes) -> str:
        """Attach a file to a manifest, as an artifact that refers to it; return its digest.

        Where the registry has no referrers API, the fallback tag is kept:
        https://github.com/opencontainers/distribution-spec/blob/main/spec.md#referrers-tag-schema
        """
        self.put_blob(content)
        self.put_blob(EMPTY)
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": artifact_type,
            "config": {"mediaType": EMPTY_TYPE, "digest": digest(EMPTY), "size": len(EMPTY)},
            "layers": [
                {
                    "mediaType": artifact_type,
                    "digest": digest(content),
                    "size": len(content),
                    "annotations": {TITLE: name},
                }
            ],
            "subject": _descriptor(subject),
            "annotations": {TITLE: name},
        }
        artifact = Manifest(json.dumps(document, sort_keys=True).encode(), MANIFEST)
        answer = self.put_manifest(artifact.digest, artifact)
        if "OCI-Subject" not in answer.headers:
            self._add_to_fallback(subject, artifact, document)
        return artifact.digest

    def referrers(self, subject: Manifest) -> list[dict[str, Any]]:
        """Return the descriptors of the artifacts that refer to a manifest."""
        found: list[dict[str, Any]] = []
        page = f"referrers/{subject.digest}"
        while page:
            answer = self._ask("GET", page, headers={"Accept": INDEX})
            if not answer.headers.get("Content-Type", "").startswith(INDEX) or not answer.ok:
                index = self.manifest(_fallback_tag(subject))
                return _listed(index.document) if index else []
            found += _listed(parsed(answer.content))
            following = answer.links.get("next", {}).get("url", "")
            page = requests.compat.urljoin(answer.url, following) if following else ""
        return found

    def _add_to_fallback(
        self, subject: Manifest, artifact: Manifest, document: Mapping[str, Any]
    ) -> None:
        tag = _fallback_tag(subject)
        there = self.manifest(tag)
        known = _listed(there.document) if there else []
        if any(one["digest"] == artifact.digest for one in known):
            return
        described = {
            **_descriptor(artifact),
            "artifactType": document["artifactType"],
            "annotations": document["annotations"],
        }
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [*known, described]}
        self.put_manifest(tag, Manifest(json.dumps(index, sort_keys=True).encode(), INDEX))

    # --- requests --------------------------------------------------------------------------------

    def _ask(self, method: str, path: str, **more: Any) -> requests.Response:
        """Send a request; 404 to GET and HEAD is an answer, every other refusal raises."""
        return self._deadline.tried(
            f"{method} {self.registry}", lambda: self._once(method, path, **more)
        )

    def _once(self, method: str, path: str, **more: Any) -> requests.Response:
        url = path if path.startswith(("http:", "https:")) else self._url(path)
        try:
            answer = self._transport.do_request(url, method, **more)
        except Refused as refusal:
            raise self._not_authorised(str(refusal)) from None
        except requests.exceptions.SSLError as error:
            raise Unavailable(
                f"the certificate of {self.registry} cannot be trusted",
                evidence=[str(error)],
                hint="CA_FILE names the certificates of a private CA",
            ) from None
        except requests.exceptions.RequestException as error:
            raise Again(type(error).__name__) from error
        return self._classified(method, answer)

    def _classified(self, method: str, answer: requests.Response) -> requests.Response:
        code = answer.status_code
        if code in {requests.codes.unauthorized, requests.codes.forbidden}:
            raise self._not_authorised(f"it answers {code}")
        if code == _TOO_MANY:
            raise Again("too many requests", retry_after(answer.headers.get("Retry-After")))
        if code >= requests.codes.internal_server_error:
            raise Again(f"it answers {code}")
        if code == requests.codes.not_found and method in {"GET", "HEAD"}:
            return answer
        if code >= requests.codes.bad_request:
            raise StageFailed(
                f"{self.registry} refuses {method} in {self.name}: {code}",
                evidence=answer.text.splitlines()[:5],
            )
        return answer

    def _not_authorised(self, why: str) -> NotAuthorised:
        as_whom = "with the Docker configuration's credentials" if self._known else "to nobody"
        return NotAuthorised(
            f"{self.registry} does not let us into {self.name}: {why} {as_whom}",
            hint=f"docker login {self.registry}, as a user who may push there",
        )

    def _url(self, path: str) -> str:
        host = "registry-1.docker.io" if self.registry == "docker.io" else self.registry
        return f"{'http' if self._plain else 'https'}://{host}/v2/{self.name}/{path}"

    def _timed(self, request: Any) -> Any:
        """Give every request, those for tokens too, a time limit within the deadline."""
        return lambda *args, **kwargs: request(
            *args, **{"timeout": max(0.1, min(_REQUEST_TIMEOUT, self._deadline.left)), **kwargs}
        )


def is_loopback(registry: str) -> bool:
    """Return whether a registry's address is this machine's own."""
    host = registry if registry.endswith("]") else registry.rsplit(":", 1)[0]
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _listed(index: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the descriptors of an image index."""
    listed = index.get("manifests")
    listed = listed if isinstance(listed, list) else []
    return [one for one in listed if isinstance(one, dict) and isinstance(one.get("digest"), str)]


def _descriptor(manifest: Manifest) -> dict[str, Any]:
    return {
        "mediaType": manifest.media_type,
        "digest": manifest.digest,
        "size": len(manifest.content),
    }


def _fallback_tag(subject: Manifest) -> str:
    return subject.digest.replace(":", "-")
