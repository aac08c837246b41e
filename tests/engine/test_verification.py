"""The policy: evidence that holds, and for each of its checks a twin that must fail by it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tasks.engine import receipts, shelf, verification
from tasks.engine.receipts import Thing
from tasks.engine.verification import TEST_STAGES, Accepted, Evidence
from tasks.errors import StageFailed
from tests.engine.evidence import (
    COMMIT,
    FAILED,
    KEY,
    PASSED,
    RELEASE,
    SKIPPED,
    WHEELS,
    Build,
    Release,
)

OTHER = "ba" * 32

HOLDS = Release()
TRUSTED = [receipts.signer(KEY).public_key]


def judged(release: Release, environment: str = "ci") -> Accepted:
    return verification.judge(release.evidence(), environment, TRUSTED)


def refused(evidence: Release | Evidence, environment: str = "ci") -> StageFailed:
    given = evidence.evidence() if isinstance(evidence, Release) else evidence
    with pytest.raises(StageFailed) as caught:
        verification.judge(given, environment, TRUSTED)
    assert caught.value.exit_code == 1
    return caught.value


def with_test(stage: str, **changes: object) -> Release:
    changed = replace(getattr(HOLDS, stage), **changes)
    return replace(HOLDS, **{stage: changed})


# --- what holds ----------------------------------------------------------------------------------


def test_what_holds_says_what_was_accepted() -> None:
    accepted = judged(HOLDS)
    assert accepted.image_id == f"sha256:{RELEASE}"
    assert accepted.wheels == WHEELS
    assert accepted.revision == COMMIT
    assert accepted.dirty is False
    assert (accepted.counts.passed, accepted.counts.failed, accepted.counts.skipped) == (2, 0, 1)


def test_unsigned_it_holds_where_no_key_is_asked_for() -> None:
    accepted = verification.judge(HOLDS.evidence(key=""), "ci", [])
    assert accepted.image_id == f"sha256:{RELEASE}"


def test_from_a_dirty_tree_it_holds_and_says_so() -> None:
    parts = {
        stage: replace(getattr(HOLDS, stage), dirty="yes")
        for stage in ("unit", "integration", "wheels", "image", "acceptance")
    }
    accepted = judged(replace(HOLDS, **parts))
    assert accepted.dirty is True


# --- must fail -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", shelf.STAGES)
def test_a_receipt_is_missing(stage: str) -> None:
    evidence = HOLDS.evidence()
    envelopes = {name: there for name, there in evidence.envelopes.items() if name != stage}
    failure = refused(replace(evidence, envelopes=envelopes))
    assert failure.message == f"there is no receipt of {stage}"
    assert "invoke release.acceptance" in failure.hint


@pytest.mark.parametrize("stage", shelf.STAGES)
def test_a_receipt_is_garbage(stage: str) -> None:
    evidence = HOLDS.evidence()
    envelopes = {**evidence.envelopes, stage: b"garbage"}
    failure = refused(replace(evidence, envelopes=envelopes))
    assert failure.message.startswith(f"receipt {stage}: envelope: ")


@pytest.mark.parametrize("stage", shelf.STAGES)
def test_one_receipt_is_signed_by_nobody(stage: str) -> None:
    evidence = HOLDS.evidence()
    envelopes = {**evidence.envelopes, stage: HOLDS.evidence(key="").envelopes[stage]}
    failure = refused(replace(evidence, envelopes=envelopes))
    assert failure.message.startswith(f"receipt {stage}: signature: ")
    assert "(signed by nobody)" in failure.message


@pytest.mark.parametrize("stage", shelf.STAGES)
def test_the_receipt_of_another_stage_is_in_its_place(stage: str) -> None:
    evidence = HOLDS.evidence()
    other = "wheels" if stage in TEST_STAGES else "unit"
    envelopes = {**evidence.envelopes, stage: evidence.envelopes[other]}
    failure = refused(replace(evidence, envelopes=envelopes))
    assert failure.message == f"receipt {stage}: predicate"


def test_the_receipt_of_the_wheels_is_in_the_place_of_the_image_s() -> None:
    evidence = HOLDS.evidence()
    envelopes = {**evidence.envelopes, "image": evidence.envelopes["wheels"]}
    assert refused(replace(evidence, envelopes=envelopes)).message == (
        "receipt image: subject: no release"
    )


def test_the_receipt_of_unit_tests_is_in_the_place_of_the_acceptance_s() -> None:
    # a replay within one release: judged by the name of its report
    evidence = HOLDS.evidence()
    envelopes = {**evidence.envelopes, "acceptance": evidence.envelopes["unit"]}
    failure = refused(replace(evidence, envelopes=envelopes))
    assert failure.message == "receipt acceptance: report: none"


@pytest.mark.parametrize("stage", TEST_STAGES)
def test_another_verdict_than_passed(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = receipts._statement

    def failed(subjects: list[Thing], kind: str, predicate: dict[str, object]) -> bytes:
        is_it = any(f"{stage}.xml" in str(part) for part in predicate.get("configuration", ()))  # type: ignore[attr-defined]
        changed = {**predicate, "result": "FAILED"} if is_it else predicate
        return written(subjects, kind, changed)

    monkeypatch.setattr(receipts, "_statement", failed)
    assert refused(HOLDS).message == f"receipt {stage}: result"


@pytest.mark.parametrize("stage", TEST_STAGES)
def test_judged_in_another_environment(stage: str) -> None:
    failure = refused(with_test(stage, environment="local"))
    assert failure.message == f"receipt {stage}: environment: local, not ci"


def test_all_of_it_of_another_environment() -> None:
    assert refused(HOLDS, "production").message == ("receipt unit: environment: ci, not production")


@pytest.mark.parametrize("stage", TEST_STAGES)
def test_judged_in_no_environment(stage: str) -> None:
    failure = refused(with_test(stage, left_out="environment"))
    assert failure.message == f"receipt {stage}: environment: none, not ci"


@pytest.mark.parametrize("stage", TEST_STAGES)
def test_the_report_is_another(stage: str) -> None:
    other = f"<testsuites><testsuite>{PASSED.format(9)}</testsuite></testsuites>"
    failure = refused(with_test(stage, changed=other))
    assert failure.message == (
        f"receipt {stage}: report: {stage}.xml is another than the one it was written for"
    )


@pytest.mark.parametrize("stage", TEST_STAGES)
def test_the_report_is_missing(stage: str) -> None:
    evidence = HOLDS.evidence()
    junit = {name: there for name, there in evidence.junit.items() if name != stage}
    assert refused(replace(evidence, junit=junit)).message == f"receipt {stage}: report: none"


@pytest.mark.parametrize("stage", TEST_STAGES)
def test_the_receipt_names_no_report(stage: str) -> None:
    failure = refused(with_test(stage, left_out=f"{stage}.xml"))
    assert failure.message == f"receipt {stage}: report: none"


@pytest.mark.parametrize("stage", TEST_STAGES)
def test_the_counts_are_not_those_of_the_report(stage: str) -> None:
    failure = refused(with_test(stage, said=(3, 0, 0)))
    assert failure.message == (
        f"receipt {stage}: counts: ('3', '0', '0') said, ('2', '0', '1') in the report"
    )


@pytest.mark.parametrize(
    ("cases", "said", "told"),
    [
        ("", (0, 0, 0), "0 passed"),
        (SKIPPED.format(1), (0, 0, 1), "0 passed, 1 skipped"),
        (PASSED.format(1) + FAILED.format(1), (1, 1, 0), "1 passed, 1 failed"),
        (FAILED.format(1), (0, 1, 0), "0 passed, 1 failed"),
    ],
    ids=["none", "all skipped", "one failed", "all failed"],
)
@pytest.mark.parametrize("stage", TEST_STAGES)
def test_not_all_passed_or_none_did(
    stage: str, cases: str, said: tuple[int, int, int], told: str
) -> None:
    # a receipt that tells the truth of a report is no receipt of a pass
    failure = refused(with_test(stage, cases=cases, said=said))
    assert failure.message == f"receipt {stage}: counts: {told}"


@pytest.mark.parametrize(
    "cases", ["<!DOCTYPE x [<!ENTITY e 'lol'>]>", "<"], ids=["a document type", "truncated"]
)
def test_a_report_that_is_none(cases: str) -> None:
    failure = refused(with_test("unit", cases=cases))
    assert "JUnit file of unit" in failure.message


def test_the_image_was_built_anew() -> None:
    failure = refused(replace(HOLDS, image=Build({"release": OTHER}, WHEELS)))
    assert failure.message == (
        "receipt image: subject: the image was built anew after its acceptance"
    )
    assert failure.evidence == (f"accepted: sha256:{RELEASE}", f"built:    sha256:{OTHER}")
    assert failure.hint == "invoke release.acceptance"


def test_the_acceptance_names_no_image() -> None:
    failure = refused(with_test("acceptance", subjects=WHEELS))
    assert failure.message == "receipt acceptance: subject: no release"


def test_the_build_names_no_image() -> None:
    failure = refused(replace(HOLDS, image=Build({"other": RELEASE}, WHEELS)))
    assert failure.message == "receipt image: subject: no release"


OTHERS = {
    "another hash": {**WHEELS, "todo-1.0-py3-none-any.whl": "ff" * 32},
    "one too many": {**WHEELS, "evil-1.0-py3-none-any.whl": "ff" * 32},
    "one missing": {"todo-1.0-py3-none-any.whl": "cd" * 32},
}


@pytest.mark.parametrize("wheels", OTHERS.values(), ids=OTHERS)
def test_other_wheels_were_built(wheels: dict[str, str]) -> None:
    failure = refused(replace(HOLDS, wheels=Build(wheels)))
    assert failure.message == "receipt wheels: subject: other wheels"


@pytest.mark.parametrize("wheels", [*OTHERS.values(), {}], ids=[*OTHERS, "none"])
def test_the_image_was_installed_from_other_wheels(wheels: dict[str, str]) -> None:
    failure = refused(replace(HOLDS, image=Build({"release": RELEASE}, wheels)))
    assert failure.message == "receipt image: materials: other wheels"


@pytest.mark.parametrize("stage", shelf.STAGES)
def test_of_another_commit(stage: str) -> None:
    failure = refused(with_test(stage, commit="99" * 20))
    assert failure.message == "receipts: source: they speak of different commits"
    assert f"{stage}: {'99' * 20}" in failure.evidence
    assert failure.hint == "invoke release.acceptance"


@pytest.mark.parametrize("stage", shelf.STAGES)
def test_one_of_a_dirty_tree(stage: str) -> None:
    assert "different commits" in refused(with_test(stage, dirty="yes")).message


@pytest.mark.parametrize("stage", shelf.STAGES)
def test_whether_the_tree_was_dirty_is_not_said(stage: str) -> None:
    # what is not said to be clean is dirty
    assert "different commits" in refused(with_test(stage, dirty="")).message


@pytest.mark.parametrize("stage", shelf.STAGES)
def test_of_no_commit(stage: str) -> None:
    assert refused(with_test(stage, left_out="source")).message == f"receipt {stage}: source: none"
