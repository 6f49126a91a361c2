"""The journal of interventions as text."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from p3kit.diagnose.journal import changes_training, in_short, intervened, print_journal
from p3kit.rundir import concerns

ENTRY: dict[str, Any] = {
    "agent": "AAPL", "global_step": 31_000, "id": "boost", "decision": "fired", "row": "policy.hold",
    "reason": "HOLD share 0.97", "keys": {"ppo.ent_coef": [0.01, 0.05]}, "checkpoint": None, "did": [],
}  # fmt: skip


def printed(*entries: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=100, color_system=None)
    print_journal(entries, console)
    return " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "ppo.ent_coef 0.01 → 0.05"),
        ({"keys": {"ppo.ent_coef": [0.01, 0.05], "reward.weights.hold": [0.0, 0.0]}}, "ppo.ent_coef 0.01 → 0.05"),
        ({"checkpoint": "init"}, "ppo.ent_coef 0.01 → 0.05, back to init"),
        ({"checkpoint": "good-000049152"}, "ppo.ent_coef 0.01 → 0.05, back to step 49k"),
        (
            {"keys": {}, "did": [{"reinit": "dormant"}, {"freeze": "encoder"}]},
            "dormant units reinitialised, encoder frozen",
        ),
        ({"keys": {}, "did": [{"early_stop_update": True}, {"stop": "done"}]}, "update ended, training ended (done)"),
        (
            {"keys": {}, "did": [{"dump": "minibatch", "episodes": 2}, {"note": "look"}]},
            "gradient steps written to replays/, look",
        ),
    ],
)
def test_what_was_done_in_short(change: dict[str, Any], words: str) -> None:
    assert in_short(ENTRY | change) == words


@pytest.mark.parametrize(
    ("change", "changes"),
    [
        ({}, True),
        ({"decision": "suppressed"}, False),
        ({"keys": {"ppo.ent_coef": [0.05, 0.05]}}, False),
        ({"keys": {}, "did": [{"dump": "episode_replay", "episodes": 2}, {"note": "look"}]}, False),
        ({"keys": {}, "did": [{"early_stop_update": True}]}, True),
        ({"keys": {}, "decision": "failed"}, False),
        ({"keys": {}, "decision": "failed", "checkpoint": "init"}, True),
    ],
)
def test_what_counts_as_intervened(change: dict[str, Any], changes: bool) -> None:
    assert changes_training(ENTRY | change) is changes
    assert intervened([ENTRY | change]) is changes


def test_whom_an_entry_concerns() -> None:
    assert concerns(ENTRY, "AAPL")
    assert not concerns(ENTRY, "AMD")
    group = ENTRY | {"agent": None, "agents": ["AMD", "BAC"]}
    assert concerns(group, "AMD")
    assert not concerns(group, "AAPL")
    assert concerns({"agent": None}, "AAPL")


def test_the_journal_names_who_when_and_why() -> None:
    inside = ENTRY | {"gradient_step": 5, "keys": {}, "did": [{"early_stop_update": True}]}
    group = ENTRY | {"agent": None, "agents": ["AMD", "BAC"], "reason": "in 2 of 2 agents (AMD: KL 0.3)"}
    many = group | {"agents": ["A", "B", "C", "D"], "decision": "suppressed", "reason": "cooldown of 3 updates"}
    told = printed(inside, group, many)
    assert told.startswith("Interventions: 2 fired")
    assert "AAPL at 31k, gradient step 5 boost update ended" in told
    assert "AMD, BAC at 31k boost ppo.ent_coef 0.01 → 0.05" in told
    assert "policy.hold: in 2 of 2 agents (AMD: KL 0.3)" in told
    assert "Held back: 4 agents at 31k boost policy.hold: cooldown of 3 updates" in told
    assert printed() == ""
