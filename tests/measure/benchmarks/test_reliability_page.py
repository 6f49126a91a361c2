"""The page of promises agrees with the results of the tests, and every test on it exists."""

from __future__ import annotations

import pytest

from tests.measure.benchmarks.reliability_page import FAULTS, PAGE, PROMISES, ROOT, functions_of, page, results

NAMED = sorted({test for promise in PROMISES for test in promise.tests} | {fault.test for fault in FAULTS})


@pytest.mark.parametrize("test", NAMED)
def test_what_holds_a_promise_exists(test: str) -> None:
    file, _, name = test.partition("::")
    if name:
        assert name in functions_of(file)
    else:
        module = file.removeprefix("python -m ").replace(".", "/")
        assert any((ROOT / place).exists() for place in (f"{module}.py", f"{module}/__main__.py"))


def test_the_page_is_up_to_date_with_the_figures() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(results()), "python -m tests.measure.benchmarks.reliability_page"


def test_no_promise_was_broken_when_it_was_tried() -> None:
    found = results()
    if "kills" in found:
        assert found["kills"]["same"] == found["kills"]["kills"]
    if "fuzz" in found:
        assert [found["fuzz"][part]["findings"] for part in ("specs", "directories")] == [[], []]
