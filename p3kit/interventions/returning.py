"""The end of a probation: the changes stay, or the snapshot from before them returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from p3kit.interventions.decision import Decision
from p3kit.interventions.member import Journal, Member
from p3kit.interventions.probation import Probation, fall, snapshot_name
from p3kit.interventions.rule import Members
from p3kit.spec.actions import Rollback

Fall = tuple[float, float, float]


def on_probation_together(running: Members) -> list[Members]:
    """Agents whose probation is over; those of a group rule are one item."""
    found: dict[tuple[str, ...], Members] = {}
    for name, member in running.items():
        own = member.probation
        if own is not None and own.is_due(member.clock):
            key = (own.rules[0], str(own.step)) if own.of_group else (name,)
            found.setdefault(key, {})[name] = member
    return list(found.values())


def end_probation(members: Members, journal: Journal | None) -> Iterator[Decision]:
    """Compare the evaluations of agents that were changed together; a replay repeats the decision of its journal."""
    first = next(iter(members.values()))
    found = _fall(list(members.values()))
    fell = found is not None and found[0] - found[1] > found[2]
    if journal is not None:
        fell = any(_took_back(event, first) for event in journal)
    if fell and found is not None:
        yield _return(members, first, found)
    else:
        for member in members.values():
            member.probation = None


def _fall(members: Sequence[Member]) -> Fall | None:
    pairs = [pair for member in members if (pair := member.scores_of_probation()) is not None]
    if len(pairs) < len(members):
        return None
    return fall([before for before, _ in pairs], [after for _, after in pairs])


def _return(members: Members, first: Member, found: Fall) -> Decision:
    own = _probation(first)
    rules = tuple(dict.fromkeys(rule for member in members.values() for rule in _probation(member).rules))
    before, after, noise = found
    passed = first.clock.updates - own.since
    reason = (
        f"validation Sharpe {after:.2f} {passed} updates after {', '.join(rules)}, {before:.2f} before: "
        f"worse by more than the noise of {noise:.2f}"
    )
    keys = first.changes(first.live_before(own.step), {m.key for m in first.live if m.begin.env_steps >= own.step})
    for member in members.values():
        member.take_back(rules)
    return Decision(
        rules[0],
        "eval",
        "failed",
        reason,
        keys=keys,
        checkpoint=snapshot_name(own.step),
        agents=tuple(members),
        actions=(Rollback(rollback="last_good"),),
        of_group=own.of_group,
        took_back=rules,
    )


def _probation(member: Member) -> Probation:
    assert member.probation is not None  # noqa: S101  (members are on probation here)
    return member.probation


def _took_back(event: Mapping[str, Any], member: Member) -> bool:
    names = event.get("agents") or [event.get("agent")]
    return bool(event.get("took_back")) and event.get("global_step") == member.clock.env_steps and member.name in names
