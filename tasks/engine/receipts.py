"""Receipts: signed-off records that a stage passed, for exactly these inputs.

A receipt is an in-toto statement (https://in-toto.io/Statement/v1) in a DSSE envelope
(https://github.com/secure-systems-lab/dsse). Its subjects are digests. What it was judged with is
in its predicate: `test-result/v0.1` for tests, SLSA `provenance/v1` for builds. An envelope without
signature says what happened, and nobody vouches for it; one signed on a laptop is what SLSA calls
build level 1, no more.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as StatementMessage
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import Error as SecuresystemslibError
from securesystemslib.signer import CryptoSigner, Key, SSlibKey

from tasks.errors import Misconfigured, StageFailed

PAYLOAD_TYPE = "application/vnd.in-toto+json"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
PROVENANCE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "tag:seatrial,2026:bake/v1"

# What reading something of another shape than expected ends in.
_MALFORMED = (ValueError, KeyError, TypeError, AttributeError, RecursionError)

Value = TypeVar("Value")


@dataclass(frozen=True)
class Thing:
    """Something that a receipt names: by its digest, or by what is said of it.

    `digest` maps algorithms to hexadecimal values; `notes` are plain texts.
    """

    name: str
    digest: Mapping[str, str] = field(default_factory=dict)
    uri: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)

    def descriptor(self) -> Any:
        """Return it as an in-toto resource descriptor."""
        return ResourceDescriptor(
            self.name, uri=self.uri, digest=dict(self.digest), annotations=dict(self.notes)
        ).pb


def image(name: str, image_id: str) -> Thing:
    """Return the thing that an image is: the digest of its configuration."""
    return Thing(name, {"sha256": image_id.removeprefix("sha256:")})


@dataclass(frozen=True)
class Receipt:
    """A statement as it was read: its subjects, and what they were judged or made with."""

    stage: str
    predicate_type: str
    subjects: Mapping[str, str]
    predicate: Mapping[str, Any]
    inputs: Mapping[str, Thing]

    @property
    def result(self) -> str:
        """The verdict of a test result; PASSED for a build, which would have none otherwise."""
        return str(self.predicate.get("result", "PASSED"))


def test_result(subjects: Iterable[Thing], inputs: Iterable[Thing], passed: Sequence[str]) -> bytes:
    """Return the statement that tests passed: `subjects` were judged with `inputs`.

    https://github.com/in-toto/attestation/blob/main/spec/predicates/test-result.md
    """
    predicate = {
        "result": "PASSED",
        "configuration": [MessageToDict(thing.descriptor()) for thing in inputs],
        "passedTests": list(passed),
    }
    return _statement(subjects, TEST_RESULT, predicate)


def provenance(subjects: Iterable[Thing], inputs: Iterable[Thing], run: Mapping[str, str]) -> bytes:
    """Return the statement that `subjects` were built from `inputs`.

    `run` has the keys `builder`, `id`, `started`, `finished` and `environment`.
    https://slsa.dev/spec/v1.0/provenance
    """
    predicate = {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {"environment": run["environment"]},
            "resolvedDependencies": [MessageToDict(thing.descriptor()) for thing in inputs],
        },
        "runDetails": {
            "builder": {"id": run["builder"]},
            "metadata": {
                "invocationId": run["id"],
                "startedOn": run["started"],
                "finishedOn": run["finished"],
            },
        },
    }
    return _statement(subjects, PROVENANCE, predicate)


def _statement(subjects: Iterable[Thing], kind: str, predicate: Mapping[str, Any]) -> bytes:
    statement = Statement([thing.descriptor() for thing in subjects], kind, dict(predicate))
    statement.validate()
    return json.dumps(MessageToDict(statement.pb), sort_keys=True).encode()


# --- signatures ----------------------------------------------------------------------------------


def signer(key: str) -> CryptoSigner:
    """Return who signs with `key`, an ed25519 private key in PEM.

    Raises Misconfigured if it is none; the key is not shown.
    """
    try:
        return CryptoSigner(load_pem_private_key(key.encode(), password=None))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Misconfigured(
            "the signing key is no private key in PEM without a password",
            hint="openssl genpkey -algorithm ed25519 makes one",
        ) from None


def public_keys(text: str) -> list[Key]:
    """Return the public keys in `text`, PEM one after the other, one at the least.

    Raises Misconfigured if there is none, or one that cannot be read.
    """
    begin, end = "-----BEGIN PUBLIC KEY-----", "-----END PUBLIC KEY-----"
    blocks = [part + end for part in text.split(end)[:-1]]
    try:
        # No key at all would not mean that nobody is trusted, but everybody.
        if not blocks or len(blocks) != text.count(begin):
            raise ValueError  # noqa: TRY301
        return [SSlibKey.from_crypto(load_pem_public_key(block.encode())) for block in blocks]
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Misconfigured(
            "the trusted keys are no public keys in PEM",
            hint="openssl pkey -in private.pem -pubout writes the public key of a private one",
        ) from None


def seal(statement: bytes, by: CryptoSigner | None) -> bytes:
    """Return the envelope around a statement, signed if there is somebody to sign."""
    envelope = Envelope(statement, PAYLOAD_TYPE, {})
    if by is not None:
        envelope.sign(by)
    return (json.dumps(envelope.to_dict(), indent=1) + "\n").encode()


def open_sealed(stage: str, content: bytes, trusted: Sequence[Key]) -> Receipt:
    """Return the receipt in an envelope.

    With `trusted` keys, one of them must have signed it. Raises StageFailed, naming the check that
    failed: envelope, signature, or statement.
    """
    try:
        envelope = Envelope.from_dict(json.loads(content))
        if envelope.payload_type != PAYLOAD_TYPE:
            raise ValueError(f"payload type {envelope.payload_type}")
    except (*_MALFORMED, SecuresystemslibError) as error:
        raise StageFailed(f"receipt {stage}: envelope: {_reason(error)}") from None
    if trusted:
        try:
            envelope.verify(list(trusted), threshold=1)
        except (ValueError, SecuresystemslibError):
            who = ", ".join(key[:12] for key in envelope.signatures) or "nobody"
            raise StageFailed(
                f"receipt {stage}: signature: by no trusted key, or of another text "
                f"(signed by {who})"
            ) from None
    return _read(stage, envelope.payload)


def _read(stage: str, payload: bytes) -> Receipt:
    try:
        message = ParseDict(json.loads(payload), StatementMessage())
        Statement.copy_from_pb(message).validate()
        # As it is understood, whatever it was written like (names are free in protobuf's JSON).
        document = MessageToDict(message)
        predicate = document["predicate"]
        build = predicate.get("buildDefinition", {})
        inputs = predicate.get("configuration", build.get("resolvedDependencies", []))
        return Receipt(
            stage=stage,
            predicate_type=document["predicateType"],
            subjects=_once((s["name"], s["digest"]["sha256"]) for s in document["subject"]),
            predicate=predicate,
            inputs=_once((one["name"], _thing(one)) for one in inputs),
        )
    except (*_MALFORMED, ParseError) as error:
        raise StageFailed(f"receipt {stage}: statement: {_reason(error)}") from None


def _thing(descriptor: Mapping[str, Any]) -> Thing:
    digest, notes = descriptor.get("digest", {}), descriptor.get("annotations", {})
    return Thing(descriptor["name"], dict(digest), descriptor.get("uri", ""), dict(notes))


def _once(named: Iterable[tuple[str, Value]]) -> dict[str, Value]:
    """Return a mapping of these; what is said of one name twice would mean nothing."""
    found: dict[str, Value] = {}
    for name, value in named:
        if name in found:
            raise ValueError(f"{name} is named twice")
        found[name] = value
    return found


def _reason(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error).splitlines()[0]
