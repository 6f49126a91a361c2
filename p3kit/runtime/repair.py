"""Interventions of one agent while it trains: what the rule engine reads of it, and what is left for it to carry out.

Reading never draws a random number and never touches a tensor, so that a run in which nothing fires is bit-identical to
one with `diagnose.mode = "off"`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from p3kit.diagnose.journal import DONE, for_agent, in_short
from p3kit.interventions import Member, Record
from p3kit.metrics import ACTIONS, COMPONENTS
from p3kit.rundir import concerns
from p3kit.runtime.checkpoints import Flat
from p3kit.runtime.recording import GRADIENT_STEPS, Rollout
from p3kit.spec import Spec
from p3kit.spec.actions import Dump, Freeze, Normalize, Reinit, Rollback
from p3kit.spec.base_model import Table

MOST_ACTS = 6
"""Number of its newest acts in an agent's status: more than happen between two updates of the board."""


class Repair:
    """Diagnosis and interventions of one agent; does nothing in mode "off"."""

    def __init__(
        self,
        record: Record,
        spec: Spec,
        scheduled: Callable[[str], float | str],
        *,
        group: str,
        journal: list[dict[str, Any]] | None,
    ) -> None:
        """`scheduled` returns the current value of a key before interventions; `journal` has the events of the run to
        replay, None to judge."""
        self.name, self.record = record.agent, record
        self.member = Member(record, spec, scheduled, group=group, journal=journal)
        self.going_back_to: str | None = None
        self.reinits: list[str] = []  # parts of the net to reinitialise
        self.frozen_normalizer = self.frozen_encoder = False
        self.normalizes = {"rewards": False, "observations": False}  # started while the run trains
        self.starts_observations_again = False
        self.acts: list[tuple[int, str]] = []  # number and words of the newest acts of rules, for the board
        self._rollout: Rollout | None = None
        self._update: Mapping[str, Any] = {}

    @property
    def is_on(self) -> bool:
        return self.member.is_on

    # --- values in force ---------------------------------------------------------------------------------------------

    def value(self, path: str, scheduled: float | str) -> float | str:
        """The value in force of a spec path, given its scheduled one."""
        return self.member.value(path, scheduled) if self.is_on else scheduled

    def live_keys(self) -> set[str]:
        """Every key that is moved now."""
        return self.member.live_keys()

    def moved_keys(self) -> set[str]:
        """Every key that a rule may move."""
        return self.member.moved_keys() if self.is_on else set()

    @property
    def reward_edits(self) -> int:
        """Number of reward edits so far."""
        return self.member.reward_edits

    @property
    def fired(self) -> int:
        """Number of changes to the training so far."""
        return self.member.fired

    # --- what the agent records --------------------------------------------------------------------------------------

    def recorded(self, rows: list[dict[str, Any]], rollout: Rollout, update: Mapping[str, Any], steps: int) -> None:
        """An update was recorded, for which `steps` env steps were taken."""
        if not self.is_on:
            return
        self._rollout, self._update = rollout, update
        self.record.take(rows)
        self.member.advance(
            updates=1,
            gradient_steps=_count(rows, GRADIENT_STEPS),
            env_steps=steps,
            episodes=_count(rows, "episode/episodes"),
        )

    def evaluated(self, row: dict[str, Any]) -> None:
        """An evaluation was recorded; its event has been given to `happened`."""
        if self.is_on:
            self.record.take([row])
            self.member.advance(evals=1)

    def happened(self, kind: str, **fields: Any) -> None:
        """An event was journalled."""
        self.record.take_event({"kind": kind, "agent": self.name, **fields})

    def out_of_memory(self, message: str) -> None:
        """A refused allocation was answered with smaller minibatches."""
        self.happened("oom", message=message)
        self.member.fired += 1

    # --- probation of actions ----------------------------------------------------------------------------------------

    @property
    def wants_evaluation(self) -> bool:
        """True if an action is to be compared with an evaluation of now."""
        return self.is_on and self.member.wants_evaluation

    @property
    def wants_snapshot(self) -> bool:
        """True if an action of now needs a snapshot before it is carried out."""
        return self.is_on and self.member.wants_snapshot

    def undo(self, rules: Iterable[str]) -> None:
        """Forget what rules froze or let begin, before a snapshot returns."""
        for rule in (rule for rule in self.member.rules if rule.id in set(rules)):
            for action in rule.actions():
                match action:
                    case Freeze(freeze="normalizer"):
                        self.frozen_normalizer = False
                    case Freeze(freeze="encoder"):
                        self.frozen_encoder = False
                    case Normalize(normalize=what):
                        self.normalizes[what] = False

    # --- what is decided ---------------------------------------------------------------------------------------------

    def take(self, action: Table, checkpoint: str | None) -> None:
        """Note an action, which the trainer carries out at the end of its iteration."""
        match action:
            case Rollback():
                self.going_back_to = checkpoint
            case Reinit(reinit=part_of_net):
                self.reinits.append(part_of_net)
            case Freeze(freeze="normalizer"):
                self.frozen_normalizer = True
            case Freeze(freeze="encoder"):
                self.frozen_encoder = True
            case Normalize(normalize="observations") if self.member.spec.observation.normalize == "running":
                self.starts_observations_again = True
            case Normalize(normalize=what):
                self.normalizes[what] = True

    def add_act(self, event: Mapping[str, Any]) -> None:
        """Keep an event for the board, if a rule acted."""
        if event.get("decision") not in DONE:
            return
        number = self.acts[-1][0] + 1 if self.acts else 1
        did = in_short(event) or event["reason"]
        self.acts = [*self.acts, (number, f"{event['id']} {event['decision']}: {did}")][-MOST_ACTS:]

    def take_checkpoint(self) -> str | None:
        """The checkpoint of a rollback, returned once."""
        name, self.going_back_to = self.going_back_to, None
        return name

    def take_reinits(self) -> list[str]:
        """Parts of the net to reinitialise, returned once."""
        parts, self.reinits = self.reinits, []
        return parts

    def evidence_of(self, dump: Dump) -> dict[str, Any] | None:
        """The content of a dump: whole episodes of the last rollout, or every gradient step of its update."""
        if dump.dump != "episode_replay":
            return {"gradient_steps": {name: np.asarray(values).tolist() for name, values in self._update.items()}}
        return None if self._rollout is None else {"episodes": last_episodes(self._rollout, dump.episodes)}

    # --- state -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> Flat:
        frozen = {"frozen_normalizer": self.frozen_normalizer, "frozen_encoder": self.frozen_encoder}
        begun = {f"normalizes_{what}": has for what, has in self.normalizes.items()}
        return {"engine": self.member.state(), **frozen, **begun}

    def load_state_dict(self, state: Flat) -> None:
        self.member.load_state(state["engine"])
        self.frozen_normalizer, self.frozen_encoder = bool(state["frozen_normalizer"]), bool(state["frozen_encoder"])
        self.normalizes = {what: bool(state[f"normalizes_{what}"]) for what in self.normalizes}

    def reload(self, rows: Iterable[Mapping[str, Any]], events: Iterable[Mapping[str, Any]]) -> None:
        """Take the rows and events from before an interruption."""
        if not self.is_on:
            return
        self.record.take(row for row in rows if row["agent"] == self.name)
        for event in events:
            if concerns(event, self.name):
                own = for_agent(event, self.name)
                self.record.take_event(own)
                self.add_act(own)


def _count(rows: Iterable[Mapping[str, Any]], metric: str) -> int:
    return sum(int(row["metrics"].get(metric, 0)) for row in rows)


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
                "action": [dict(enumerate(ACTIONS)).get(int(one), int(one)) for one in rollout.action[part, env]],
                "reward": rollout.reward[part, env].tolist(),
                "components": {name: rollout.weighted[part, env, c].tolist() for c, name in enumerate(COMPONENTS)},
                "equity": rollout.equity[part, env].tolist(),
            }
        )
    return episodes
