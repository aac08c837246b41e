"""Receipts: what is written is what is read; nothing else is."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.signer import Key

from tasks.engine import receipts, shelf
from tasks.engine.receipts import PAYLOAD_TYPE, Thing
from tasks.errors import Misconfigured, StageFailed

ID = "ab" * 32
WHEEL = Thing("todo-1.0-py3-none-any.whl", {"sha256": "cd" * 32})
SOURCE = Thing(
    "source", {"gitCommit": "01" * 20}, uri="https://example.org/todo", notes={"dirty": "no"}
)
RUN = {
    "builder": "pkg:pypi/seatrial@1",
    "id": "20260101-000000-abcd",
    "started": "2026-01-01T00:00:00Z",
    "finished": "2026-01-01T00:01:00Z",
    "environment": "ci",
}


def pem(private: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    return private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def public_pem(private: ed25519.Ed25519PrivateKey) -> str:
    return (
        private.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


OURS = ed25519.Ed25519PrivateKey.generate()
THEIRS = ed25519.Ed25519PrivateKey.generate()


def trusted(*keys: ed25519.Ed25519PrivateKey) -> list[Key]:
    return receipts.public_keys("".join(map(public_pem, keys))) if keys else []


@pytest.fixture
def statement() -> bytes:
    return receipts.test_result([receipts.image("release", f"sha256:{ID}"), WHEEL], [SOURCE], ["a"])


@pytest.fixture
def signed(statement: bytes) -> bytes:
    return receipts.seal(statement, receipts.signer(pem(OURS)))


def edited(sealed: bytes, edit: Callable[[dict[str, Any]], object]) -> bytes:
    """Return an envelope whose statement was edited; the signatures are as they were."""
    envelope = json.loads(sealed)
    document = json.loads(base64.b64decode(envelope["payload"]))
    edit(document)
    envelope["payload"] = base64.b64encode(json.dumps(document).encode()).decode()
    return json.dumps(envelope).encode()


def refused(content: bytes, *keys: ed25519.Ed25519PrivateKey) -> str:
    with pytest.raises(StageFailed) as caught:
        receipts.open_sealed("unit", content, trusted(*keys))
    assert caught.value.exit_code == 1
    assert "\n" not in caught.value.message
    return caught.value.message


# --- round trips ---------------------------------------------------------------------------------


def test_a_test_result_round_trip(signed: bytes) -> None:
    receipt = receipts.open_sealed("acceptance", signed, trusted(OURS))
    assert receipt.stage == "acceptance"
    assert receipt.predicate_type == receipts.TEST_RESULT
    assert receipt.result == "PASSED"
    assert receipt.subjects == {"release": ID, WHEEL.name: "cd" * 32}
    assert receipt.inputs == {"source": SOURCE}
    assert receipt.predicate["passedTests"] == ["a"]


def test_a_provenance_round_trip() -> None:
    written = receipts.provenance([WHEEL], [SOURCE, receipts.image("image:base", ID)], RUN)
    receipt = receipts.open_sealed("wheels", receipts.seal(written, None), [])
    assert receipt.predicate_type == receipts.PROVENANCE
    assert receipt.result == "PASSED"
    assert receipt.subjects == {WHEEL.name: "cd" * 32}
    assert receipt.inputs["image:base"] == Thing("image:base", {"sha256": ID})
    assert receipt.inputs["source"] == SOURCE
    details = receipt.predicate["runDetails"]
    assert details["metadata"]["invocationId"] == RUN["id"]
    assert details["builder"] == {"id": RUN["builder"]}
    definition = receipt.predicate["buildDefinition"]
    assert definition["externalParameters"] == {"environment": "ci"}


def test_unsigned_it_is_read_where_nobody_is_asked_for(statement: bytes) -> None:
    sealed = receipts.seal(statement, None)
    assert json.loads(sealed)["signatures"] == []
    assert receipts.open_sealed("unit", sealed, []).subjects["release"] == ID


def test_the_envelope_is_dsse_around_an_in_toto_statement(signed: bytes) -> None:
    # what other tools (cosign, in-toto-verify, slsa-verifier) expect
    envelope = json.loads(signed)
    assert envelope.keys() == {"payload", "payloadType", "signatures"}
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    assert [one.keys() for one in envelope["signatures"]] == [{"keyid", "sig"}]
    document = json.loads(base64.b64decode(envelope["payload"]))
    assert document.keys() == {"_type", "subject", "predicateType", "predicate"}
    assert document["_type"] == "https://in-toto.io/Statement/v1"
    assert document["subject"][0] == {"name": "release", "digest": {"sha256": ID}}


def test_the_signature_is_ed25519_over_the_pre_authentication_encoding(
    signed: bytes, statement: bytes
) -> None:
    # checked without the library that made it
    signature = base64.b64decode(json.loads(signed)["signatures"][0]["sig"])
    kind = PAYLOAD_TYPE.encode()
    encoded = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(statement), statement)
    OURS.public_key().verify(signature, encoded)


def test_the_same_statement_is_the_same_bytes(statement: bytes) -> None:
    things = [receipts.image("release", f"sha256:{ID}"), WHEEL]
    assert receipts.test_result(things, [SOURCE], ["a"]) == statement
    by = receipts.signer(pem(OURS))
    assert receipts.seal(statement, by) == receipts.seal(statement, by)


def test_one_of_several_trusted_keys_is_enough(signed: bytes) -> None:
    assert receipts.open_sealed("unit", signed, trusted(THEIRS, OURS)).result == "PASSED"


@given(
    names=st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=30), unique=True),
    notes=st.dictionaries(
        st.text(st.characters(codec="utf-8"), min_size=1), st.text(st.characters(codec="utf-8"))
    ),
)
def test_whatever_the_names_are(names: list[str], notes: dict[str, str]) -> None:
    inputs = [Thing(name, {"sha256": ID}, uri=name, notes=notes) for name in names]
    written = receipts.test_result([receipts.image("release", ID)], inputs, names)
    sealed = receipts.seal(written, receipts.signer(pem(OURS)))
    receipt = receipts.open_sealed("unit", sealed, trusted(OURS))
    assert receipt.inputs == {thing.name: thing for thing in inputs}
    assert list(receipt.predicate["passedTests"]) == names


# --- edited, replaced, by others -----------------------------------------------------------------


SIGNATURE = "receipt unit: signature: by no trusted key, or of another text"


@pytest.mark.parametrize(
    "edit",
    [
        lambda d: d["subject"][0]["digest"].update(sha256="00" * 32),
        lambda d: d["predicate"].update(result="FAILED"),
        lambda d: d["predicate"]["configuration"][0]["annotations"].update(dirty="yes"),
        lambda d: d.update(predicateType=receipts.PROVENANCE),
        lambda _: None,  # the same in other bytes
    ],
    ids=["subject", "result", "configuration", "predicate type", "blanks"],
)
def test_an_edited_payload(signed: bytes, edit: Callable[[dict[str, Any]], object]) -> None:
    changed = edited(signed, edit)
    if json.loads(changed)["payload"] == json.loads(signed)["payload"]:
        changed = edited(signed, lambda d: d.update(_type=d.pop("_type")))
    told = refused(changed, OURS)
    assert told.startswith(SIGNATURE)


def test_an_edited_payload_that_nobody_signed_is_as_good_as_any(statement: bytes) -> None:
    # which is why only the environment `local` does without a key
    sealed = edited(receipts.seal(statement, None), lambda d: d["subject"].pop())
    assert receipts.open_sealed("unit", sealed, []).subjects == {"release": ID}


def test_signed_by_another_key(statement: bytes) -> None:
    sealed = receipts.seal(statement, receipts.signer(pem(THEIRS)))
    told = refused(sealed, OURS)
    assert told.startswith(SIGNATURE)
    # it says by whom
    assert receipts.signer(pem(THEIRS)).public_key.keyid[:12] in told


def test_signed_by_nobody(statement: bytes) -> None:
    assert refused(receipts.seal(statement, None), OURS) == f"{SIGNATURE} (signed by nobody)"


def test_signed_by_another_key_under_the_name_of_ours(statement: bytes) -> None:
    envelope = json.loads(receipts.seal(statement, receipts.signer(pem(THEIRS))))
    envelope["signatures"][0]["keyid"] = receipts.signer(pem(OURS)).public_key.keyid
    assert refused(json.dumps(envelope).encode(), OURS).startswith(SIGNATURE)


def test_the_signature_of_another_statement(signed: bytes) -> None:
    other = receipts.test_result([receipts.image("release", "ef" * 32)], [SOURCE], ["a"])
    envelope = json.loads(receipts.seal(other, None))
    envelope["signatures"] = json.loads(signed)["signatures"]
    assert refused(json.dumps(envelope).encode(), OURS).startswith(SIGNATURE)


def test_a_signature_cut_short(signed: bytes) -> None:
    envelope = json.loads(signed)
    envelope["signatures"][0]["sig"] = base64.b64encode(b"short").decode()
    assert refused(json.dumps(envelope).encode(), OURS).startswith(SIGNATURE)


def test_two_signatures_one_of_them_ours(signed: bytes, statement: bytes) -> None:
    envelope = json.loads(signed)
    theirs = json.loads(receipts.seal(statement, receipts.signer(pem(THEIRS))))
    envelope["signatures"].insert(0, theirs["signatures"][0])
    assert receipts.open_sealed("unit", json.dumps(envelope).encode(), trusted(OURS)).subjects


def test_another_payload_type_is_refused_signed_or_not(statement: bytes) -> None:
    envelope = json.loads(receipts.seal(statement, None))
    envelope["payloadType"] = "text/plain"
    told = refused(json.dumps(envelope).encode())
    assert told == "receipt unit: envelope: payload type text/plain"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"42",
        b'"text"',
        b"{}",
        b"\xff\xfe",
        b'{"payload": "AA==", "payloadType": "application/vnd.in-toto+json"}',
        b'{"payload": "AA==", "payloadType": "application/vnd.in-toto+json", "signatures": null}',
        b'{"payload": "AA==", "payloadType": "application/vnd.in-toto+json", "signatures": [3]}',
        b'{"payload": "AA==", "payloadType": "application/vnd.in-toto+json", "signatures": [{}]}',
        b'{"payload": "%", "payloadType": "application/vnd.in-toto+json", "signatures": []}',
        b'{"payload": 3, "payloadType": "application/vnd.in-toto+json", "signatures": []}',
        b"[" * 100_000,
        b'{"signatures": ' * 100_000,
    ],
    ids=lambda content: repr(content[:40]),
)
def test_an_envelope_that_is_none(content: bytes) -> None:
    assert refused(content).startswith("receipt unit: envelope: ")
    assert refused(content, OURS).startswith("receipt unit: envelope: ")


def test_a_keyid_given_twice(signed: bytes) -> None:
    envelope = json.loads(signed)
    envelope["signatures"] *= 2
    assert refused(json.dumps(envelope).encode(), OURS).startswith("receipt unit: envelope: ")


@pytest.mark.parametrize(
    "edit",
    [
        lambda d: d.pop("_type"),
        lambda d: d.update(_type="https://in-toto.io/Statement/v0.1"),
        lambda d: d.pop("subject"),
        lambda d: d.update(subject=[]),
        lambda d: d.update(subject=3),
        lambda d: d["subject"][0].pop("name"),
        lambda d: d["subject"][0].pop("digest"),
        lambda d: d["subject"][0].update(digest={"sha512": ID}),
        lambda d: d["subject"].append(d["subject"][0]),
        lambda d: d.pop("predicateType"),
        lambda d: d.pop("predicate"),
        lambda d: d.update(predicate={}),
        lambda d: d.update(predicate=[1]),
        lambda d: d["predicate"].update(configuration=3),
        lambda d: d["predicate"].update(configuration=[3]),
        lambda d: d["predicate"].update(configuration=["source"]),
        lambda d: d["predicate"].update(configuration=[{"uri": "no name"}]),
        lambda d: d["predicate"].update(configuration=[{"name": "a", "digest": 3}]),
        lambda d: d["predicate"].update(configuration=[{"name": "a", "annotations": "x"}]),
        lambda d: d["predicate"]["configuration"].append(d["predicate"]["configuration"][0]),
        lambda d: d.update(predicate={"buildDefinition": 3}),
        lambda d: d.update(more="than there should be"),
    ],
)
def test_a_statement_that_is_none(
    statement: bytes, edit: Callable[[dict[str, Any]], object]
) -> None:
    told = refused(edited(receipts.seal(statement, None), edit))
    assert told.startswith("receipt unit: statement: ")
    assert not told.endswith(": ")


@pytest.mark.parametrize("payload", [b"", b"[]", b"null", b"3", b"{", b"\xff", b"[" * 100_000])
def test_a_payload_that_is_no_statement(payload: bytes) -> None:
    assert refused(receipts.seal(payload, None)).startswith("receipt unit: statement: ")


def test_a_statement_says_what_is_missing(statement: bytes) -> None:
    sealed = edited(receipts.seal(statement, None), lambda d: d["subject"][0].pop("name"))
    assert refused(sealed) == "receipt unit: statement: 'name' is missing"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["name", "digest", "sha256", "uri", "annotations", "configuration", "x"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(part=st.sampled_from(["subject", "predicate", "predicateType", "_type"]), value=JSON)
def test_whatever_a_statement_holds_it_is_read_or_refused(part: str, value: Any) -> None:
    written = receipts.test_result([WHEEL], [SOURCE], [])
    sealed = edited(receipts.seal(written, None), lambda d: d.update({part: value}))
    try:
        receipts.open_sealed("unit", sealed, [])
    except StageFailed as failure:
        assert failure.message.startswith("receipt unit: statement: ")  # noqa: PT017


@given(value=JSON)
def test_whatever_an_envelope_holds_it_is_refused(value: Any) -> None:
    assert refused(json.dumps(value).encode(), OURS).startswith("receipt unit: envelope: ")


# --- keys ----------------------------------------------------------------------------------------


def test_a_signer_has_the_public_key_of_its_own() -> None:
    assert receipts.signer(pem(OURS)).public_key.keyid == trusted(OURS)[0].keyid


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        public_pem(OURS),
        pem(OURS)[:-40],
        OURS.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"password"),
        ).decode(),
    ],
    ids=["empty", "nonsense", "public", "cut", "with a password"],
)
def test_a_signing_key_that_is_none(text: str) -> None:
    with pytest.raises(Misconfigured, match="signing key") as caught:
        receipts.signer(text)
    assert caught.value.exit_code == 78
    secret = pem(OURS).splitlines()[1]
    assert secret not in f"{caught.value.message}{caught.value.evidence}{caught.value.hint}"
    assert caught.value.__cause__ is None


def test_public_keys_one_after_the_other_with_words_between() -> None:
    text = f"# ours\n{public_pem(OURS)}\n# theirs\n{public_pem(THEIRS)}\n"
    assert [key.keyid for key in receipts.public_keys(text)] == [
        key.keyid for key in trusted(OURS, THEIRS)
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "nonsense",
        pem(OURS),
        public_pem(OURS)[:-40],
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        public_pem(OURS) + "\n-----BEGIN PUBLIC KEY-----\nAAAA\n",
    ],
    ids=["empty", "blank", "nonsense", "private", "cut", "garbage", "second one cut"],
)
def test_trusted_keys_that_are_none(text: str) -> None:
    # none at all would mean that everybody is trusted
    with pytest.raises(Misconfigured, match="trusted keys"):
        receipts.public_keys(text)


# --- where they are ------------------------------------------------------------------------------


def test_written_and_read(tmp_path: Path, signed: bytes) -> None:
    shelf.write(tmp_path, "unit", signed)
    assert shelf.content(tmp_path, "unit") == signed
    assert shelf.path(tmp_path, "unit") == tmp_path / "receipts" / "unit.json"
    assert [path.name for path in (tmp_path / "receipts").iterdir()] == ["unit.json"]


def test_a_disk_that_is_full_leaves_the_old_one(
    tmp_path: Path, signed: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.write(tmp_path, "unit", b"old")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        shelf.write(tmp_path, "unit", signed)
    assert shelf.content(tmp_path, "unit") == b"old"


def test_removed_if_it_is_there(tmp_path: Path) -> None:
    shelf.write(tmp_path, "unit", b"old")
    shelf.write(tmp_path, "image", b"other")
    shelf.remove(tmp_path, "unit", "wheels")
    assert shelf.content(tmp_path, "image") == b"other"
    with pytest.raises(StageFailed) as caught:
        shelf.content(tmp_path, "unit")
    assert caught.value.message == "there is no receipt of unit"
    assert caught.value.hint == "invoke release.acceptance writes them"


def test_the_collection_says_in_one_version_who_it_is() -> None:
    root = Path(__file__).resolve().parents[2]
    version = re.search(r'^version = "(.+)"$', (root / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    from tasks.engine import witness  # noqa: PLC0415

    assert witness.builder() == f"pkg:pypi/seatrial@{version[1]}"
