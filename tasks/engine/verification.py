"""The policy: what must be true of receipts, of an image that is about to be published or was."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from securesystemslib.signer import Key

from tasks.engine import receipts, reports
from tasks.engine.receipts import Receipt
from tasks.engine.shelf import STAGES, Stage
from tasks.errors import StageFailed

TEST_STAGES: tuple[Stage, ...] = ("unit", "integration", "acceptance")


@dataclass(frozen=True)
class Evidence:
    """What is known of an image: envelopes by stage, JUnit files by stage, as bytes."""

    envelopes: Mapping[str, bytes]
    junit: Mapping[str, bytes]


@dataclass(frozen=True)
class Accepted:
    """What was accepted: the image's ID, the wheels in it, the commit, and how it was counted."""

    image_id: str
    wheels: Mapping[str, str]
    revision: str
    dirty: bool
    counts: reports.Counts


def judge(evidence: Evidence, environment: str, trusted: Sequence[Key]) -> Accepted:
    """Return what the evidence says was accepted.

    Checked are, in this order: that every stage has a receipt, envelopes and signatures (by one of
    `trusted`, if any are given), predicates and results, the environment, the reports with their
    hashes and counts, and that the receipts speak of one image, its wheels and one commit. Raises
    StageFailed, naming the check that failed.
    """
    read = {stage: _open(stage, evidence, trusted) for stage in STAGES}
    for stage in TEST_STAGES:
        _require(read[stage], "predicate", read[stage].predicate_type == receipts.TEST_RESULT)
        _require(read[stage], "result", read[stage].result == "PASSED")
        _require_environment(read[stage], environment)
    for build in (read["wheels"], read["image"]):
        _require(build, "predicate", build.predicate_type == receipts.PROVENANCE)
    counts = {stage: _counts(read[stage], evidence) for stage in TEST_STAGES}
    acceptance = read["acceptance"]
    image_id = _subject(acceptance, "release")
    wheels = {name: sha for name, sha in acceptance.subjects.items() if name != "release"}
    if _subject(read["image"], "release") != image_id:
        raise StageFailed(
            "receipt image: subject: the image was built anew after its acceptance",
            evidence=[f"accepted: sha256:{image_id}",
                      f"built:    sha256:{_subject(read['image'], 'release')}"],
            hint="invoke release.acceptance",
        )  # fmt: skip
    _require(read["wheels"], "subject: other wheels", dict(read["wheels"].subjects) == wheels)
    _require(read["image"], "materials: other wheels", _wheels_in(read["image"]) == wheels)
    commits = {stage: _commit(receipt) for stage, receipt in read.items()}
    if len(set(commits.values())) > 1:
        raise StageFailed(
            "receipts: source: they speak of different commits",
            evidence=[f"{stage}: {commit}" for stage, (commit, _) in commits.items()],
            hint="invoke release.acceptance",
        )
    revision, dirty = commits["acceptance"]
    return Accepted(f"sha256:{image_id}", wheels, revision, dirty, counts["acceptance"])


def _open(stage: str, evidence: Evidence, trusted: Sequence[Key]) -> Receipt:
    if stage not in evidence.envelopes:
        raise StageFailed(
            f"there is no receipt of {stage}", hint="invoke release.acceptance writes them"
        )
    return receipts.open_sealed(stage, evidence.envelopes[stage], trusted)


def _require(receipt: Receipt, check: str, holds: bool) -> None:  # noqa: FBT001
    if not holds:
        raise StageFailed(f"receipt {receipt.stage}: {check}", hint="invoke release.acceptance")


def _require_environment(receipt: Receipt, environment: str) -> None:
    there = receipt.inputs.get("environment")
    name = there.uri.rsplit(":", 1)[-1] if there else ""
    _require(receipt, f"environment: {name or 'none'}, not {environment}", name == environment)


def _subject(receipt: Receipt, name: str) -> str:
    _require(receipt, f"subject: no {name}", name in receipt.subjects)
    return receipt.subjects[name]


def _wheels_in(receipt: Receipt) -> dict[str, str]:
    return {
        name: thing.digest.get("sha256", "")
        for name, thing in receipt.inputs.items()
        if name.endswith(".whl")
    }


def _commit(receipt: Receipt) -> tuple[str, bool]:
    source = receipt.inputs.get("source")
    _require(receipt, "source: none", source is not None)
    assert source is not None  # noqa: S101  (as just required)
    return source.digest.get("gitCommit", ""), source.notes.get("dirty") != "no"


def _counts(receipt: Receipt, evidence: Evidence) -> reports.Counts:
    """Return the counts of a receipt, which must be those of its JUnit file."""
    stage = receipt.stage
    noted = receipt.inputs.get(f"{stage}.xml")
    _require(receipt, "report: none", noted is not None and stage in evidence.junit)
    assert noted is not None  # noqa: S101
    content = evidence.junit[stage]
    same = hashlib.sha256(content).hexdigest() == noted.digest.get("sha256")
    _require(receipt, f"report: {stage}.xml is another than the one it was written for", same)
    counts = reports.counts_of(stage, content)
    said = tuple(noted.notes.get(part, "") for part in ("passed", "failed", "skipped"))
    there = tuple(map(str, (counts.passed, counts.failed, counts.skipped)))
    _require(receipt, f"counts: {said} said, {there} in the report", said == there)
    _require(receipt, f"counts: {counts}", counts.passed > 0 and counts.failed == 0)
    return counts
