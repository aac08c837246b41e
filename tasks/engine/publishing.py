"""Publishes what was accepted, and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from securesystemslib.signer import Key

from tasks.engine import receipts, sbom, shelf, source, verification, wheelhouse, witness
from tasks.engine.environments import PublishEnvironment
from tasks.engine.index import Index
from tasks.engine.process import CommandFailed
from tasks.engine.registry import Manifest, Repository, is_loopback
from tasks.engine.retries import Again, Deadline
from tasks.engine.tools import Tools
from tasks.engine.verification import Accepted, Evidence
from tasks.errors import Failure, Misconfigured, NotAuthorised, StageFailed

RECEIPT_TYPE = "application/vnd.dsse.envelope.v1+json"
JUNIT_TYPE = "application/vnd.seatrial.junit.v1+xml"
SHORT = 12
_ATTACHED = frozenset({
    "sbom.cdx.json",
    *(f"{stage}.json" for stage in shelf.STAGES),
    *(f"{stage}.xml" for stage in verification.TEST_STAGES),
})  # fmt: skip
SHORTEST_SECRET = 8  # shorter texts occur by chance

# What `docker push` says last. Layers are named by hexadecimal digits, addresses have ports: a
# number alone tells nothing.
_LAYER = re.compile(r"[0-9a-f]{12}: ")
_DENIED = re.compile(
    r"unauthorized|\bdenied\b|no basic auth credentials|authentication required"
    r"|\b40[13] (?:response|forbidden)"
)
_PASSING = re.compile(
    r"connection (?:reset|refused)|broken pipe|\beof\b|time(?:d )?out|too ?many ?requests"
    r"|\b(?:429|5\d\d) (?:response|internal|not implemented|bad|service|gateway)"
    r"|blob upload (?:invalid|unknown)|digest did not match|no such host"
    r"|network is unreachable|no route to host"
)


@dataclass(frozen=True)
class Tags:
    """The names of a release: `fixed` ones are given once, `moving` ones go to the newest."""

    fixed: tuple[str, ...]
    moving: tuple[str, ...]


def tags(revision: str, exact: Iterable[str], branch: str, latest: str, build: str) -> Tags:
    """Return the tags of a release.

    `revision` is the full hash of the commit, with `-dirty` perhaps; `exact` are git's tags of the
    commit, `branch` the branch it is on, `latest` the only one that gets the tag `latest`, `build`
    the number of the build, if any.
    """
    commit, mark, _ = revision.partition("-dirty")
    short = commit[:SHORT] + mark
    usable = [tag for tag in exact if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", tag)]
    if mark or revision == source.UNVERSIONED:
        # Such a name says too little to be given once.
        return Tags((), (short,))
    fixed = [short, *usable, *([f"build-{build}"] if build else [])]
    return Tags(tuple(fixed), ("latest",) if branch and branch == latest else ())


class Publisher:
    """Publishes the accepted image and wheels of a checkout, with their evidence.

    `local` is where the registry and index of this machine run, for settings that name no others.
    """

    def __init__(self, tools: Tools, commit: source.Source, local: PublishEnvironment) -> None:
        self._tools = tools
        self._source = commit
        self._local = local

    @cached_property
    def _deadline(self) -> Deadline:
        """One for all that is published. It begins when that does: the tests come before."""
        return Deadline(self._tools.settings.publish_deadline)

    # --- what may be published -------------------------------------------------------------------

    def require_permission(self) -> None:
        """Raise Misconfigured if this environment may not publish, now or ever.

        Its settings must allow it, there must be a key to trust (but in `local`), and what goes to
        others must be committed.
        """
        settings = self._tools.settings
        if not settings.publish:
            raise Misconfigured(
                f"the environment {settings.name} publishes nothing",
                hint=f"PUBLISH=on in env/{settings.name}.env allows it",
            )
        self._trusted()
        if self._shared and self._source.dirty:
            raise Misconfigured(
                "what is not committed is not published to others",
                evidence=[f"revision {self._source.revision}"],
                hint="commit, then invoke release.acceptance",
            )

    @property
    def _shared(self) -> bool:
        return bool(self._tools.settings.registry or self._tools.settings.index_url)

    @cached_property
    def accepted(self) -> Accepted:
        """What was accepted, and may be published from here.

        Raises Misconfigured if this environment, or the state of the tree, does not allow it, and
        StageFailed, naming the check that failed, if the receipts do not.
        """
        settings = self._tools.settings
        self.require_permission()
        accepted = verification.judge(self._evidence(), settings.name, self._trusted())
        house = wheelhouse.verified(self._tools.checkout)
        if {**house.application, **house.dependencies} != accepted.wheels:
            raise StageFailed(
                "target/wheelhouse holds other wheels than those accepted",
                hint="invoke release.acceptance",
            )
        if self._shared:
            self._require_accepted_commit(accepted)
        if self._tools.engine.image(accepted.image_id) is None:
            raise StageFailed(
                f"the engine has no image {accepted.image_id}, which was accepted",
                hint="invoke release.acceptance",
            )
        return accepted

    def _require_accepted_commit(self, accepted: Accepted) -> None:
        if accepted.dirty or accepted.revision != self._source.revision:
            raise Misconfigured(
                "what is checked out is not what was accepted",
                evidence=[
                    f"accepted from {accepted.revision}{' (dirty)' if accepted.dirty else ''}",
                    f"now {self._source.revision}",
                ],
                hint="invoke release.acceptance",
            )

    def _evidence(self) -> Evidence:
        target = self._tools.checkout.target
        reports = {stage: target / "reports" / f"{stage}.xml" for stage in verification.TEST_STAGES}
        return Evidence(
            {stage: shelf.content(target, stage) for stage in shelf.STAGES},
            {stage: path.read_bytes() for stage, path in reports.items() if path.exists()},
        )

    def _trusted(self) -> list[Key]:
        """Return the keys that may have signed. None at all is enough for `local` only."""
        if text := witness.trusted_keys(self._tools):
            return receipts.public_keys(text)
        if key := witness.signing_key(self._tools):
            return [receipts.signer(key).public_key]
        if self._tools.settings.name != "local":
            raise Misconfigured(
                "there is no key to trust",
                hint="TRUSTED_KEYS or TRUSTED_KEYS_FILE names the public keys that may sign",
            )
        return []

    # --- all of it -------------------------------------------------------------------------------

    def everything(self) -> str:
        """Publish wheels, image and evidence, and verify them; return what can be said then.

        Of a failure half-way it is told what is published and what is missing.
        """
        steps = {"wheels": self.artifact, "image": self.image, "evidence": self.evidence}
        missing = list(steps)
        for name, publish in steps.items():
            try:
                publish()
            except Failure as failure:
                there = [step for step in steps if step not in missing]
                failure.evidence = (
                    *failure.evidence,
                    f"of the release, published: {', '.join(there) or 'nothing'}",
                    f"of the release, missing: {', '.join(missing)}",
                )
                raise
            missing.remove(name)
        return self.verify()

    # --- the wheels ------------------------------------------------------------------------------

    def artifact(self) -> None:
        """Publish the accepted wheels to the index."""
        if self._shown("publish the wheels that the acceptance receipt names to the index"):
            return
        wheels = dict(self.accepted.wheels)
        if not self._tools.settings.publish_dependencies:
            house = wheelhouse.verified(self._tools.checkout)
            wheels = dict(house.application)
        index = self._index()
        sent = index.publish(self._tools.checkout.target / "wheelhouse", wheels)
        there = len(wheels) - len(sent)
        self._tools.console.note(
            f"{index.simple_url}: {len(sent)} wheels published, {there} were there already"
        )

    def _index(self) -> Index:
        settings = self._tools.settings
        return Index(
            self._tools.processes,
            self._deadline,
            url=settings.index_url or self._local.index_url(),
            simple_url=settings.index_simple_url,
            user=(settings.index_username, settings.index_password),
            ca_file=self._ca_file,
        )

    # --- the image -------------------------------------------------------------------------------

    def image(self) -> None:
        """Publish the accepted image: fixed tags first, then the moving ones, then read back.

        Raises StageFailed, before anything is sent, if a fixed tag is there with other content.
        """
        if self._shown("push the image that the acceptance receipt names, and read it back"):
            return
        accepted, repository, names = self.accepted, self._repository(), self._tags()
        console = self._tools.console
        everything = [*names.fixed, *names.moving]
        console.note(f"{repository.reference}: {accepted.image_id} as {', '.join(everything)}")
        there = {tag: repository.manifest(tag) for tag in everything}
        _require_free(repository, accepted.image_id, {t: there[t] for t in names.fixed})
        same = [m for m in there.values() if m and m.config_digest == accepted.image_id]
        first = everything[0]
        manifest = same[0] if same else self._pushed(repository, first, accepted.image_id)
        sent = 0
        for tag in everything:
            now = there[tag] if same or tag != first else manifest
            if now is None or now.digest != manifest.digest:
                repository.put_manifest(tag, manifest)
                sent += 1
        self._require_there(repository, everything, accepted.image_id)
        reference = f"{repository.reference}@{manifest.digest}"
        self._remember(reference, everything)
        pushed = "was there already" if same and not sent else "published"
        console.note(f"{reference} {pushed}")

    def _pushed(self, repository: Repository, tag: str, image_id: str) -> Manifest:
        """Push the image with this very ID; return the manifest the registry has then."""
        name = f"{repository.reference}:{tag}"

        def push() -> None:
            try:
                self._tools.processes.run(
                    ["docker", "push", name], show=_summary, timeout=self._deadline.left
                )
            except CommandFailed as error:
                raise _classified(error, repository) from error

        self._require_no_secret(image_id)
        repository.require_writable()
        self._tools.engine.tag(image_id, name)
        try:
            self._deadline.tried(f"push to {repository.registry}", push)
        finally:
            self._tools.engine.untag(name)
        manifest = repository.manifest(tag)
        if manifest is None or manifest.config_digest != image_id:
            raise StageFailed(
                f"{name} is not what was pushed",
                evidence=[f"pushed: {image_id}",
                          f"there:  {manifest.config_digest if manifest else 'nothing'}"],
            )  # fmt: skip
        return manifest

    def _require_no_secret(self, image_id: str) -> None:
        """Raise StageFailed if a layer, present or covered by a later one, holds a secret."""
        pieces = {s.encode() for s in self._tools.settings.secrets() if len(s) >= SHORTEST_SECRET}
        longest = max(map(len, pieces), default=0)
        end = b""
        for chunk in self._tools.engine.archive(image_id) if pieces else ():
            text = end + chunk
            if any(piece in text for piece in pieces):
                raise StageFailed(
                    f"a layer of {image_id} holds a secret",
                    hint="hand secrets to builds with RUN --mount=type=secret; change this one",
                )
            end = text[-longest:]

    def _require_there(self, repository: Repository, names: Sequence[str], image_id: str) -> None:
        """Read all tags back."""
        found = {tag: repository.manifest(tag) for tag in names}
        wrong = [
            f"{tag}: {there.config_digest if there else 'missing'}"
            for tag, there in found.items()
            if there is None or there.config_digest != image_id
        ]
        if wrong:
            right = [tag for tag in names if not any(w.startswith(f"{tag}:") for w in wrong)]
            raise StageFailed(
                f"{repository.reference} does not hold {image_id} under all of its names",
                evidence=[*wrong, f"published: {', '.join(right) or 'nothing'}"],
                hint="run it again: what is there already is not sent again",
            )

    def _tags(self) -> Tags:
        settings, accepted = self._tools.settings, self.accepted
        exact, branch = source.names(self._tools.checkout.root, self._tools.processes)
        revision = accepted.revision
        if revision != source.UNVERSIONED and (accepted.dirty or revision != self._source.revision):
            revision += "-dirty"  # the commit does not say all, or git speaks of another
        return tags(revision, exact, branch, settings.latest_branch, settings.build_number)

    def _repository(self) -> Repository:
        settings = self._tools.settings
        registry = settings.registry or self._local.registry_address()
        return self._repository_at(registry, settings.repository or settings.project)

    def _repository_at(self, registry: str, name: str) -> Repository:
        # As the engine does, loopback addresses are spoken to in plain HTTP.
        plain = is_loopback(registry) and not self._tools.settings.ca_file
        return Repository(registry, name, self._deadline, plain=plain, ca_file=self._ca_file)

    @cached_property
    def _ca_file(self) -> str:
        """The path of the certificates to check others by; empty for the usual ones."""
        name = self._tools.settings.ca_file
        if not name:
            usual = self._tools.environ.get("SSL_CERT_FILE", "")
            return usual if Path(usual).is_file() else ""
        path = self._tools.checkout.root / name
        if not path.is_file():
            raise Misconfigured(f"CA_FILE: there is no file {name}")
        return str(path)

    # --- the evidence ----------------------------------------------------------------------------

    def evidence(self) -> None:
        """Attach receipts, reports and the bill of materials to the published image.

        What is attached already, and holds, is left as it is.
        """
        if self._shown("attach receipts, reports and bill of materials to what was pushed"):
            return
        accepted, evidence = self.accepted, self._evidence()
        repository, subject = self._published(self._reference())
        if subject.config_digest != accepted.image_id:
            raise StageFailed(
                f"{repository.reference}@{subject.digest} is not the image that was accepted",
                evidence=[f"accepted: {accepted.image_id}", f"there: {subject.config_digest}"],
                hint="invoke publish.image",
            )
        console = self._tools.console
        try:
            self._verified(repository, subject)
        except StageFailed:
            for name, kind, content in self._files(evidence):
                repository.attach(subject, kind, name, content)
                console.note(f"attached {name}")
        else:
            console.note("the evidence was there already")

    def _files(self, evidence: Evidence) -> list[tuple[str, str, bytes]]:
        house = wheelhouse.verified(self._tools.checkout)
        return [
            *((f"{stage}.xml", JUNIT_TYPE, evidence.junit[stage]) for stage in evidence.junit),
            ("sbom.cdx.json", sbom.MEDIA_TYPE, sbom.of(house)),
            *((f"{stage}.json", RECEIPT_TYPE, evidence.envelopes[stage])
              for stage in shelf.STAGES),
        ]  # fmt: skip

    # --- the verification ------------------------------------------------------------------------

    def verify(self) -> str:
        """Return what can be said of a published image, from the registry alone.

        Raises StageFailed, naming the check that failed.
        """
        if self._tools.dry:
            return "verify what was published, from the registry alone"
        reference = self._reference()
        repository, subject = self._published(reference)
        accepted = self._verified(repository, subject)
        signed = "signed" if self._trusted() else "UNSIGNED"
        return (
            f"PASSED: {repository.reference}@{subject.digest}, commit {accepted.revision}"
            f"{' (dirty)' if accepted.dirty else ''}, {accepted.counts} in the environment "
            f"{self._tools.settings.name}, {signed}"
        )

    def _verified(self, repository: Repository, subject: Manifest) -> Accepted:
        """Judge what is attached to an image: of more than one set, one that holds is enough."""
        found: dict[str, list[bytes]] = {}
        for one in repository.referrers(subject):
            manifest = repository.manifest(one["digest"])
            if manifest is None:
                continue
            for name, blob in manifest.files.items():
                if name in _ATTACHED:  # others may attach what they like
                    found.setdefault(name, []).append(repository.blob(blob))
        settings, trusted = self._tools.settings, self._trusted()
        failure = StageFailed(
            f"no evidence is attached to {repository.reference}@{subject.digest}",
            hint="invoke publish.evidence attaches it",
        )
        for evidence in _sets(found):
            try:
                accepted = verification.judge(evidence, settings.name, trusted)
            except StageFailed as error:
                failure = error
                continue
            if accepted.image_id != subject.config_digest:
                failure = StageFailed(
                    "receipt acceptance: subject: it speaks of another image",
                    evidence=[f"accepted: {accepted.image_id}", f"there: {subject.config_digest}"],
                )
                continue
            _require_materials(accepted, found.get("sbom.cdx.json", []))
            return accepted
        raise failure

    def _shown(self, what: str) -> bool:
        """Show what would be done, in a dry run; return whether it is one."""
        if self._tools.dry:
            self._tools.console.would(what)
        return self._tools.dry

    def _published(self, reference: str) -> tuple[Repository, Manifest]:
        registry, _, rest = reference.partition("/")
        name, mark, label = rest.partition("@") if "@" in rest else rest.rpartition(":")
        if not mark:
            raise Misconfigured(f"{reference} names neither a tag nor a digest")
        name = name.partition(":")[0]  # of a tag and a digest, the digest counts
        repository = self._repository_at(registry, name)
        manifest = repository.manifest(label)
        if manifest is None:
            raise StageFailed(f"there is no {reference}", hint="invoke publish.image")
        return repository, manifest

    def _reference(self) -> str:
        """Return what to look at: what the settings name, or what was published last from here."""
        if self._tools.settings.verify_image:
            return self._tools.settings.verify_image
        path = self._tools.checkout.target / "published.json"
        if not path.exists():
            raise StageFailed(
                "nothing was published from this checkout",
                hint="VERIFY_IMAGE=registry/repository:tag names what to verify",
            )
        about = json.loads(path.read_text(encoding="utf-8"))
        if not self._tools.settings.registry:
            # The registry of this machine may have another port by now.
            _, _, rest = about["reference"].partition("/")
            return f"{self._local.registry_address()}/{rest}"
        return str(about["reference"])

    def _remember(self, reference: str, names: Sequence[str]) -> None:
        path = self._tools.checkout.target / "published.json"
        temporary = path.with_suffix(".tmp")
        text = json.dumps({"reference": reference, "tags": list(names)}, indent=1)
        temporary.write_text(text + "\n", encoding="utf-8")
        temporary.replace(path)


def _require_free(repository: Repository, image_id: str, there: dict[str, Manifest | None]) -> None:
    taken = [
        f"{tag}: accepted {image_id}, there {manifest.config_digest or manifest.digest}"
        for tag, manifest in there.items()
        if manifest is not None and manifest.config_digest != image_id
    ]
    if taken:
        raise StageFailed(
            f"{repository.reference} has other content under a name that is given once",
            evidence=taken,
            hint="nothing was sent; a name that is given once is never given again",
        )


def _sets(found: dict[str, list[bytes]]) -> list[Evidence]:
    """Return the sets of evidence among attached files: the newest first, then each older one."""
    depth = max((len(contents) for contents in found.values()), default=0)

    def at(name: str, step: int) -> bytes | None:
        contents = found.get(name, [])
        return contents[max(len(contents) - 1 - step, 0)] if contents else None

    sets = []
    for step in range(depth):
        envelopes = {stage: at(f"{stage}.json", step) for stage in shelf.STAGES}
        junit = {stage: at(f"{stage}.xml", step) for stage in verification.TEST_STAGES}
        sets.append(
            Evidence(
                {stage: content for stage, content in envelopes.items() if content is not None},
                {stage: content for stage, content in junit.items() if content is not None},
            )
        )
    return sets


def _require_materials(accepted: Accepted, boms: list[bytes]) -> None:
    """Raise StageFailed unless a bill of materials lists exactly the accepted wheels' hashes."""
    wanted = set(accepted.wheels.values())
    for bom in boms:
        try:
            document = json.loads(bom)
            parts = [document["metadata"]["component"], *document.get("components", [])]
            listed = {one["content"] for part in parts for one in part["hashes"]}
        except (ValueError, KeyError, TypeError):
            continue
        if listed == wanted:
            return
    raise StageFailed("sbom.cdx.json: it does not list the wheels that were accepted")


def _classified(error: CommandFailed, repository: Repository) -> Exception:
    """Return what a push that failed with `error` should raise."""
    told = [line for line in error.output if not _LAYER.match(line)][-5:]
    said = " ".join(told).lower()
    if error.late:
        return Again(f"the engine did not get done with it: {' '.join(error.output[-1:])}")
    if _DENIED.search(said):
        return NotAuthorised(
            f"{repository.registry} does not let us push to {repository.name}",
            evidence=told,
            hint=f"docker login {repository.registry}, as a user who may push there",
        )
    if _PASSING.search(said):
        return Again(told[-1])
    return error


def _summary(line: str) -> str:
    return line if "digest: sha256" in line else ""
