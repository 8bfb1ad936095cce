"""The rules by which a test of mpi4py's own suite counts as worse off under the layer."""

import pytest

from tests.mpi4py_suite import expected_failures, report, worse
from tests.record import Account

PLAIN = Account(
    outcomes={
        "test_a.Test.testGood": "passed",
        "test_a.Test.testBroken": "failed",
        "test_a.Test.testSkipped": "skipped",
        "test_a.Test.testParts": "failed",
        "test_a.Test.testParts (part=1)": "failed",
    }
)


def changed(**outcomes):
    """Return the account of a run that differs from the plain one in `outcomes`; None takes a test away."""
    new = PLAIN.outcomes | {f"test_a.Test.{name}": outcome for name, outcome in outcomes.items()}
    return Account(outcomes={test: outcome for test, outcome in new.items() if outcome})


@pytest.mark.parametrize(
    ("outcomes", "names"),
    [
        ({}, set()),
        ({"testGood": "failed"}, {"test_a.Test.testGood"}),
        ({"testGood": "skipped"}, {"test_a.Test.testGood"}),
        ({"testGood": None}, {"test_a.Test.testGood"}),
        ({"testSkipped": "failed"}, {"test_a.Test.testSkipped"}),
        ({"testSkipped": "passed"}, set()),
        ({"testBroken": "passed"}, set()),
        ({"testBroken": None}, set()),
        ({"testParts (part=2)": "failed"}, {"test_a.Test.testParts"}),
        ({"testGood": "failed", "testGood [part 1]": "failed"}, {"test_a.Test.testGood"}),
    ],
)
def test_worse(outcomes, names):
    assert worse(PLAIN, changed(**outcomes)) == names


def test_report_of_a_listed_failure(capsys):
    layer = changed(testGood="failed", testSkipped="passed")
    assert report(PLAIN, layer, {}, complete=True) == 1
    assert capsys.readouterr().out.endswith("1 passed, 1 failed\n")
    assert report(PLAIN, layer, {"test_a.Test.testGood": "why"}, complete=True) == 0
    assert capsys.readouterr().out == "1 passed, 0 failed\n"


@pytest.mark.parametrize(
    ("test", "complete", "failed"),
    [
        ("test_a.Test.testGood", True, 1),
        ("test_a.Test.testSkipped", True, 0),
        ("test_a.Test.testUnknown", True, 1),
        ("test_a.Test.testUnknown", False, 0),
    ],
)
def test_report_of_an_entry_that_is_not_needed(capsys, test, complete, failed):
    assert report(PLAIN, PLAIN, {test: "why"}, complete) == failed
    assert capsys.readouterr().out.endswith(f"1 passed, {failed} failed\n")


def test_report_of_nothing_is_a_failure():
    assert report(Account(), Account(), {}, complete=False) == 1


def test_a_failure_is_listed_with_a_reason(tmp_path):
    path = tmp_path / "library.txt"
    path.write_text("# all of them\n\ntest_a.Test.testGood  # why\n")
    assert expected_failures(path) == {"test_a.Test.testGood": "why"}
    path.write_text("test_a.Test.testGood\n")
    with pytest.raises(ValueError, match="testGood' has no reason"):
        expected_failures(path)
    assert expected_failures(tmp_path / "other.txt") == {}
