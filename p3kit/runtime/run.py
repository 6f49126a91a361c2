"""A trainer process and its run directory: files, clocks, schedules, evaluation and interventions of its agents.

Trainers use it through `AgentRun` (one agent) or `StackRun` (several). The trainer owns the algorithm.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from p3kit.env import TradingEnv, make_trading_env
from p3kit.errors import CheckpointError, InputError, P3kitError
from p3kit.interventions import Check, snapshot_name
from p3kit.market import SymbolData
from p3kit.rundir import RunDir, first_plan
from p3kit.rundir.record_marks import RecordMarks, lost_rows
from p3kit.rundir.signals import LAUNCHED, handle_signals
from p3kit.rundir.threads import threads_of
from p3kit.runtime.agent import Agent
from p3kit.runtime.card import card_entry
from p3kit.runtime.checkpoints import Flat, load_checkpoint, part, save_checkpoint, under
from p3kit.runtime.evaluation import StackPolicy, evaluate_together
from p3kit.runtime.initial_weights import InitialWeights
from p3kit.runtime.machine import (
    is_out_of_memory,
    keep_freed_memory,
    peak_memory_mb,
    spare_compiler,
    spare_lasting_objects,
)
from p3kit.runtime.rule_runner import RuleRunner
from p3kit.runtime.run_market import OutsideRequest, backtest_market, outside_market, training_market
from p3kit.runtime.run_process import A, Process
from p3kit.spec import Spec, resolve_spec

STATUS_SECONDS = 1.0
ENV_PAYS_FROM = 200_000
"""Env steps of a run from which compiling its environment repays."""


class Run(Process[A]):
    """One trainer process and its run directory. Use as a context manager: it reports how the run ended."""

    def __init__(
        self,
        directory: RunDir,
        args_type: type[A],
        *,
        resume: bool,
        of_agent: str | None = None,
        outside: OutsideRequest | None = None,
    ) -> None:
        """`of_agent` is the only agent of a backtest, `outside` requests bars outside the splits."""
        super().__init__(directory, args_type)
        info = self.info
        if any((agent["spec"].get("init") is not None) != ("init" in agent) for agent in info["agents"]):
            raise InputError("init", "its weights were not copied into the run directory", "start it with p3kit run")
        market = self._market(info, of_agent, outside)
        journal = (info.get("replay") or {}).get("journal")
        alone = len(info["agents"]) == 1
        self.agents = [
            Agent(self, agent, market, self._at_check, alone=alone, journal=journal) for agent in info["agents"]
        ]
        self._rules = RuleRunner(self.agents, directory, journal)
        self._begun = 0  # iterations of this process
        self._written = -math.inf  # when, by a clock that never jumps
        first = [first_plan(agent) for agent in info["agents"]]
        plans = [[agent["name"], agent["spec"], agent["total_timesteps"]] for agent in first]
        self._identity = hashlib.sha256(json.dumps(plans, sort_keys=True).encode()).hexdigest()
        self._state = "running"
        self._message = ""
        self.on_status: Callable[[Run[A], str], None] | None = None  # called with the state whenever it is written
        self._marks = RecordMarks(self.directory.path)
        self.resumed: Flat | None = self._restore() if resume else None

    def _market_spec(self, info: Mapping[str, Any]) -> Spec:
        """See `RunPlan.market_spec`."""
        first = resolve_spec(info["agents"][0]["spec"], str(self.directory.path), self.directory.trainer_file)
        return self.spec.model_copy(update={"observation": first.observation})

    @property
    def agent(self) -> Agent[A]:
        """The agent of a trainer that trains one, or the one to backtest."""
        if self.backtest is not None:
            return next(agent for agent in self.agents if agent.name == self.backtest.agent)
        if len(self.agents) != 1:
            raise P3kitError(self.directory.name, f"holds {len(self.agents)} agents; this trainer trains one")
        return self.agents[0]

    def make_env(self, agents: Sequence[Agent[A]]) -> TradingEnv:
        """One training environment for K agents of equal rules: row n·K + k is env n of agent k."""
        if self.env_id:
            what = "is a task of its own; this trainer trains stacks of agents on bars"
            raise InputError(self.env_id, what, "trainers/ppo.py takes --env-id")
        first = agents[0]
        env = make_trading_env(
            first.market, first.spec, symbols=[agent.symbol for agent in agents], split="train", device=self.device
        )
        env.compile(partial(self.compiled, pays_from=ENV_PAYS_FROM))
        return env

    def __enter__(self) -> Run[A]:
        if LAUNCHED in os.environ:
            signal.signal(signal.SIGTERM, self._on_signal)
        handle_signals((signal.SIGTERM, signal.SIGINT), self._on_signal)
        keep_freed_memory()
        spare_compiler()
        torch.set_num_threads(threads_of(self.info))
        torch.set_float32_matmul_precision("high")  # TF32 where the device has it
        if self.backtest is None:
            self._write_status()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.backtest is not None:
            if isinstance(error, P3kitError):
                print(error, file=sys.stderr)
                sys.exit(error.exit_code)
            return
        failed = [agent for agent in self.agents if agent.fault]
        if error is None and failed:
            error = failed[0].fault
            others = len(self.agents) - len(failed)
            trace = None
            self._message = "; ".join(str(agent.fault).splitlines()[0] for agent in failed)
            self._message += f" ({others} other agents trained on)" if others else ""
            self._state = "failed"
        elif error is None:
            self._state = "stopped" if any(agent.state == "stopped" for agent in self.agents) else "done"
            self._mark_rows(self.directory.checkpoint("last"))  # verdicts come after the last checkpoint
        else:
            self._state = "failed"
            self._message = str(error).splitlines()[0] if str(error) else type(error).__name__
            if is_out_of_memory(error):
                self.directory.append_event("oom", message=self._message, memory_mb=peak_memory_mb())
        self._write_status()
        if error is not None:
            if not isinstance(error, P3kitError):
                traceback.print_exception(kind, error, trace)
            print(f"{self.directory.name} failed: {error}", file=sys.stderr)
            sys.exit(error.exit_code if isinstance(error, P3kitError) else 1)

    def begin_iteration(self) -> None:
        """Prepare the process. The first iteration compiles functions, so that the second one has more to spare."""
        if self._begun < 2:
            spare_lasting_objects()
        self._begun += 1

    def smaller_minibatch(self, rows: int, error: RuntimeError) -> int:
        """The number of rows to try after a minibatch of `rows` was refused its memory; the batch is then summed up
        from more of them. Raises `error` again if it is of another kind, or if no intervention allows a retry."""
        return self._rules.smaller_minibatch(rows, error)

    def evaluate(
        self, agents: Sequence[Agent[A]], iteration: int, policy: StackPolicy, weights: Callable[[Agent[A]], Flat]
    ) -> None:
        """`Agent.evaluate` of several agents, played together; `policy` has them in the same order."""
        clock = time.perf_counter()
        evaluations = evaluate_together([agent.evaluator for agent in agents], policy)
        seconds = (time.perf_counter() - clock) / len(agents)
        for agent, evaluation in zip(agents, evaluations, strict=True):
            agent.take_in(iteration, evaluation, seconds, weights(agent))
        self._rules.decide("eval", agents)
        self.heartbeat()

    def _at_check(self, check: Check, agent: Agent[A]) -> None:
        """An agent has recorded an update or an evaluation."""
        if check == "update":
            self._rules.recorded(agent)
        else:
            self._rules.decide(check, [agent])
        self.heartbeat()

    # ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def heartbeat(self) -> None:
        """Write `status.json` as a sign of life, at most once a second."""
        if time.monotonic() - self._written >= STATUS_SECONDS:
            self._write_status()

    def save_checkpoint(self, name: str, trainer_state: Flat) -> None:
        """Write `checkpoints/<name>.pt`: the trainer's state and that of every agent."""
        self.refuse_to_train()
        state = under("trainer", trainer_state) | {
            "run/group_rules": self._rules.state(),
            "run/identity": self._identity,
        }
        for agent in self.agents:
            state |= card_entry(agent.card)
        state |= under("run/records", self._marks.take())
        if name == "last":
            self._keep_good(state)
        for agent in self.agents:
            state |= under(f"agent/{agent.name}", agent.state_dict())
        save_checkpoint(self.directory.checkpoint(name), state, compress=self.spec.checkpoints.compress)
        if name == "last":
            kept = self._rules.kept()
            for path in self.directory.checkpoints():
                if path.stem.startswith(("good-", "before-")) and path.stem not in kept:
                    path.unlink()
        for agent in self.agents:
            step = agent.global_step
            self.directory.append_event("checkpoint", agent=agent.name, global_step=step, file=f"{name}.pt")
        self._write_status()

    def save_snapshot(self, agents: Sequence[Agent[A]], trainer_state: Callable[[], Flat]) -> None:
        """Write `before-<step>.pt` if an intervention is about to change one of the agents."""
        acting = next((agent for agent in agents if agent.repair.wants_snapshot), None)
        if acting is not None:
            path = self.directory.checkpoint(snapshot_name(acting.global_step))
            save_checkpoint(path, under("trainer", trainer_state()), compress=self.spec.checkpoints.compress)

    def _mark_rows(self, path: Path) -> None:
        """Put the newest marks of the rows into a checkpoint that is there: rows came after it, and an extension or a
        resume rests on them."""
        if path.exists():
            state = load_checkpoint(path) | under("run/records", self._marks.take())
            save_checkpoint(path, state, compress=self.spec.checkpoints.compress)

    def _keep_good(self, state: Flat) -> None:
        """Write `good-<step>.pt` if an intervention may go back to it."""
        name = self._rules.keep_good()
        if name is not None:
            save_checkpoint(self.directory.checkpoint(name), state, compress=self.spec.checkpoints.compress)

    def rolled_back(self, agents: Sequence[Agent[A]]) -> Iterator[tuple[int, Flat]]:
        """Agents that an intervention takes back: their place in `agents`, and the trainer's part of the checkpoint
        whose weights, optimiser and normalisers to load. The environment and the steps spent stay where they are."""
        for place, agent in enumerate(agents):
            name = agent.take_rollback()
            if name is not None and agent.state == "running":
                yield place, part("trainer", load_checkpoint(self.directory.checkpoint(name), self.device))

    def reinitialised(self, agents: Sequence[Agent[A]]) -> Iterator[tuple[int, str, torch.Generator]]:
        """Agents whose network gets new weights by an intervention: their place in `agents`, the part ("dormant",
        "policy_head" or "value_head"), and the generator. They come after those that roll back."""
        for place, agent in enumerate(agents):
            agent.begin_normalizing()
            parts = agent.take_reinits()
            for part_of_net, generator in parts if agent.state == "running" else ():
                yield place, part_of_net, generator

    @property
    def encoder_is_frozen(self) -> bool:
        """True if an intervention has frozen the encoder that the agents share."""
        return any(agent.encoder_is_frozen for agent in self.agents)

    def initial_weights(self, agent: Agent[A]) -> InitialWeights | None:
        """The weights that an agent starts from; None for new ones. Journalled once."""
        plan = next(plan for plan in self.info["agents"] if plan["name"] == agent.name)
        initial = InitialWeights.read(self.directory, plan, self.device)
        if initial is not None:
            text = f"starts from {initial.label}, {plan['init']['checkpoint']}, SHA-256 {plan['init']['sha256'][:16]}"
            agent.journal("note", text=text)
        return initial

    def _restore(self) -> Flat:
        """Load `last.pt` (or `init.pt`) into the agents, cut what is newer, and hand the trainer its own part."""
        last, first = self.directory.checkpoint("last"), self.directory.checkpoint("init")
        path = last if last.exists() else first
        state = load_checkpoint(path, self.device)
        if state.get("run/identity", self._identity) != self._identity:
            what = "was written by another run: its agents or their specs are not this one's"
            raise CheckpointError(str(path), what, "bring the right file back, or delete it to begin at init.pt")
        if lost := lost_rows(self.directory.path, part("run/records", state)):
            remedy = f"restore the file; or delete checkpoints/{path.name}: p3kit resume then begins at init.pt"
            if path == first:
                remedy = "restore the file, or start the run again"
            raise CheckpointError(self.directory.name, lost, remedy)
        try:
            for agent in self.agents:
                agent.load_state_dict(part(f"agent/{agent.name}", state))
            rules = state["run/group_rules"] if "run/group_rules" in state else state["run/council"]  # before 0.2
            self._rules.load_state(rules)
        except (KeyError, ValueError, RuntimeError) as error:
            what = f"was written by another run or another version of p3kit ({type(error).__name__}: {error})"
            older = f"resume it with {self.directory.made_by()}, or " if self.directory.is_older else ""
            raise CheckpointError(str(path), what, f"{older}start the run again") from error
        dropped = self.directory.cut_after({agent.name: agent.global_step for agent in self.agents})
        for agent in self.agents:
            self.directory.append_event(
                "resume", agent=agent.name, global_step=agent.global_step, file=path.name, rows_dropped=dropped
            )
        rows, events = self.directory.read_metrics(), self.directory.read_events()
        for agent in self.agents:
            agent.reload(rows, events)
        self._mark_rows(path)
        return part("trainer", state)

    def _market(
        self, info: Mapping[str, Any], of_agent: str | None, outside: OutsideRequest | None
    ) -> Mapping[str, SymbolData]:
        """The bars by symbol; none for a task that brings none."""
        if self.env_id:
            return {}
        spec = self._market_spec(info)
        if of_agent is None:
            return training_market(self.directory, info, spec)
        symbol = next(agent["symbol"] for agent in info["agents"] if agent["name"] == of_agent)
        if outside is None:
            return backtest_market(self.directory, info, spec, symbol)
        found = outside_market(self.directory, info, spec, symbol, outside)
        self.overlaps = found.overlaps
        return {symbol: found.data}

    def _write_status(self) -> None:
        self._written = time.monotonic()
        self.directory.write_status(
            {
                "state": self._state,
                "pid": os.getpid(),
                "heartbeat": time.time(),
                "message": self._message,
                "agents": {agent.name: agent.status() for agent in self.agents},
            }
        )
        if self.on_status is not None:
            self.on_status(self, self._state)
