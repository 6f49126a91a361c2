"""What a trainer sees of p3kit: a run, its agents, and a handful of calls.

    with open_run(Args, __file__) as run:
        agent = run.agent
        while not agent.finished(global_step):
            args = agent.args_at(global_step)      # schedules applied
            ...                                    # rollout, advantages, loss: the trainer's own
            agent.record(...)                      # metrics, one transfer from the device
            agent.evaluate(...)                    # when due
            run.save_checkpoint(...)               # when due

The trainer owns the algorithm; the run owns files, clocks, schedules and evaluation.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from p3kit.env import TradingEnv, make_trading_env
from p3kit.errors import CheckpointError, InputError, P3kitError
from p3kit.market import SymbolData, load_market
from p3kit.rundir import RunDir
from p3kit.runtime.agent import Agent
from p3kit.runtime.checkpoints import Flat, load_checkpoint, part, save_checkpoint, under
from p3kit.runtime.council import Council
from p3kit.runtime.evaluation import Split, StackPolicy, evaluate_together
from p3kit.runtime.interventions import OSCILLATES, Check, Decision, Engine, ends_the_check, good_name
from p3kit.runtime.machine import device_of, is_out_of_memory, peak_memory_mb, precision_of
from p3kit.spec import resolve_spec
from p3kit.spec.interventions import Intervention, Scale

A = TypeVar("A")
_STATUS_SECONDS = 1.0
ENV_PAYS_FROM = 300_000
"""Env steps of a run from which compiling its environment repays."""


@dataclass(frozen=True)
class Backtest:
    """What `p3kit evaluate` asks of a trainer: to show the policy of one checkpoint on one split, and train nothing."""

    checkpoint: str
    """File name below checkpoints/."""
    agent: str
    global_step: int | None
    weights: Flat
    """The trainer's part: what it gave `Agent.evaluate`, or its own part of a whole checkpoint."""
    split: Split
    final: bool
    episodes: int = 0
    """Windows to hand out bar by bar, in place of the metrics of the whole split."""
    forward: int = 0
    """Observations to ask the policy about, together and one by one, in place of all that."""

    @classmethod
    def of(
        cls,
        directory: RunDir,
        checkpoint: str,
        agent: str,
        split: Split,
        final: bool,
        device: torch.device,
        episodes: int = 0,
        forward: int = 0,
    ) -> Backtest:
        """Load `checkpoint`. Raises CheckpointError where it is missing, torn, or not of this version."""
        path = directory.checkpoint(checkpoint)
        state = load_checkpoint(path, device)
        trainer = part("trainer", state)
        step = state.get(f"agent/{agent}/global_step")
        if step is None and (found := re.match(r"best-(\d+)", path.stem)):
            step = int(found[1])
        return cls(path.name, agent, step, trainer or state, split, final, episodes, forward)


