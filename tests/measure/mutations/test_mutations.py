"""The list of deliberate bugs cannot rot: every one still has its place in the code, and a test to catch it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.measure.mutations.__main__ import ROOT, Mutation, load_mutations


@pytest.mark.parametrize("mutation", load_mutations(), ids=lambda mutation: mutation.name)
def test_every_bug_still_has_its_place(mutation: Mutation) -> None:
    assert mutation.mutated()
    assert mutation.right != mutation.wrong
    assert all((ROOT / test).exists() for test in mutation.tests)


def test_no_two_bugs_share_a_name() -> None:
    names = [mutation.name for mutation in load_mutations()]
    assert len(names) == len(set(names)) >= 45


def test_the_table_has_every_bug_and_all_were_caught() -> None:
    table = Path(__file__).with_name("mutations.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| ")][1:]
    assert [row[0].removeprefix("| ") for row in rows] == [mutation.name for mutation in load_mutations()]
    assert "survived" not in table
    assert f"{len(rows)} of {len(rows)} caught" in table
