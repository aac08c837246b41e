"""Evidence of a release as its receipts and reports are, for tests to change and to judge."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tasks.engine import receipts, shelf
from tasks.engine.receipts import Thing
from tasks.engine.shelf import Stage
from tasks.engine.verification import TEST_STAGES, Evidence

COMMIT = "01" * 20
RELEASE = "ab" * 32
WHEELS = {"todo-1.0-py3-none-any.whl": "cd" * 32, "django-5.2-py3-none-any.whl": "dc" * 32}
KEY = (
    Ed25519PrivateKey.generate()
    .private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    .decode()
)
PASSED = '<testcase classname="t" name="a{}"/>'
FAILED = '<testcase classname="t" name="b{}"><failure message="no"/></testcase>'
SKIPPED = '<testcase classname="t" name="c{}"><skipped message="later"/></testcase>'


@dataclass(frozen=True)
class Test:
    """What the tests of one stage left behind: the report, and what their receipt says of it."""

    __test__ = False

    stage: Stage
    cases: str = PASSED.format(1) + PASSED.format(2) + SKIPPED.format(1)
    said: tuple[int, int, int] = (2, 0, 1)
    environment: str = "ci"
    commit: str = COMMIT
    dirty: str = "no"
    subjects: Mapping[str, str] = field(default_factory=lambda: {"tests": "ee" * 32})
    changed: str = ""  # what became of the report after its receipt was written
    left_out: str = ""

    @property
    def junit(self) -> bytes:
        return f"<testsuites><testsuite>{self.cases}</testsuite></testsuites>".encode()

    def inputs(self) -> list[Thing]:
        notes = dict(zip(("passed", "failed", "skipped"), map(str, self.said), strict=True))
        things = [
            Thing("source", {"gitCommit": self.commit}, notes={"dirty": self.dirty}),
            Thing("environment", uri=f"seatrial:environment:{self.environment}"),
            Thing(
                f"{self.stage}.xml", {"sha256": hashlib.sha256(self.junit).hexdigest()}, notes=notes
            ),
        ]
        return [thing for thing in things if thing.name != self.left_out]

    def statement(self) -> bytes:
        return receipts.test_result(
            [Thing(name, {"sha256": digest}) for name, digest in self.subjects.items()],
            self.inputs(),
            ["t::a1"],
        )


@dataclass(frozen=True)
class Build:
    """What a build left behind: what was made of what."""

    subjects: Mapping[str, str]
    wheels: Mapping[str, str] = field(default_factory=dict)
    commit: str = COMMIT
    dirty: str = "no"
    left_out: str = ""

    def statement(self) -> bytes:
        things = [
            Thing("source", {"gitCommit": self.commit}, notes={"dirty": self.dirty}),
            *(Thing(name, {"sha256": digest}) for name, digest in self.wheels.items()),
        ]
        run = dict.fromkeys(("builder", "id", "started", "finished", "environment"), "x")
        return receipts.provenance(
            [Thing(name, {"sha256": digest}) for name, digest in self.subjects.items()],
            [thing for thing in things if thing.name != self.left_out],
            run,
        )


@dataclass(frozen=True)
class Release:
    """All that is said of a release; as it stands, it holds."""

    unit: Test = Test("unit")
    integration: Test = Test("integration")
    wheels: Build = field(default_factory=lambda: Build(WHEELS))
    image: Build = field(default_factory=lambda: Build({"release": RELEASE}, WHEELS))
    acceptance: Test = field(
        default_factory=lambda: Test("acceptance", subjects={"release": RELEASE, **WHEELS})
    )

    def evidence(self, key: str = KEY) -> Evidence:
        by = receipts.signer(key) if key else None
        tests = {stage: cast(Test, getattr(self, stage)) for stage in TEST_STAGES}
        return Evidence(
            {stage: receipts.seal(getattr(self, stage).statement(), by) for stage in shelf.STAGES},
            {stage: test.changed.encode() or test.junit for stage, test in tests.items()},
        )
