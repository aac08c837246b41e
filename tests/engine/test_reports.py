"""The verdict on tests. What must fail is most of it: a green light has to be earned."""

from __future__ import annotations

import pytest

from tasks.engine.reports import NAMES_SHOWN, Counts, Finished, counts_of, judge, merge
from tasks.errors import StageFailed

PASSED = '<testcase classname="specs" name="good"/>'
FAILED = (
    '<testcase classname="specs" name="bad">'
    '<failure message="assert 1 == 2&#10;more">a traceback</failure></testcase>'
)
BROKEN = '<testcase classname="specs" name="broken"><error message="no database"/></testcase>'
SKIPPED = '<testcase classname="specs" name="later"><skipped message="not now"/></testcase>'


def junit(*cases: str) -> bytes:
    return (
        f"<testsuites><testsuite name='pytest'>{''.join(cases)}</testsuite></testsuites>".encode()
    )


def finished(junit_file: bytes | None, code: int = 0, service: str = "test") -> Finished:
    return Finished(service, code, junit_file)


def verdict(*containers: Finished) -> Counts:
    return judge(merge(containers), containers)


def refused(*containers: Finished) -> StageFailed:
    with pytest.raises(StageFailed) as caught:
        verdict(*containers)
    assert caught.value.exit_code == 1
    return caught.value


# --- passed --------------------------------------------------------------------------------------


def test_all_passed() -> None:
    counts = verdict(finished(junit(PASSED, PASSED)))
    assert (counts.passed, counts.failed, counts.skipped) == (2, 0, 0)
    assert str(counts) == "2 passed"


def test_some_skipped_and_one_passed_is_enough() -> None:
    assert str(verdict(finished(junit(PASSED, SKIPPED, SKIPPED)))) == "1 passed, 2 skipped"


def test_a_file_with_one_suite_for_its_root_is_junit_too() -> None:
    assert verdict(finished(f"<testsuite>{PASSED}</testsuite>".encode())).passed == 1


def test_suites_within_suites_count() -> None:
    inner = f"<testsuite>{PASSED}<testsuite>{PASSED}</testsuite></testsuite>"
    assert verdict(finished(f"<testsuites>{inner}</testsuites>".encode())).passed == 2


def test_the_counts_of_several_containers_are_merged() -> None:
    counts = verdict(
        finished(junit(PASSED, PASSED)), finished(junit(PASSED, SKIPPED), service="test-restarted")
    )
    assert (counts.passed, counts.failed, counts.skipped) == (3, 0, 1)


def test_the_merged_report_holds_every_case() -> None:
    text = str(merge([finished(junit(PASSED)), finished(junit(FAILED, SKIPPED))]).tostring())  # type: ignore[no-untyped-call]
    for name in ("good", "bad", "later"):
        assert f'name="{name}"' in text


def test_cases_are_counted_and_the_files_own_sums_are_not_believed() -> None:
    file = f'<testsuite tests="9" failures="9" errors="9" skipped="9">{PASSED}</testsuite>'
    assert str(verdict(finished(file.encode()))) == "1 passed"


def test_the_counts_of_a_file() -> None:
    assert str(counts_of("unit", junit(PASSED, SKIPPED))) == "1 passed, 1 skipped"
    assert counts_of("unit", junit(PASSED, FAILED)).names == ("specs::good",)
    with pytest.raises(StageFailed, match="the JUnit file of unit cannot be read"):
        counts_of("unit", b"<")


# --- failed --------------------------------------------------------------------------------------


def test_one_failed() -> None:
    failure = refused(finished(junit(PASSED, FAILED, SKIPPED), code=1))
    assert failure.message == "tests: 1 passed, 1 failed, 1 skipped"
    assert failure.evidence == ("specs::bad: assert 1 == 2",)


def test_an_error_is_a_failure() -> None:
    failure = refused(finished(junit(PASSED, BROKEN), code=1))
    assert failure.message == "tests: 1 passed, 1 failed"
    assert failure.evidence == ("specs::broken: no database",)


def test_one_skipped_that_fails_as_it_is_taken_down_has_failed() -> None:
    both = '<testcase name="a"><skipped/><error message="cannot tear down"/></testcase>'
    failure = refused(finished(junit(PASSED, both)))
    assert failure.message == "tests: 1 passed, 1 failed"
    assert "cannot tear down" in failure.evidence[0]


def test_a_failure_without_a_message_shows_the_first_line_of_its_text() -> None:
    case = '<testcase classname="specs" name="bad"><failure>\nline 1\nline 2</failure></testcase>'
    assert refused(finished(junit(case), 1)).evidence == ("specs::bad: line 1",)


def test_a_failure_that_says_nothing_is_named_all_the_same() -> None:
    case = '<testcase classname="specs" name="bad"><failure/></testcase>'
    assert refused(finished(junit(case), 1)).evidence == ("specs::bad: ",)


def test_of_many_failures_some_are_named_and_the_rest_counted() -> None:
    failure = refused(finished(junit(*[FAILED] * (NAMES_SHOWN + 3)), 1))
    assert len(failure.evidence) == NAMES_SHOWN + 1
    assert failure.evidence[-1] == "... and 3 more"


def test_a_failure_within_nested_suites_is_found() -> None:
    nested = (
        f"<testsuites><testsuite>{PASSED}<testsuite>{FAILED}</testsuite></testsuite></testsuites>"
    )
    assert "1 failed" in refused(finished(nested.encode())).message


