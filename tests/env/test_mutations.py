"""The list of deliberate bugs cannot rot: every one still has its place in the code, and a test to catch it."""

from __future__ import annotations

import pytest

from tests.env.mutations import ROOT, Mutation, load_mutations


@pytest.mark.parametrize("mutation", load_mutations(), ids=lambda mutation: mutation.name)
def test_every_bug_still_has_its_place(mutation: Mutation) -> None:
    assert mutation.mutated()
    assert mutation.right != mutation.wrong
    assert all((ROOT / test).exists() for test in mutation.tests)


def test_no_two_bugs_share_a_name() -> None:
    names = [mutation.name for mutation in load_mutations()]
    assert len(names) == len(set(names)) >= 45
