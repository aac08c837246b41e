"""A Python index: what it has, and how wheels get there.

Uploading is `uv publish`'s work; whether a file is there already, and with which content, is read
from the index itself, before and after. https://packaging.python.org/en/latest/specifications/simple-repository-api/
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import requests
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from tasks.engine.process import CommandFailed, Processes
from tasks.engine.retries import Again, Deadline, retry_after
from tasks.errors import Failure, NotAuthorised, StageFailed, Unavailable

_TOO_MANY = 429
_REQUEST_TIMEOUT = 60.0
# What `uv publish` says of a refusal; everything else it says about the line to the index.
_STATUS = re.compile(r"status code (\d{3})")
_LINE = "error sending request"
_CERTIFICATE = "invalid peer certificate"


class Index:
    """A Python index: `url` takes uploads, `simple_url` is where it is read."""

    def __init__(
        self,
        processes: Processes,
        deadline: Deadline,
        *,
        url: str,
        simple_url: str = "",
        user: tuple[str, str] = ("", ""),
        ca_file: str = "",
    ) -> None:
        self.url = url
        self.simple_url = simple_url or urljoin(url.rstrip("/") + "/", "simple/")
        self._processes = processes
        self._deadline = deadline
        self._user = user
        self._ca_file = ca_file

    def hashes(self, wheels: Sequence[str]) -> dict[str, str]:
        """Return the SHA-256 that the index gives for those of `wheels` that it has.

        Raises StageFailed if it gives no SHA-256 for one.
        """
        projects = sorted({str(parse_wheel_filename(name)[0]) for name in wheels})
        listed: dict[str, str] = {}
        for project in projects:
            listed |= {
                normalized(name): sha256
                for name, sha256 in self._page(project).items()
                if name.endswith(".whl")
            }
        found = {name: listed[there] for name in wheels if (there := normalized(name)) in listed}
        unknown = sorted(name for name, sha256 in found.items() if not sha256)
        if unknown:
            raise StageFailed(f"{self.simple_url} gives no sha256 for {', '.join(unknown)}")
        return found

    def publish(self, folder: Path, wheels: Mapping[str, str]) -> list[str]:
        """Make sure that the index has these wheels; return the names of those uploaded.

        `wheels` are names with SHA-256, to be found in `folder`. Raises StageFailed with both
        hashes if a name is there with other content (nothing is sent then), or with what is there
        and what is missing if not all of them arrived.
        """
        found = self.hashes(list(wheels))
        self._require_same(wheels, found)
        missing = sorted(wheels.keys() - found.keys())
        if not missing:
            return []
        try:
            self._deadline.tried(f"upload to {self.url}", lambda: self._upload(folder, wheels))
        except Failure as failure:
            there = self._there(wheels)
            failure.evidence = (
                *failure.evidence,
                f"published: {', '.join(there) or 'nothing'}",
                f"missing: {', '.join(sorted(wheels.keys() - set(there))) or 'nothing'}",
            )
            raise
        found = self.hashes(list(wheels))
        self._require_same(wheels, found)
        lost = sorted(wheels.keys() - found.keys())
        if lost:
            raise StageFailed(
                f"{self.url} took {', '.join(lost)}, but does not list it",
                hint="INDEX_SIMPLE_URL says where the index is read",
            )
        return missing

    def _require_same(self, wheels: Mapping[str, str], found: Mapping[str, str]) -> None:
        others = [
            f"{name}: accepted sha256:{wheels[name]}, there sha256:{found[name]}"
            for name in sorted(found)
            if found[name] != wheels[name]
        ]
        if others:
            raise StageFailed(
                f"{self.simple_url} has other content under the same name",
                evidence=others,
                hint="a version is published once: raise that of the application (an index of this "
                "machine is forgotten by invoke clean)",
            )

    def _there(self, wheels: Mapping[str, str]) -> list[str]:
        try:
            return sorted(self.hashes(list(wheels)))
        except Failure:
            return ["unknown, since the index does not answer"]

    def _upload(self, folder: Path, wheels: Mapping[str, str]) -> None:
        """Upload what is missing now: a part may have arrived with the try before."""
        missing = sorted(wheels.keys() - self.hashes(list(wheels)).keys())
        if not missing:
            return
        user, password = self._user
        environment = {
            "UV_PUBLISH_USERNAME": user or "anonymous",
            "UV_PUBLISH_PASSWORD": password or "anonymous",
            "UV_HTTP_RETRIES": "0",
            "UV_HTTP_TIMEOUT": str(max(1, int(min(_REQUEST_TIMEOUT, self._deadline.left)))),
            "UV_NO_PROGRESS": "1",
            **({"SSL_CERT_FILE": self._ca_file} if self._ca_file else {}),
        }
        with tempfile.TemporaryDirectory(prefix="seatrial-") as place:
            for name in missing:
                Path(place, normalized(name)).symlink_to((folder / name).resolve())
            try:
                self._processes.run(
                    upload(self.url, sorted(map(normalized, missing))),
                    environment=environment,
                    folder=Path(place),
                    timeout=self._deadline.left,
                )
            except CommandFailed as error:
                raise self._classified(error) from error

    def _classified(self, error: CommandFailed) -> Exception:
        """Return what an upload that failed with `error` should raise."""
        said = "\n".join(error.output)
        found = _STATUS.search(said)
        code = int(found[1]) if found else 0
        if code in {requests.codes.unauthorized, requests.codes.forbidden}:
            return NotAuthorised(
                f"{self.url} does not let us upload: it answers {code}",
                evidence=error.evidence,
                hint="INDEX_USERNAME and INDEX_PASSWORD say who we are there",
            )
        if _CERTIFICATE in said:
            return self._untrusted(self.url, error.evidence)
        if code == _TOO_MANY or code >= requests.codes.internal_server_error:
            return Again(f"it answers {code}")
        # What arrived is not what was sent: truncated on its way.
        if code == requests.codes.bad_request and "digest" in said.lower():
            return Again("it did not arrive whole")
        if error.late or (not code and _LINE in said):
            return Again(error.output[-1].strip() if error.output else error.message)
        return error

    def _untrusted(self, url: str, evidence: Sequence[str]) -> Unavailable:
        return Unavailable(
            f"the certificate of {url} cannot be trusted",
            evidence=evidence,
            hint="CA_FILE names the certificates of a private CA",
        )

    def _page(self, project: str) -> dict[str, str]:
        """Return the files of a project with their SHA-256 ("" if the index gives none)."""
        url = urljoin(self.simple_url.rstrip("/") + "/", f"{project}/")

        def ask() -> requests.Response:
            try:
                answer = requests.get(
                    url,
                    auth=self._user if self._user[0] else None,
                    headers={"Accept": "text/html"},
                    timeout=max(0.1, min(_REQUEST_TIMEOUT, self._deadline.left)),
                    verify=self._ca_file or True,
                )
            except requests.exceptions.SSLError as error:
                raise self._untrusted(self.simple_url, [str(error)]) from None
            except requests.exceptions.RequestException as error:
                raise Again(type(error).__name__) from error
            if answer.status_code in {requests.codes.unauthorized, requests.codes.forbidden}:
                raise NotAuthorised(
                    f"{self.simple_url} answers {answer.status_code}",
                    hint="INDEX_USERNAME and INDEX_PASSWORD say who we are there",
                )
            if answer.status_code == _TOO_MANY:
                raise Again("too many requests", retry_after(answer.headers.get("Retry-After")))
            if answer.status_code >= requests.codes.internal_server_error:
                raise Again(f"it answers {answer.status_code}")
            return answer

        answer = self._deadline.tried(f"read {self.simple_url}", ask)
        if answer.status_code == requests.codes.not_found:
            return {}
        if not answer.ok:
            raise StageFailed(f"{url} answers {answer.status_code}")
        links = _Links()
        links.feed(answer.text)
        return links.files


def normalized(wheel: str) -> str:
    """Return a wheel's name as an index has it: uv silently uploads no other.

    https://packaging.python.org/en/latest/specifications/binary-distribution-format/
    """
    try:
        project, version, build, _ = parse_wheel_filename(wheel)
    except InvalidWheelFilename:
        return wheel
    tags = wheel.removesuffix(".whl").split("-")[-3:]
    number = [f"{build[0]}{build[1]}"] if build else []
    return "-".join([project.replace("-", "_"), str(version), *number, *tags]) + ".whl"


def upload(url: str, files: Sequence[str]) -> list[str]:
    """Return the argv that uploads files of the folder it is run in."""
    return ["uv", "publish", "--no-config", "--trusted-publishing", "never", "--no-attestations",
            "--publish-url", url, *files]  # fmt: skip


class _Links(HTMLParser):
    """The files of a simple index' page."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        address = dict(attrs).get("href")
        if tag == "a" and address:
            parts = urlsplit(address)
            name = unquote(parts.path.rsplit("/", 1)[-1])
            method, _, value = parts.fragment.partition("=")
            self.files[name] = value if method == "sha256" else ""
