"""Decisions of a journal, made again at the same check points without judging (`p3kit run --replay`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from p3kit.diagnose.journal import DONE, for_agent
from p3kit.interventions.decision import STRICT, Check, Decision, failure_actions, runtime_actions
from p3kit.interventions.member import Journal, stop_instead, without_rollback
from p3kit.interventions.modifiers import Modifier
from p3kit.interventions.rule import ActiveRule, Members, RuleCheck
from p3kit.spec.actions import Rollback, Stop
from p3kit.spec.interventions import Controller, Intervention

Event = Mapping[str, Any]


def replay(
    rules: Sequence[ActiveRule], check: Check, running: Members, journal: Journal, *, strict: bool
) -> Iterator[Decision]:
    """Make the decisions that the journal has for these rules at this check point, and with `strict` those of
    `diagnose.strict`."""
    step = next(iter(running.values())).clock.env_steps
    for event in journal:
        here = (event.get("global_step"), event.get("check")) == (step, check)
        if not here or event.get("expired") or event.get("took_back"):
            continue
        names = list(event.get("agents") or [event.get("agent")])
        if strict and event.get("id") == STRICT and names[0] in running:
            yield _strict_stop(event, check, names[0])
        active = next((one for one in rules if _is_by(event, one, names)), None)
        if active is not None and event["decision"] in DONE:
            present = {name: active.members[name] for name in names}
            yield from _again(RuleCheck(active, check, present), event)


def _strict_stop(event: Event, check: Check, name: str) -> Decision:
    fields: dict[str, Any] = {"row": event["row"], "actions": (Stop(stop="fail"),), "agents": (name,)}
    return Decision(STRICT, check, "fired", event["reason"], **fields)


def _is_by(event: Event, active: ActiveRule, names: Sequence[str]) -> bool:
    same_form = bool(event.get("agents")) == active.of_group
    return same_form and active.rule.id == event.get("id") and set(names) <= active.members.keys()


def _again(check: RuleCheck, event: Event) -> Iterator[Decision]:
    own = {name: _decision(check.rule, check.check, event, name) for name in check.present}
    match event["decision"]:
        case "fired" if check.rule.controller is not None:
            yield check.merged(own)
            check.turn({name: _turned(check, check.rule.controller, name, own[name]) for name in own})
        case "fired":
            yield from _fire_again(check, own, event)
        case "released" if any((live := check.waiting()).values()):
            yield from check.end(live, event["reason"])
        case "verified":
            yield check.merged(own)
        case "failed":
            actions = failure_actions(check.rule) if event["did"] else ()
            yield from check.fail({name: replace(one, actions=actions) for name, one in own.items()})


def _fire_again(check: RuleCheck, own: Mapping[str, Decision], event: Event) -> Iterator[Decision]:
    component = event.get("component", "")
    added = {name: member.modifiers_of(check.rule, component) for name, member in check.present.items()}
    moved = {name: member.moved(added[name]) for name, member in check.present.items()}
    own = {
        name: replace(one, **moved[name], actions=_actions_again(check.rule, one, event), component=component)
        for name, one in own.items()
    }
    yield check.merged(own)
    yield from check.apply(own, added)


def _actions_again(rule: Intervention, decision: Decision, event: Event) -> tuple[Any, ...]:
    actions = runtime_actions(rule)
    if decision.checkpoint is not None or not any(isinstance(action, Rollback) for action in actions):
        return actions
    stopped = any("stop" in did for did in event["did"])
    return stop_instead(actions) if stopped else without_rollback(actions)


def _turned(check: RuleCheck, loop: Controller, name: str, decision: Decision) -> Modifier:
    assert decision.factor is not None  # noqa: S101  (every turn journals its factor)
    return Modifier(check.rule.id, -1, loop, check.present[name].clock, float(decision.factor))


def _decision(rule: Intervention, check: Check, event: Event, name: str) -> Decision:
    own = for_agent(event, name)
    fields = {key: own[key] for key in ("row", "checkpoint", "keys", "factor")}
    return Decision(rule.id, check, event["decision"], event["reason"], **fields, agents=(name,))
