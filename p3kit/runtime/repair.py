"""The live side of interventions: feeds an agent's engine with what it records, and carries out what is decided.

Reading never draws a random number and never touches a tensor, so that a run in which nothing fires is bit-identical to
one with `diagnose.mode = "off"`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from p3kit.diagnose import Evidence, catalogue_version
from p3kit.diagnose.journal import DONE, for_agent, in_short
from p3kit.errors import P3kitError
from p3kit.metrics import ACTIONS, COMPONENTS
from p3kit.rundir import concerns, file_name
from p3kit.runtime.checkpoints import Flat
from p3kit.runtime.interventions import STRICT, Check, Decision, Engine
from p3kit.runtime.record import Record
from p3kit.runtime.recording import GRADIENT_STEPS, Rollout
from p3kit.spec.interventions import Dump, Freeze, Normalize, Note, Reinit, Rollback, Stop

if TYPE_CHECKING:
    from p3kit.runtime.agent import Agent

MOST_ACTS = 6
"""How many of its newest acts an agent's status tells: more than happen between two looks of the board."""


class Repair:
    """Diagnosis and interventions of one agent while it trains; nothing at all in mode "off"."""

    def __init__(self, agent: Agent[Any], spec: Mapping[str, Any], journal: list[dict[str, Any]] | None) -> None:
        """`spec` is the agent's own, as plain data; `journal` the events of the run to repeat, None to judge."""
        self.agent = agent
        self.mode = agent.spec.diagnose.mode
        self.record = Record(agent.name, spec, agent.total_timesteps, str(agent.run.device))
        mine = None
        if journal is not None:
            mine = [for_agent(event, agent.name) for event in journal if concerns(event, agent.name)]
        self.engine = Engine(agent.spec, self.record, self._scheduled_now, mine, alone=agent.is_alone)
        self.going_back_to: str | None = None
        self.reinits: list[str] = []  # parts of the net that are to be drawn anew
        self.frozen_normalizer = self.frozen_encoder = False
        self.normalizes = {"rewards": False, "observations": False}  # what began while the run trained
        self.acts: list[tuple[int, str]] = []  # number and words of the newest things that rules did, for the board
        self._rollout: Rollout | None = None
        self._update: Mapping[str, Any] = {}
        self._rows_before: set[str] = set()

    @property
    def is_on(self) -> bool:
        return self.mode != "off"

    def value(self, path: str, scheduled: float | str) -> float | str:
        """The value in force of a spec path whose schedule says `scheduled`."""
        return self.engine.value(path, scheduled) if self.is_on else scheduled

    def recorded(self, rows: list[dict[str, Any]], rollout: Rollout, update: Mapping[str, Any], steps: int) -> None:
        """An update was recorded, for which `steps` env steps were taken."""
        if not self.is_on:
            return
        self._rollout, self._update = rollout, update
        self._refuse_to_be_ignored()
        self.record.take(rows)
        self.engine.advance(
            updates=1,
            gradient_steps=sum(int(row["metrics"].get(GRADIENT_STEPS, 0)) for row in rows),
            env_steps=steps,
            episodes=sum(int(row["metrics"].get("episode/episodes", 0)) for row in rows),
        )

    def evaluated(self, row: dict[str, Any]) -> None:
        """An evaluation was recorded; its event has been given to `happened`."""
        if self.is_on:
            self.record.take([row])
            self.engine.advance(evals=1)

    def examine(self, check: Check, evidence: Evidence | None = None) -> None:
        """Judge what is recorded; `evidence` has the records of the other agents beside it."""
        self._rows_before = set(self.engine.open_rows)
        self.engine.examine(check, evidence)

    def decide(self, check: Check, claimed: set[str]) -> None:
        """Decide by the agent's own rules, and do what is decided. `claimed` keys were moved by a rule for all."""
        if self.agent.state == "running":  # an agent that has ended is left as it is
            for decision in self.engine.check(check, claimed):
                self._journal(decision)
                self.carry_out(decision)
        for row in self.engine.open_rows:
            if row not in self._rows_before:
                self.agent.journal("symptom", row=row, state="raised")
        for row in sorted(self._rows_before - set(self.engine.open_rows)):
            self.agent.journal("symptom", row=row, state="over")

    def took_part(self, decision: Decision) -> None:
        """A rule for all agents has changed this one too."""
        self._tell(decision.to_event() | dict(decision.by_agent.get(self.agent.name, {})))
        self.carry_out(decision)

    @property
    def reward_edits(self) -> int:
        """How often the reward was edited so far."""
        return self.engine.reward_edits

    def happened(self, kind: str, **fields: Any) -> None:
        """An event was journalled."""
        self.record.take_event({"kind": kind, "agent": self.agent.name, **fields})

    # --- going back -------------------------------------------------------------------------------------------------

    def checkpoint_to_load(self) -> str | None:
        """The checkpoint that a rollback goes back to, told once. The generator is seeded anew by the number of
        rollbacks, or the same failure would replay; spent steps stay spent."""
        name, self.going_back_to = self.going_back_to, None
        if name is not None:
            self.agent.reseed(self.engine.rollbacks)
        return name

    # --- state ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> Flat:
        frozen = {"frozen_normalizer": self.frozen_normalizer, "frozen_encoder": self.frozen_encoder}
        begun = {f"normalizes_{what}": has for what, has in self.normalizes.items()}
        return {"engine": self.engine.state(), **frozen, **begun}

    def load_state_dict(self, state: Flat) -> None:
        self.engine.load_state(state["engine"])
        self.frozen_normalizer, self.frozen_encoder = bool(state["frozen_normalizer"]), bool(state["frozen_encoder"])
        self.normalizes = {what: bool(state[f"normalizes_{what}"]) for what in self.normalizes}

    def reload(self, rows: Iterable[Mapping[str, Any]], events: Iterable[Mapping[str, Any]]) -> None:
        """Take in what the run had recorded before it was interrupted."""
        if self.is_on:
            self.record.take(row for row in rows if row["agent"] == self.agent.name)
            for event in events:
                if concerns(event, self.agent.name):
                    own = for_agent(event, self.agent.name)
                    self.record.take_event(own)
                    self._tell(own)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _scheduled_now(self, path: str) -> float | str:
        return self.agent.scheduled_at(path, self.agent.global_step)

    def _refuse_to_be_ignored(self) -> None:
        """A trainer of the user's own may not know yet what rules can ask for."""
        if self.reinits:
            what = f'does not do what an intervention asks for: reinit = "{self.reinits[0]}"'
            raise P3kitError(str(self.agent.run.directory.trainer_file), what, "trainers/ppo.py shows how")

    def _journal(self, decision: Decision) -> None:
        event = decision.to_event()
        self.agent.journal("intervention", **event, **self.journalled())
        self._tell(event)

    def _tell(self, event: Mapping[str, Any]) -> None:
        """Keep an event for the board, if a rule did something in it."""
        if event.get("decision") not in DONE:
            return
        number = self.acts[-1][0] + 1 if self.acts else 1
        did = in_short(event) or event["reason"]
        self.acts = [*self.acts, (number, f"{event['id']} {event['decision']}: {did}")][-MOST_ACTS:]

    def journalled(self) -> dict[str, Any]:
        """What every entry of the journal has beside the decision."""
        return {
            "update": self.engine.clock.updates,
            "catalogue_version": catalogue_version(),
            "rng_digest": hashlib.sha256(self.agent.generator.get_state().numpy().tobytes()).hexdigest()[:12],
        }

    def carry_out(self, decision: Decision) -> None:
        """Do what a decision asks for beside moving values."""
        agent = self.agent
        back = decision.by_agent.get(agent.name, {}).get("checkpoint", decision.checkpoint)
        for asked in decision.asks:
            match asked:
                case Stop(stop="fail"):
                    hint = f"p3kit diagnose {agent.run.directory.name} shows the journal"
                    agent.fail(P3kitError(f"{agent.name} at step {agent.global_step}", _stopped_by(decision), hint))
                case Stop():
                    agent.end_early(_stopped_by(decision))
                case Rollback():
                    self.going_back_to = back
                case Note(note=text):
                    agent.journal("note", text=text)
                case Reinit(reinit=part_of_net):
                    self.reinits.append(part_of_net)
                case Freeze(freeze="normalizer"):
                    self.frozen_normalizer = True
                case Freeze(freeze="encoder"):
                    self.frozen_encoder = True
                case Normalize(normalize=what):
                    self.normalizes[what] = True
                case Dump(dump=kind, episodes=count):
                    self._dump(kind, count, decision.rule)

    def _dump(self, kind: str, count: int, rule: str) -> None:
        """Write evidence below replays/: whole episodes of the last recorded rollout, or every gradient step of its
        update."""
        agent, step = self.agent, self.agent.global_step
        if self._rollout is None and kind == "episode_replay":
            return
        content: dict[str, Any] = {"agent": agent.name, "global_step": step, "intervention": rule}
        content["synthetic"] = bool(agent.market and agent.market[agent.symbol].synthetic)
        if kind == "episode_replay" and self._rollout is not None:
            content["episodes"] = last_episodes(self._rollout, count)
        else:
            content["gradient_steps"] = {name: np.asarray(values).tolist() for name, values in self._update.items()}
        name = f"{rule}-{file_name(agent.name)}-{step:09d}-{kind}"
        agent.run.directory.write_replay(name, content)


