"""The rule engine of a run: decides at check points when each rule of the spec acts, and what it changes.

Decisions are a pure function of the spec, the catalogue and the record: no wall clock, no random number, no file. Check
points are the end of an update and of an evaluation. Rules of the run and of groups come first, in order of priority,
then the rules of each agent.

    engine = Engine([Member(record, spec, scheduled), ...])
    engine["AAPL"].advance(updates=1, env_steps=4_096)      # after a rollout and its update
    for entry in engine.check("update", ["AAPL"]):
        ...                                                  # journal it, carry out its actions
    engine["AAPL"].value(path, scheduled)                    # the value in force
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

from p3kit.diagnose import Evidence, Finding, judge
from p3kit.interventions.decision import STRICT, Check, Decision, SymptomChange
from p3kit.interventions.member import Journal, Member
from p3kit.interventions.replaying import replay
from p3kit.interventions.returning import end_probation, on_probation_together
from p3kit.interventions.rule import ActiveRule, Members, RuleCheck
from p3kit.spec.actions import Stop

Judge = Callable[[Evidence], Iterable[Finding]]
Claimed = dict[str, set[str]]

CONTRACT = ("ppo.ratio_ne_1", "mask.violation", "env.mismatch")
"""Symptoms that make every number of the run invalid; `diagnose.strict` stops the run."""
_OWN_ALGORITHM = ("stored", "targets")
"""Causes of `env.mismatch` that another value loss or advantage in your own trainer has, too: they stop no run."""


class Engine:
    """The rules of all agents of a run."""

    def __init__(
        self, members: Sequence[Member], journal: Journal | None = None, judge_by: Judge | None = None
    ) -> None:
        """`journal` has the events to replay; None to judge the record, by `judge_by` in place of the detectors."""
        self.members = {member.name: member for member in members}
        self.journal, self._judge = journal, judge_by or judge
        is_alone = len(members) == 1
        self._of_groups = [] if is_alone else _group_rules(self.members)
        self._own = {member.name: _own_rules(member, is_alone) for member in members}

    def __getitem__(self, agent: str) -> Member:
        return self.members[agent]

    def check(self, check: Check, agents: Iterable[str]) -> Iterator[Decision | SymptomChange]:
        """Decide at one check point of `agents`, which train. Modifiers are applied at once. Carry out each entry
        before the next one is taken."""
        running = {name: self.members[name] for name in agents if self.members[name].is_on}
        if not running:
            return
        self._examine(running.values())
        claimed: Claimed = {name: set() for name in running}
        ended: set[str] = set()
        for decision in list(self._decide(self._of_groups, check, running, claimed)):
            yield decision
            ended |= set(decision.agents) if decision.ends_the_check else set()
        for decision in self._end_probations(check, {name: one for name, one in running.items() if name not in ended}):
            yield decision
            ended |= set(decision.agents) if decision.ends_the_check else set()
        for name, member in running.items():
            if name not in ended:
                yield from list(self._decide(self._own[name], check, {name: member}, claimed, strict=True))
                yield from member.symptom_changes()

    def state(self) -> str:
        """The state of the group rules as JSON text for a checkpoint; members have their own."""
        return json.dumps([asdict(active.state) for active in self._of_groups])

    def load_state(self, text: str) -> None:
        """Restore the state."""
        for active, state in zip(self._of_groups, json.loads(text), strict=True):
            active.state.restore(state)

    # --- one check ---------------------------------------------------------------------------------------------------

    def _examine(self, running: Iterable[Member]) -> None:
        """Judge each record beside those of all other agents, which may have ended. A replay judges nothing."""
        if self.journal is not None:
            return
        evidences = {name: member.evidence() for name, member in self.members.items()}
        for member in running:
            peers = [other for name, other in evidences.items() if name != member.name]
            own = evidences[member.name]
            member.examine(self._judge(replace(own, peers=peers) if peers else own))

    def _end_probations(self, check: Check, running: Members) -> Iterator[Decision]:
        """Compare the evaluations of actions whose probation is over, or repeat the decision of the journal."""
        for together in on_probation_together(running) if check == "eval" else ():
            yield from end_probation(together, self.journal)

    def _decide(
        self, rules: Sequence[ActiveRule], check: Check, running: Members, claimed: Claimed, *, strict: bool = False
    ) -> Iterator[Decision]:
        """The decisions of some rules; with `strict` first that of `diagnose.strict`, about the one running member."""
        here = [active for active in rules if active.members.keys() & running.keys()]
        checks = [_at(active, rules, check, running, claimed) for active in here]
        if check == "update":
            yield from _expire(checks)
        if self.journal is not None:
            yield from replay(here, check, running, self.journal, strict=strict)
            return
        stops = [stop for member in running.values() if strict and (stop := _strict_stop(member, check))]
        yield from stops or _by_phases(checks)


def _group_rules(members: Members) -> list[ActiveRule]:
    groups: dict[str, Members] = {}
    for name, member in members.items():
        groups.setdefault(member.group, {})[name] = member
    everyone = {name: member for group in groups.values() for name, member in group.items()}
    first = next(iter(everyone.values()), None)
    return [
        ActiveRule(rule, among, of_group=True)
        for rule in (first.rules if first else ())
        if rule.scope != "agent"
        for among in ([everyone] if rule.scope == "run" else groups.values())
    ]


def _own_rules(member: Member, is_alone: bool) -> list[ActiveRule]:
    """Alone in its run, an agent has the rules of groups as well."""
    mine = {member.name: member}
    rules = [rule for rule in member.rules if is_alone or rule.scope == "agent"]
    return [ActiveRule(rule, mine, state=member.states[rule.id]) for rule in rules]


def _at(active: ActiveRule, rules: Sequence[ActiveRule], check: Check, running: Members, claimed: Claimed) -> RuleCheck:
    present = {name: member for name, member in active.members.items() if name in running}
    beside = [(other.rule, other.state) for other in rules if other.members is active.members]
    return RuleCheck(active, check, present, beside, claimed)


def _expire(checks: Iterable[RuleCheck]) -> Iterator[Decision]:
    """End what lasted a span."""
    batches = [(order, check, live, why) for check in checks for order, why, live in check.batches_over()]
    for _, check, live, why in sorted(batches, key=lambda batch: batch[0]):
        yield from check.end(live, why, expired=True)


def _strict_stop(member: Member, check: Check) -> Decision | None:
    broken = next((one for name in CONTRACT if (one := member.open.get(name)) and _breaks_contract(one)), None)
    if broken is None or not member.spec.diagnose.strict:
        return None
    fields: dict[str, Any] = {"row": broken.symptom, "threshold": broken.threshold, "agents": (member.name,)}
    reason = f"{broken.row.title}: {broken.evidence}"
    return Decision(STRICT, check, "fired", reason, actions=(Stop(stop="fail"),), **fields)


def _breaks_contract(finding: Finding) -> bool:
    causes = {cause.id for cause in finding.causes}
    return finding.symptom != "env.mismatch" or not causes <= set(_OWN_ALGORITHM)


def _by_phases(checks: Sequence[RuleCheck]) -> Iterator[Decision]:
    """Release, verify, act. After a rollback or a stop, the rules of these agents wait for the next check."""
    here = [check for check in checks if check.rule.check == check.check]
    for check in here:
        yield from check.release()
    ended: set[str] = set()
    phases = [(check, RuleCheck.verify) for check in checks] + [(check, RuleCheck.act) for check in here]
    for check, phase in phases:
        if ended & check.active.members.keys():
            continue
        for decision in phase(check):
            yield decision
            ended |= set(decision.agents) if decision.ends_the_check else set()