# --- exit code and file must agree ---------------------------------------------------------------


def test_the_file_tells_of_a_failure_and_the_exit_code_does_not() -> None:
    assert refused(finished(junit(PASSED, FAILED), code=0)).message == "tests: 1 passed, 1 failed"


@pytest.mark.parametrize("code", [1, 2, 137, 255])
def test_the_exit_code_tells_of_a_failure_and_the_file_does_not(code: int) -> None:
    failure = refused(finished(junit(PASSED), code))
    assert failure.message == (
        f"test ended with {code}, though its report tells of no failure: 1 passed"
    )


def test_the_one_of_several_containers_that_disagrees_is_named() -> None:
    failure = refused(
        finished(junit(PASSED), service="test"),
        finished(junit(PASSED), 137, service="test-restarted"),
    )
    assert failure.message.startswith("test-restarted ended with 137, though")


# --- nothing was tested --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(junit(), id="no test"),
        pytest.param(junit(SKIPPED, SKIPPED), id="all skipped"),
        pytest.param(b"<testsuites/>", id="no suite"),
        pytest.param(b'<testsuite tests="7"/>', id="no test, but a sum"),
        pytest.param(f"<testsuites>{PASSED}</testsuites>".encode(), id="a case outside of suites"),
    ],
)
@pytest.mark.parametrize("code", [0, 5])
def test_no_test_that_passed_is_no_success(file: bytes, code: int) -> None:
    failure = refused(finished(file, code))
    assert failure.message == f"0 tests passed in test (exit code {code})"
    assert "filter" in failure.hint


@pytest.mark.parametrize("empty", [junit(), junit(SKIPPED)], ids=["no test", "all skipped"])
def test_one_of_two_containers_without_tests_does_not_hide_behind_the_other(empty: bytes) -> None:
    good = finished(junit(PASSED, PASSED))
    for order in ([0, 1], [1, 0]):
        pair = [good, finished(empty, service="test-restarted")]
        failure = refused(*(pair[i] for i in order))
        assert failure.message == "0 tests passed in test-restarted (exit code 0)"


def test_tests_that_no_service_runs() -> None:
    # a compose file may name none for the unit tests, for instance
    failure = refused()
    assert failure.message == "0 tests passed: no service runs them"
    assert "x-seatrial.tests" in failure.hint


# --- files that are none -------------------------------------------------------------------------


def test_a_missing_file() -> None:
    failure = refused(finished(None, code=137))
    assert failure.message == "test left no JUnit file (exit code 137)"
    assert "report" in failure.hint


def test_one_missing_of_two() -> None:
    failure = refused(finished(junit(PASSED)), finished(None, service="test-restarted"))
    assert failure.message.startswith("test-restarted left no JUnit file")


WHOLE = junit(PASSED, PASSED)


@pytest.mark.parametrize("length", range(0, len(WHOLE) - 1, 7))
def test_a_truncated_file_wherever_it_ends(length: int) -> None:
    failure = refused(finished(WHOLE[:length]))
    assert failure.message.startswith("the JUnit file of test cannot be read: ")
    assert failure.message.endswith("(exit code 0)")


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"collected 3 items", id="text"),
        pytest.param(b"<html></html>", id="another root"),
        pytest.param(b"\0\xff\xfe", id="no text at all"),
        pytest.param(b'<?xml version="1.0" encoding="nope"?><testsuites/>', id="encoding"),
        pytest.param(WHOLE + WHOLE, id="two documents"),
        pytest.param(b'<testsuites><testsuite name="\xff"/></testsuites>', id="not UTF-8"),
        pytest.param(b"<testsuites>&nothing;</testsuites>", id="undeclared entity"),
    ],
)
def test_something_else_than_junit(file: bytes) -> None:
    assert refused(finished(file, 3)).message.startswith("the JUnit file of test cannot be read")


# --- entities ------------------------------------------------------------------------------------

BOMB = (
    '<!DOCTYPE bomb [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 50}">' for i in range(9))
    + f"]><testsuites><testsuite name='&j;'>{PASSED}</testsuite></testsuites>"
)
HARMLESS = f"<!DOCTYPE testsuites><testsuites><testsuite>{PASSED}</testsuite></testsuites>"
OUTSIDE = (
    '<!DOCTYPE t [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    f"<testsuites><testsuite><testcase name='&x;'/>{PASSED}</testsuite></testsuites>"
)


@pytest.mark.parametrize("text", [BOMB, HARMLESS, OUTSIDE], ids=["bomb", "doctype", "external"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1"])
def test_a_document_type_is_refused_in_every_encoding(text: str, encoding: str) -> None:
    file = f'<?xml version="1.0" encoding="{encoding}"?>{text}'.encode(encoding)
    assert refused(finished(file)).message == (
        "the JUnit file of test holds a document type: not JUnit"
    )


def test_one_that_only_speaks_of_a_document_type_is_junit() -> None:
    said = "<system-out><![CDATA[<!DOCTYPE html><!ENTITY a 'b'>]]></system-out>"
    case = f'<testcase name="page">{said}</testcase><!-- <!DOCTYPE html> -->'
    assert verdict(finished(junit(case))).passed == 1


def test_an_encoding_other_than_utf_8_is_read() -> None:
    text = f'<?xml version="1.0" encoding="utf-16"?><testsuite>{PASSED}</testsuite>'
    assert verdict(finished(text.encode("utf-16"))).passed == 1