class Run(Generic[A]):
    """One trainer process and its run directory. Use as a context manager: it reports how the run ended."""

    def __init__(self, directory: RunDir, args_type: type[A], *, resume: bool) -> None:
        self.directory, self.args_type = directory, args_type
        info = directory.info()
        self.env_id: str | None = info["env_id"]
        self.spec = resolve_spec(info["spec"], str(directory.path / "run.json"), directory.trainer_file)
        self.device = device_of(self.spec)
        self.precision = precision_of(self.spec, self.device)
        symbols = [agent["symbol"] for agent in info["agents"]]
        stored = {symbol: bars["bars_per_year"] for symbol, bars in (info.get("data") or {}).items()}
        market = {} if self.env_id else load_market(self.spec, symbols, directory.paths_from(), stored)
        self._refuse_changed_data(info, market)
        replayed: dict[str, Any] | None = info.get("replay")
        self.agents = [
            Agent(self, agent, market, replayed["journal"] if replayed else None, alone=len(info["agents"]) == 1)
            for agent in info["agents"]
        ]
        journal = replayed["journal"] if replayed else None
        self.council = Council(self._groups(info["agents"]), journal)
        self._recorded: list[Agent[A]] = []
        self._stop_signal = False
        self._said_not_compiled = False
        self._retries: Counter[str] = Counter()  # of interventions on a refused allocation
        self._written = -math.inf  # when, by a clock that never jumps
        plans = [[agent["name"], agent["spec"], agent["total_timesteps"]] for agent in info["agents"]]
        self._identity = hashlib.sha256(json.dumps(plans, sort_keys=True).encode()).hexdigest()
        self._state = "running"
        self._message = ""
        self.on_status: Callable[[Run[A], str], None] | None = None  # called with the state whenever it is written
        self.backtest: Backtest | None = None  # set where p3kit evaluate asks for one, before the trainer begins
        self.resumed: Flat | None = self._restore() if resume else None

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
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, self._on_signal)
        torch.set_num_threads(1 if self.spec.compute.threads == "auto" else self.spec.compute.threads)
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

    @property
    def stop_requested(self) -> bool:
        """Whether someone asked for a checkpoint and an end: a signal, or `p3kit stop`."""
        return self._stop_signal or self.directory.stop_requested()

    def autocast(self) -> AbstractContextManager[Any]:
        """The forward passes' number format: bf16 or fp16 under autocast, or fp32 as it is."""
        if self.precision == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.precision)

    def grad_scaler(self) -> torch.amp.GradScaler:
        """Scales the loss where gradients are fp16, and hands it through otherwise."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == torch.float16)

    def compiled(self, function: Any, *, pays_from: float = math.inf) -> Any:
        """`function` through torch.compile where `compute.compile` asks for it, or where it repays: on CUDA, and on a
        CPU for runs of at least `pays_from` env steps over all agents.

        Compiling happens at the first call; on CUDA the kernels of a call become one graph. Where it fails, the run
        goes on with `function` as it is and says so once.
        """
        wanted = self.spec.compute.compile
        steps = sum(agent.total_timesteps for agent in self.agents)
        if wanted == "off" or (wanted == "auto" and self.device.type == "cpu" and steps < pays_from):
            return function
        from torch._dynamo.exc import TorchDynamoException  # a second of imports that most runs do not need

        on_cuda = self.device.type == "cuda"
        fast: Any = torch.compile(function, mode="reduce-overhead" if on_cuda else None)

        def call(*arguments: Any) -> Any:
            nonlocal fast
            try:
                if not on_cuda or fast is function:
                    return fast(*arguments)
                torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
                # A graph writes the results of every call into the same memory: a rollout keeps copies.
                return tree_map_only(Tensor, Tensor.clone, fast(*arguments))
            except TorchDynamoException as error:
                fast = function
                if not self._said_not_compiled:
                    self._said_not_compiled = True
                    reason = str(error).strip().splitlines()[0]
                    print(f"not compiled, slower but the same: {reason}", file=sys.stderr)
                    self.directory.append_event("note", text=f"compute.compile: not compiled ({reason})")
                return function(*arguments)

        return call

    def smaller_minibatch(self, rows: int, error: RuntimeError) -> int:
        """After a minibatch of `rows` was refused its memory: how many rows to try, the batch then being summed up from
        that many more of them. Raises `error` again where it is of another kind, or no intervention allows a retry.
        """
        first = self.agents[0]
        if not is_out_of_memory(error) or first.spec.diagnose.mode in ("off", "watch"):
            raise error
        for rule in sorted(first.spec.intervention, key=lambda rule: rule.priority):
            if not rule.retries_smaller_minibatches() or self._retries[rule.id] >= rule.max_times:
                continue
            for action in rule.actions():
                if not isinstance(action, Scale):
                    continue
                fewer = max(int(rows * action.by), int(action.min or 1))
                if fewer >= rows:
                    continue
                self._retries[rule.id] += 1
                self._journal_retry(rule, rows, fewer, str(error).splitlines()[0])
                return fewer
        raise error

    def _journal_retry(self, rule: Intervention, rows: int, fewer: int, message: str) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.directory.append_event("oom", message=message, memory_mb=peak_memory_mb())
        for each in self.agents:
            each.repair.happened("oom", message=message)
            each.repair.engine.fired += 1
        agent = self.agents[0].name if len(self.agents) == 1 else None
        self.directory.append_event(
            "intervention",
            agent=agent,
            global_step=self.agents[0].global_step,
            id=rule.id,
            row="run.oom",
            cause="minibatch",
            decision="fired",
            reason=message,
            keys={"ppo.batch_size": [rows, fewer]},
        )
        print(f"out of memory: minibatches of {fewer} rows in place of {rows}, of the same batch", file=sys.stderr)

    def evaluate(
        self, agents: Sequence[Agent[A]], iteration: int, policy: StackPolicy, weights: Callable[[Agent[A]], Flat]
    ) -> None:
        """`Agent.evaluate` of several agents, played together; `policy` has them in the same order."""
        clock = time.perf_counter()
        evaluations = evaluate_together([agent.evaluator for agent in agents], policy)
        seconds = (time.perf_counter() - clock) / len(agents)
        for agent, evaluation in zip(agents, evaluations, strict=True):
            agent.take_in(iteration, evaluation, seconds, weights(agent))
        self.decide("eval", agents)

    # ── interventions ────────────────────────────────────────────────────────────────────────────────────────────────

    def recorded(self, agent: Agent[A]) -> None:
        """`agent` has recorded an update. Once all that train have, the interventions decide."""
        self._recorded.append(agent)
        if any(other.state == "running" and other not in self._recorded for other in self.agents):
            return
        agents, self._recorded = self._recorded, []
        self.decide("update", agents)
        for each in agents:
            each.fail_if_lost()

    def decide(self, check: Check, agents: Sequence[Agent[A]]) -> None:
        """Let the interventions decide at a check point that `agents` have come to: first those for all agents, on all
        their records, then each agent's own."""
        running = {agent.name: agent for agent in agents if agent.state == "running" and agent.repair.is_on}
        if not running:
            return
        self._examine(check, running)
        claimed: dict[str, set[str]] = {name: set() for name in running}
        ended: set[str] = set()
        engines = {name: agent.repair.engine for name, agent in running.items()}
        for decision in self.council.check(check, engines, claimed):
            self._journal_for_all(decision, running)
            for name in decision.agents:
                running[name].repair.took_part(decision)
            ended |= {*decision.agents} if ends_the_check(decision) else set()
        for name, agent in running.items():
            if name not in ended:
                agent.repair.decide(check, claimed[name])

    def _examine(self, check: Check, running: Mapping[str, Agent[A]]) -> None:
        """Every agent's record is judged beside those of all others, whether they still train or not."""
        evidences = {}
        if self.council.journal is None and len(self.agents) > 1:
            evidences = {agent.name: agent.repair.engine.evidence() for agent in self.agents}
        for name, agent in running.items():
            peers = [other for other_name, other in evidences.items() if other_name != name]
            agent.repair.examine(check, replace(evidences[name], peers=peers) if evidences else None)

    def _journal_for_all(self, decision: Decision, running: Mapping[str, Agent[A]]) -> None:
        first = running[decision.agents[0]]
        agent = first.name if decision.row == OSCILLATES else None  # of a key in one agent
        step = first.global_step
        fields = decision.to_event() | first.repair.journalled()
        self.directory.append_event("intervention", agent=agent, global_step=step, **fields)
        for name in decision.agents:
            own = fields | dict(decision.by_agent.get(name, {}))
            running[name].repair.happened("intervention", global_step=step, **own)

    def _groups(self, plans: Sequence[Mapping[str, Any]]) -> list[dict[str, Engine]]:
        """The agents' engines by seed and matrix point."""
        groups: dict[str, dict[str, Engine]] = {}
        for plan, agent in zip(plans, self.agents, strict=True):
            key = json.dumps([plan["seed"], plan.get("point") or {}], sort_keys=True)
            groups.setdefault(key, {})[agent.name] = agent.repair.engine
        return list(groups.values())

    # ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def heartbeat(self) -> None:
        """Say that the run is alive; writes `status.json` at most once a second."""
        if time.monotonic() - self._written >= _STATUS_SECONDS:
            self._write_status()

    def save_checkpoint(self, name: str, trainer_state: Flat) -> None:
        """Write `checkpoints/<name>.pt`: the trainer's state and that of every agent."""
        self._refuse_to_train()
        state = under("trainer", trainer_state) | {"run/council": self.council.state(), "run/identity": self._identity}
        if name == "last":
            self._keep_good(state)
        for agent in self.agents:
            state |= under(f"agent/{agent.name}", agent.state_dict())
        save_checkpoint(self.directory.checkpoint(name), state, compress=self.spec.checkpoints.compress)
        if name == "last":
            kept = {good_name(step) for agent in self.agents for _, step in agent.repair.engine.good}
            for path in self.directory.checkpoints():
                if path.stem.startswith("good-") and path.stem not in kept:
                    path.unlink()
        for agent in self.agents:
            step = agent.global_step
            self.directory.append_event("checkpoint", agent=agent.name, global_step=step, file=f"{name}.pt")
        self._write_status()

    def _keep_good(self, state: Flat) -> None:
        """Keep `good-<step>.pt` where an intervention may go back to it: no symptom of its agent is open."""
        clean = [agent for agent in self.agents if agent.state == "running" and agent.repair.engine.keeps_good()]
        for agent in clean:
            agent.repair.engine.keep_good()
        if clean:
            path = self.directory.checkpoint(good_name(clean[0].global_step))
            save_checkpoint(path, state, compress=self.spec.checkpoints.compress)

    def rolled_back(self, agents: Sequence[Agent[A]]) -> Iterator[tuple[int, Flat]]:
        """Agents that an intervention takes back: their place in `agents`, and the trainer's part of the checkpoint
        whose weights, optimiser and normalisers to load. The environment and the steps spent stay where they are."""
        for place, agent in enumerate(agents):
            name = agent.repair.checkpoint_to_load()
            if name is not None and agent.state == "running":
                yield place, part("trainer", load_checkpoint(self.directory.checkpoint(name), self.device))

    def reinitialised(self, agents: Sequence[Agent[A]]) -> Iterator[tuple[int, str, torch.Generator]]:
        """Agents in whose net an intervention wants new weights: their place in `agents`, the part ("dormant",
        "policy_head" or "value_head"), and what to draw from. They come after those that go back."""
        for place, agent in enumerate(agents):
            agent.begin_normalizing()
            parts, agent.repair.reinits = agent.repair.reinits, []
            for part_of_net in parts if agent.state == "running" else ():
                yield place, part_of_net, agent.new_generator(f"reinit {part_of_net} {agent.global_step}")

    @property
    def encoder_is_frozen(self) -> bool:
        """Whether an intervention holds what all agents see through as it is."""
        return any(agent.repair.frozen_encoder for agent in self.agents)

    def _refuse_to_train(self) -> None:
        """A backtest leaves the run as it is, whatever the trainer's script does."""
        if self.backtest is not None:
            raise P3kitError(
                str(self.directory.trainer_file),
                "cannot be evaluated: it has no load_policy",
                "define it as trainers/ppo.py does, and open the run with it",
            )

    def _restore(self) -> Flat:
        """Load `last.pt` (or `init.pt`) into the agents, cut what is newer, and hand the trainer its own part."""
        last, first = self.directory.checkpoint("last"), self.directory.checkpoint("init")
        path = last if last.exists() else first
        state = load_checkpoint(path, self.device)
        if state.get("run/identity", self._identity) != self._identity:
            what = "was written by another run: its agents or their specs are not this one's"
            raise CheckpointError(str(path), what, "bring the right file back, or delete it to begin at init.pt")
        try:
            for agent in self.agents:
                agent.load_state_dict(part(f"agent/{agent.name}", state))
            self.council.load_state(state["run/council"])
        except (KeyError, ValueError, RuntimeError) as error:
            what = f"was written by another run or another version of p3kit ({type(error).__name__}: {error})"
            raise CheckpointError(str(path), what, "start the run again") from error
        dropped = self.directory.cut_after({agent.name: agent.global_step for agent in self.agents})
        for agent in self.agents:
            self.directory.append_event(
                "resume", agent=agent.name, global_step=agent.global_step, file=path.name, rows_dropped=dropped
            )
        rows, events = self.directory.read_metrics(), self.directory.read_events()
        for agent in self.agents:
            agent.repair.reload(rows, events)
        return part("trainer", state)

    def _refuse_changed_data(self, info: Mapping[str, Any], market: Mapping[str, SymbolData]) -> None:
        for symbol, bars in market.items():
            if bars.fingerprint != info["data"][symbol]["fingerprint"]:
                raise P3kitError(
                    f"{self.directory.name}: data of {symbol}",
                    "have changed since the run was planned (their fingerprint differs)",
                    "restore the data, or start a new run",
                )

    def _on_signal(self, *_: Any) -> None:
        self._stop_signal = True

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
