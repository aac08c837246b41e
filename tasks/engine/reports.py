"""The verdict on tests: from the container's exit code and the JUnit files, which must agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from xml.parsers import expat

from junitparser import Error, Failure, JUnitXml, JUnitXmlError
from junitparser.junitparser import TestCase

from tasks.errors import StageFailed

NAMES_SHOWN = 20


@dataclass(frozen=True)
class Counts:
    """How many tests there were, and what became of them."""

    passed: int
    failed: int
    skipped: int
    names: tuple[str, ...] = field(default=(), repr=False)  # of those that passed

    def __str__(self) -> str:
        parts = [f"{self.passed} passed"]
        parts += [f"{self.failed} failed"] if self.failed else []
        parts += [f"{self.skipped} skipped"] if self.skipped else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Finished:
    """What a test container left: its service, exit code, and JUnit file (None: it left none)."""

    service: str
    exit_code: int
    junit: bytes | None


def merge(finished: Sequence[Finished]) -> JUnitXml:
    """Return the one report of several containers.

    Raises StageFailed if a file is missing, truncated, or something else than JUnit.
    """
    if not finished:
        raise StageFailed(
            "0 tests passed: no service runs them", hint="x-seatrial.tests in the compose file"
        )
    return reduce(add, (_parsed(one) for one in finished))


def judge(report: JUnitXml, finished: Sequence[Finished]) -> Counts:
    """Return the counts of tests that passed.

    Raises StageFailed if one failed, if a container ended with an error, if exit code and report
    disagree, or if a container ran no test at all (a run without tests proves nothing).
    """
    counts = _counts(report)
    bad_codes = [one for one in finished if one.exit_code]
    if counts.failed:
        raise StageFailed(f"tests: {counts}", evidence=_failures(report))
    for one in finished:
        # Asked of each container: a filter that matches nothing hides among others' results.
        if _counts(_parsed(one)).passed == 0:
            raise StageFailed(f"0 tests passed in {one.service} (exit code {one.exit_code})",
                              hint="are there tests, and does the filter match them?")  # fmt: skip
    if bad_codes:
        codes = ", ".join(f"{one.service} ended with {one.exit_code}" for one in bad_codes)
        raise StageFailed(f"{codes}, though its report tells of no failure: {counts}")
    return counts


def counts_of(name: str, junit: bytes) -> Counts:
    """Return the counts of a JUnit file. Raises StageFailed if it is none."""
    return _counts(_parsed(Finished(name, 0, junit)))


def _parsed(one: Finished) -> JUnitXml:
    if one.junit is None:
        raise StageFailed(
            f"{one.service} left no JUnit file (exit code {one.exit_code})",
            hint="its log tells how far it came; see also its `report` in the compose file",
        )
    try:
        _refuse_document_type(one.service, one.junit)
        document = JUnitXml.fromstring(one.junit)
    except (JUnitXmlError, SyntaxError, ValueError, LookupError, expat.ExpatError) as error:
        raise StageFailed(
            f"the JUnit file of {one.service} cannot be read: {error} (exit code {one.exit_code})"
        ) from None
    if isinstance(document, JUnitXml):
        return document
    report = JUnitXml()
    report.add_testsuite(document)
    return report


def _refuse_document_type(service: str, junit: bytes) -> None:
    """Refuse what could hold entities: as it is parsed, and only there, whatever its encoding."""

    def refuse(*_: object) -> None:
        raise StageFailed(f"the JUnit file of {service} holds a document type: not JUnit")

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.Parse(junit, True)


def _counts(report: JUnitXml) -> Counts:
    cases = _cases(report)
    passed = [case for case in cases if case.is_passed]
    failed = sum(_failed(case) for case in cases if not case.is_passed)
    return Counts(
        len(passed),
        failed,
        len(cases) - len(passed) - failed,
        tuple(f"{case.classname}::{case.name}" for case in passed),
    )


def _failed(case: TestCase) -> bool:
    # One that was skipped may fail all the same, as it is taken down.
    return bool(case.is_failure or case.is_error)


def _cases(report: JUnitXml) -> list[TestCase]:
    return [case for suite in report for case in suite]


def _failures(report: JUnitXml) -> list[str]:
    failed = [case for case in _cases(report) if _failed(case)]
    shown = []
    for case in failed[:NAMES_SHOWN]:
        reason = next(reason for reason in case.result if isinstance(reason, Failure | Error))
        first_line = (reason.message or reason.text or "").strip().splitlines()[:1]
        shown.append(f"{case.classname}::{case.name}: {' '.join(first_line)}")
    if len(failed) > NAMES_SHOWN:
        shown.append(f"... and {len(failed) - NAMES_SHOWN} more")
    return shown
