"""Interventions of a run: calls the rule engine at check points, journals its decisions and carries them out."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from p3kit.diagnose import catalogue_version
from p3kit.errors import P3kitError
from p3kit.interventions import STRICT, Check, Decision, Engine, good_name
from p3kit.rundir import RunDir, file_name
from p3kit.runtime.agent import Agent
from p3kit.runtime.machine import is_out_of_memory, peak_memory_mb
from p3kit.spec.actions import Dump, Note, Scale, Stop
from p3kit.spec.interventions import Intervention


class RuleRunner:
    """The interventions of all agents of a run."""

    def __init__(
        self, agents: Sequence[Agent[Any]], directory: RunDir, journal: Sequence[Mapping[str, Any]] | None
    ) -> None:
        """`journal` has the events to replay; None to judge."""
        self._agents = {agent.name: agent for agent in agents}
        self._directory = directory
        self._engine = Engine([agent.repair.member for agent in agents], journal)
        self._recorded: list[str] = []
        self._retries: Counter[str] = Counter()  # of rules on a refused allocation

    # --- check points ------------------------------------------------------------------------------------------------

    def recorded(self, agent: Agent[Any]) -> None:
        """`agent` has recorded an update. Decide once all agents that train have."""
        self._recorded.append(agent.name)
        if any(other.state == "running" and name not in self._recorded for name, other in self._agents.items()):
            return
        names, self._recorded = self._recorded, []
        self.decide("update", [self._agents[name] for name in names])
        for name in names:
            self._agents[name].fail_if_lost()

    def decide(self, check: Check, agents: Sequence[Agent[Any]]) -> None:
        """Decide at a check point of `agents`."""
        running = [agent.name for agent in agents if agent.state == "running"]
        for entry in self._engine.check(check, running):
            if isinstance(entry, Decision):
                self._journal(entry)
                for name in entry.agents:
                    self._carry_out(entry, self._agents[name])
            else:
                self._agents[entry.agent].journal("symptom", row=entry.row, state=entry.state)

    def _journal(self, decision: Decision) -> None:
        first = self._agents[decision.agents[0]]
        step, fields = first.global_step, _circumstances(first)
        self._directory.append_event(
            "intervention", agent=decision.agent, global_step=step, **decision.to_event(), **fields
        )
        for name in decision.agents:
            event = decision.for_agent(name) | fields
            self._agents[name].repair.happened("intervention", global_step=step, **event)

    def _carry_out(self, decision: Decision, agent: Agent[Any]) -> None:
        agent.repair.add_act(decision.for_agent(agent.name))
        agent.repair.undo(decision.took_back)
        for action in decision.actions:
            match action:
                case Stop(stop="fail"):
                    hint = f"p3kit diagnose {self._directory.name} shows the journal"
                    agent.fail(P3kitError(f"{agent.name} at step {agent.global_step}", _stopped_by(decision), hint))
                case Stop():
                    agent.end_early(_stopped_by(decision))
                case Note(note=text):
                    agent.journal("note", text=text)
                case Dump():
                    self._dump(action, decision.rule, agent)
                case _:
                    agent.repair.take(action, decision.checkpoint_of(agent.name))

    def _dump(self, dump: Dump, rule: str, agent: Agent[Any]) -> None:
        """Write evidence below replays/."""
        evidence = agent.repair.evidence_of(dump)
        if evidence is None:
            return
        content: dict[str, Any] = {"agent": agent.name, "global_step": agent.global_step, "intervention": rule}
        content["synthetic"] = bool(agent.market and agent.market[agent.symbol].synthetic)
        name = f"{rule}-{file_name(agent.name)}-{agent.global_step:09d}-{dump.dump}"
        self._directory.write_replay(name, content | evidence)

    # --- refused allocations -----------------------------------------------------------------------------------------

    def smaller_minibatch(self, rows: int, error: RuntimeError) -> int:
        """The number of rows to try after a minibatch of `rows` was refused its memory. Raises `error` again if it is
        of another kind, or if no intervention allows a retry."""
        first = next(iter(self._agents.values()))
        if not is_out_of_memory(error) or first.spec.diagnose.mode in ("off", "watch"):
            raise error
        rules = sorted(first.spec.intervention, key=lambda rule: rule.priority)
        allowed = [rule for rule in rules if rule.retries_smaller_minibatches()]
        for rule in (rule for rule in allowed if self._retries[rule.id] < rule.max_times):
            for fewer in _fewer(rule, rows):
                self._retries[rule.id] += 1
                self._journal_retry(rule, rows, fewer, str(error).splitlines()[0])
                return fewer
        raise error

    def _journal_retry(self, rule: Intervention, rows: int, fewer: int, message: str) -> None:
        agents = list(self._agents.values())
        torch.cuda.empty_cache()  # does nothing without CUDA
        self._directory.append_event("oom", message=message, memory_mb=peak_memory_mb())
        for agent in agents:
            agent.repair.out_of_memory(message)
        self._directory.append_event(
            "intervention",
            agent=agents[0].name if len(agents) == 1 else None,
            global_step=agents[0].global_step,
            id=rule.id,
            row="run.oom",
            cause="minibatch",
            decision="fired",
            reason=message,
            keys={"ppo.batch_size": [rows, fewer]},
        )
        print(f"out of memory: minibatches of {fewer} rows in place of {rows}, of the same batch", file=sys.stderr)

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def keep_good(self) -> str | None:
        """The name of the checkpoint to write now, if an intervention may go back to it: an agent has no open
        symptom."""
        running = [agent for agent in self._agents.values() if agent.state == "running"]
        clean = [agent for agent in running if self._engine[agent.name].keeps_good()]
        for agent in clean:
            self._engine[agent.name].keep_good()
        return good_name(clean[0].global_step) if clean else None

    def kept(self) -> set[str]:
        """The names of all checkpoints that an intervention may go back to."""
        members = self._engine.members.values()
        snapshots = {name for member in members if (name := member.snapshot_file) is not None}
        return {good_name(step) for member in members for _, step in member.good} | snapshots

    def state(self) -> str:
        """The state of the group rules, for a checkpoint."""
        return self._engine.state()

    def load_state(self, text: str) -> None:
        """Restore the state."""
        self._engine.load_state(text)


def _circumstances(agent: Agent[Any]) -> dict[str, Any]:
    """Fields of every journal entry beside the decision."""
    return {
        "update": agent.repair.member.clock.updates,
        "catalogue_version": catalogue_version(),
        "rng_digest": hashlib.sha256(agent.generator.get_state().numpy().tobytes()).hexdigest()[:12],
    }


def _fewer(rule: Intervention, rows: int) -> list[int]:
    scales = [action for action in rule.actions() if isinstance(action, Scale)]
    fewer = [max(int(rows * scale.by), int(scale.min or 1)) for scale in scales]
    return [number for number in fewer if number < rows]


def _stopped_by(decision: Decision) -> str:
    by = decision.rule if decision.rule == STRICT else f"intervention {decision.rule}"
    return f"stopped by {by} ({decision.reason})"