def last_episodes(rollout: Rollout, count: int) -> list[dict[str, Any]]:
    """The last `count` episodes that ended in a rollout, from their first step in it; the longest running ones where
    none ended. Columns have one value per step."""
    steps, envs = rollout.done.shape
    ended = [(int(t), env) for env in range(envs) for t in np.flatnonzero(rollout.done[:, env])]
    ends = sorted(ended)[-count:] or [(steps - 1, env) for env in range(min(count, envs))]
    episodes = []
    for end, env in ends:
        earlier = np.flatnonzero(rollout.done[:end, env])
        begin = int(earlier[-1]) + 1 if len(earlier) else 0
        part = slice(begin, end + 1)
        episodes.append(
            {
                "env": env,
                "from_its_first_step": bool(len(earlier)),
                "action": [_action_name(action) for action in rollout.action[part, env]],
                "reward": rollout.reward[part, env].tolist(),
                "components": {name: rollout.weighted[part, env, c].tolist() for c, name in enumerate(COMPONENTS)},
                "equity": rollout.equity[part, env].tolist(),
            }
        )
    return episodes


def _action_name(action: Any) -> str | int:
    return ACTIONS[int(action)] if int(action) < len(ACTIONS) else int(action)


def _stopped_by(decision: Decision) -> str:
    by = decision.rule if decision.rule == STRICT else f"intervention {decision.rule}"
    return f"stopped by {by} ({decision.reason})"
