"""A run without a trainer: made-up findings and metrics go into the rule engine, decisions and values come out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from p3kit.diagnose import CauseFound, Finding
from p3kit.interventions import Decision, Engine, Member, Record
from p3kit.spec import get_path, resolve_spec
from p3kit.spec.schedules import value_at

TOTAL = 100_000
UP = {"scale": "ppo.ent_coef", "by": 5.0, "max": 0.10}
HOLD = {"id": "hold", "on": "policy.hold", "do": [UP]}
KL = "policy/kl_divergence"


def open_finding(symptom: str, cause: str | None = None, **rest: Any) -> Finding:
    causes = (CauseFound(cause, "seen", 1.0),) if cause else ()
    agent, severity = rest.pop("agent", "A"), rest.pop("severity", "critical")
    return Finding(symptom, agent, "raised", severity, "as measured", 0.9, 0.5, "3 ticks", 100, causes=causes, **rest)


def holding(*agents: str) -> list[Finding]:
    """The symptom policy.hold in each of these agents."""
    return [open_finding("policy.hold", "ent_coef_low", agent=agent) for agent in agents]


(SICK,) = holding("A")


class Training:
    """The rule engine of a run of some agents, with the findings and metrics that a test names."""

    def __init__(
        self,
        *rules: dict[str, Any],
        agents: Sequence[str] = ("A",),
        groups: Mapping[str, str] | None = None,
        journal: Sequence[Mapping[str, Any]] | None = None,
        **tables: Any,
    ) -> None:
        self.spec = resolve_spec({"name": "t", "symbols": ["AAPL"], "intervention": list(rules)} | tables, "test")
        self.findings: Sequence[Finding] = ()
        self.journal: list[dict[str, Any]] = []
        self.rows: dict[str, list[dict[str, Any]]] = {name: [] for name in agents}
        self.records = {name: Record(name, self.spec.model_dump(mode="json"), TOTAL) for name in agents}
        self._judges = journal is None
        groups = {} if groups is None else groups
        members = [self._member(name, groups.get(name, ""), journal) for name in agents]
        self.engine = Engine(members, journal, lambda evidence: self._findings_of(evidence.agent))

    def _member(self, name: str, group: str, journal: Any) -> Member:
        def scheduled(path: str) -> float | str:
            return self.scheduled(path, name)

        return Member(self.records[name], self.spec, scheduled, group=group, journal=journal)

    def _findings_of(self, agent: str) -> list[Finding]:
        assert self._judges, "a replay judged"
        return [finding for finding in self.findings if finding.agent == agent]

    # --- values ------------------------------------------------------------------------------------------------------

    def scheduled(self, path: str, agent: str = "A") -> float | str:
        schedule = self.spec.schedules.get(path)
        if schedule is not None:
            return value_at(schedule, self.engine[agent].clock.env_steps / TOTAL)
        value = get_path(self.spec, path)
        return value if isinstance(value, str) else float(value)

    def value(self, path: str = "ppo.ent_coef", agent: str = "A") -> float | str:
        return self.engine[agent].value(path, self.scheduled(path, agent))

    def values(self, path: str = "ppo.ent_coef") -> list[float]:
        return [float(self.value(path, agent)) for agent in self.records]

    # --- time --------------------------------------------------------------------------------------------------------

    def update(
        self, *findings: Finding, steps: int = 1_000, only: Sequence[str] | None = None, **metrics: Any
    ) -> list[Decision]:
        """One update with these symptoms open. A metric is a number for all agents, or one by agent; __ stands for /
        in its name."""
        names = list(self.records) if only is None else only
        for name in names:
            self._record(name, self.engine[name].clock.env_steps + steps, metrics)
            self.engine[name].advance(updates=1, gradient_steps=10, env_steps=steps, episodes=2)
        return self._decided("update", findings, names)

    def evaluate(self, *findings: Finding, **metrics: Any) -> list[Decision]:
        """One evaluation."""
        for name in self.records:
            self._record(name, self.engine[name].clock.env_steps, metrics)
            self.engine[name].advance(evals=1)
        return self._decided("eval", findings, list(self.records))

    def _record(self, name: str, step: int, metrics: Mapping[str, Any]) -> None:
        own = {key.replace("__", "/"): one[name] if isinstance(one, dict) else one for key, one in metrics.items()}
        iteration = int(self.engine[name].clock.updates) + 1
        self.take(name, {"global_step": step, "iteration": iteration, "metrics": own})

    def take(self, name: str, *rows: dict[str, Any]) -> None:
        """Record rows of an agent."""
        self.rows[name] += rows
        self.records[name].take(rows)

    def _decided(self, check: Any, findings: Sequence[Finding], names: Sequence[str]) -> list[Decision]:
        self.findings = findings
        entries = [entry for entry in self.engine.check(check, names) if isinstance(entry, Decision)]
        step = self.engine[names[0]].clock.env_steps
        self.journal += [{**entry.to_event(), "agent": entry.agent, "global_step": step} for entry in entries]
        return entries

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def checkpoint(self, agent: str = "A") -> bool:
        """Write a checkpoint; True if an intervention may go back to it."""
        good = self.engine[agent].keeps_good()
        if good:
            self.engine[agent].keep_good()
        return good

    def state(self) -> tuple[str, ...]:
        return (self.engine.state(), *(self.engine[name].state() for name in self.records))

    def resume(self, stopped: Training) -> None:
        """Go on where another training stopped."""
        self.engine.load_state(stopped.engine.state())
        for name, rows in stopped.rows.items():
            self.take(name, *rows)
            self.engine[name].load_state(stopped.engine[name].state())


def decided(decisions: Sequence[Decision]) -> list[tuple[str, str]]:
    return [(decision.rule, decision.decision) for decision in decisions]
