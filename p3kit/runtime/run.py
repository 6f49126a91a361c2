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
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from p3kit.env import TradingEnv, make_trading_env
from p3kit.env.account import ACCOUNT_FIELDS
from p3kit.errors import CheckpointError, InputError, NumericalFault, P3kitError
from p3kit.market import SymbolData, load_market
from p3kit.metrics import COMPONENTS
from p3kit.rundir import BACKTEST_RESULT, RunDir, encode
from p3kit.runtime.checkpoints import Flat, load_checkpoint, part, save_checkpoint, under
from p3kit.runtime.council import Council
from p3kit.runtime.evaluation import Evaluation, Evaluator, Policy, Split, StackPolicy, evaluate_together, seed_of
from p3kit.runtime.grading import EarlyStop, verdict
from p3kit.runtime.interventions import OSCILLATES, Check, Decision, Engine, ends_the_check, good_name
from p3kit.runtime.recording import EpisodeLedger, Rollout, histogram, tick_rows, value_map
from p3kit.runtime.repair import Repair
from p3kit.runtime.replay import replay_episodes
from p3kit.runtime.reward_shape import (
    CORRELATED_EPISODES,
    episode_correlations,
    reward_histogram,
    reward_shape,
    reward_to_go_curve,
)
from p3kit.runtime.scaling import ObservationScaler, RewardScaler
from p3kit.spec import Spec, get_path, resolve_spec
from p3kit.spec.interventions import Intervention, Scale
from p3kit.spec.schedules import value_at

if TYPE_CHECKING:
    from p3kit.env.task import VectorTask

A = TypeVar("A")
_STATUS_SECONDS = 1.0
NEWEST_RETURN = "return_1"
"""The feature that is the return of its own bar."""
ENV_PAYS_FROM = 300_000
"""Env steps of a run from which compiling its environment repays."""
_CARRIED = (
    "value/explained_variance",
    "diag/ev_reference",
    "policy/entropy",
    "policy/entropy_norm",
    "policy/hold_share",
)


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
        self.device = _device(self.spec)
        self.precision = _precision(self.spec, self.device)
        symbols = [agent["symbol"] for agent in info["agents"]]
        market = {} if self.env_id else load_market(self.spec, symbols, directory.paths_from())
        self._refuse_changed_data(info, market)
        replayed: dict[str, Any] | None = info.get("replay")
        self.agents = [
            Agent(self, agent, market, replayed["journal"] if replayed else None, alone=len(info["agents"]) == 1)
            for agent in info["agents"]
        ]
        journal = replayed["journal"] if replayed else None
        self.council = Council(self._groups(info["agents"]), journal)
        self.judges_minibatches = any(agent.repair.is_on and agent.repair.engine.inside for agent in self.agents)
        """Whether a rule is looked at after each gradient step, for which the device has to be waited for."""
        self._recorded: list[Agent[A]] = []
        self._stop_signal = False
        self._said_not_compiled = False
        self._retries: Counter[str] = Counter()  # of interventions on a refused allocation
        self._written = -math.inf  # when, by a clock that never jumps
        plans = [[agent["name"], agent["spec"], agent["total_timesteps"]] for agent in info["agents"]]
        self._identity = hashlib.sha256(json.dumps(plans, sort_keys=True).encode()).hexdigest()
        self._state = "running"
        self._message = ""
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
                self.directory.append_event("oom", message=self._message, memory_mb=memory_mb())
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
        self.directory.append_event("oom", message=message, memory_mb=memory_mb())
        for each in self.agents:
            each.repair.happened("oom", message=message)
            each.repair.engine.fired += 1
        agent = self.agents[0].name if len(self.agents) == 1 else None
        self.directory.append_event(
            "intervention",
            agent=agent,
            global_step=self.agents[0].repair.journal_step,
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

    def open_update(self, agents: Sequence[Agent[A]], end_step: int, known: Mapping[str, Tensor]) -> None:
        """An update begins whose gradient steps `judge_minibatch` looks at one by one. Its rollout ended at `end_step`;
        `known`, one number per agent, is what it shows already, so that a cause can be told from its consequence."""
        values = {name: column.reshape(-1).tolist() for name, column in known.items()}
        for place, agent in enumerate(agents):
            if agent.state == "running":
                agent.repair.open_update(end_step, {name: column[place] for name, column in values.items()})

    def judge_minibatch(
        self, agents: Sequence[Agent[A]], taking_part: Sequence[int], names: Sequence[str], told: Tensor
    ) -> list[int]:
        """After a gradient step: decide by the rules with check = "minibatch". Returns the places of the agents that
        were changed: their knobs are to be read again, and `Agent.update_is_over` tells who takes no further step.

        `told` (agents, M) has the step's numbers by `names`; agents whose update has ended are not `taking_part`. This
        waits for the device, and costs what the judgement costs: a fraction of a millisecond per symptom and agent. A
        replay waits for nothing.
        """
        repeats = self.council.journal is not None
        rows = [[math.nan] * len(names)] * len(agents) if repeats else told.tolist()
        before = {}
        for place in taking_part:
            engine = agents[place].repair.engine
            before[place] = (engine.live, engine.update_is_over, agents[place].repair.frozen_encoder)
            engine.take_step(dict(zip(names, rows[place], strict=True)))
        self.decide("minibatch", [agents[place] for place in taking_part])
        return [
            place
            for place, was in before.items()
            if was
            != (
                agents[place].repair.engine.live,
                agents[place].repair.engine.update_is_over,
                agents[place].repair.frozen_encoder,
            )
        ]

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
        if check != "minibatch" and self.council.journal is None and len(self.agents) > 1:
            evidences = {agent.name: agent.repair.engine.evidence() for agent in self.agents}
        for name, agent in running.items():
            peers = [other for other_name, other in evidences.items() if other_name != name]
            agent.repair.examine(check, replace(evidences[name], peers=peers) if evidences else None)

    def _journal_for_all(self, decision: Decision, running: Mapping[str, Agent[A]]) -> None:
        first = running[decision.agents[0]]
        agent = first.name if decision.row == OSCILLATES else None  # of a key in one agent
        step = first.repair.journal_step
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
                "cannot backtest: it trains without asking `run.backtest`",
                "see the lines below `run.backtest` in trainers/ppo.py",
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


class Agent(Generic[A]):
    """One agent of a run: its spec, its generator, its schedules, its record."""

    def __init__(
        self,
        run: Run[A],
        plan: Mapping[str, Any],
        market: Mapping[str, SymbolData],
        journal: list[dict[str, Any]] | None,
        *,
        alone: bool,
    ) -> None:
        self.run, self.name, self.symbol, self.seed = run, plan["name"], plan["symbol"], plan["seed"]
        where = f"{run.directory.path / 'run.json'}: {self.name}"
        self.spec: Spec = resolve_spec(plan["spec"], where, run.directory.trainer_file)
        self.total_timesteps: int = plan["total_timesteps"]
        self.generator = self.new_generator("agent")
        self.global_step = 0
        self.state = "running"
        self.market = market
        self.fault: P3kitError | None = None
        self._early_stop = EarlyStop()
        self._ledger = EpisodeLedger.empty(self.spec.env.num_envs)
        self._observation_scaler: ObservationScaler | None = None
        self._best: dict[int, float] = {}  # global_step → validation Sharpe of the checkpoints kept
        self._nonfinite = 0.0
        self._ended_early = ""  # why, if by its own rules
        self._latest: dict[str, float] = {}
        self._verdict: dict[str, Any] | None = None
        self.is_alone = alone
        self._lost: NumericalFault | None = None  # what was found in the update just recorded
        self.repair = Repair(self, plan["spec"], journal)

    # ── what the trainer builds on ───────────────────────────────────────────────────────────────────────────────────

    def new_generator(self, purpose: str) -> torch.Generator:
        """A generator of its own for `purpose`, seeded by (seed, symbol), so that nothing else shifts what it draws."""
        return torch.Generator().manual_seed(seed_of(purpose, self.seed, self.symbol))

    def reseed(self, rollbacks: int) -> None:
        """Draw other numbers from now on, after so many rollbacks."""
        self.generator.manual_seed(seed_of("agent", self.seed, self.symbol, rollbacks))

    def make_env(self) -> TradingEnv | VectorTask:
        """The training environment, on the run's device."""
        if self.run.env_id:
            from p3kit.env.task import VectorTask  # gymnasium and envpool are slow to import and rarely wanted

            return VectorTask(self.run.env_id, self.spec.env.num_envs, self.seed)
        env = make_trading_env(self.market, self.spec, symbols=[self.symbol], split="train", device=self.run.device)
        env.compile(self.run.compiled)
        return env

    @cached_property
    def newest_return_column(self) -> int | None:
        """The observation value that holds the return of the newest bar; None for a task without bars."""
        if not self.market:
            return None
        names = self.market[self.symbol].feature_names
        return (self.spec.env.window - 1) * len(names) + names.index(NEWEST_RETURN)

    def args_at(self, global_step: int) -> A:
        """The trainer's arguments in force at `global_step`, schedules and interventions applied."""
        moved = dict.fromkeys([*self.spec.schedules, *sorted(self.repair.engine.live_keys())])
        knobs = {
            path.removeprefix("ppo."): self.repair.value(path, self.scheduled_at(path, global_step))
            for path in moved
            if path.startswith("ppo.")
        }
        return self.run.args_type(**(self.spec.ppo.model_dump() | knobs))

    def value_at(self, path: str, global_step: int) -> float:
        """A spec value in force at `global_step`: what is scheduled, as live interventions change it."""
        return float(self.repair.value(path, self.scheduled_at(path, global_step)))

    def scheduled_at(self, path: str, global_step: int) -> float | str:
        """A spec value without interventions: its schedule at the share of training done, else the value itself, which
        may be a word such as "off"."""
        schedule = self.spec.schedules.get(path)
        if schedule is not None:
            return value_at(schedule, global_step / self.total_timesteps)
        value = get_path(self.spec, path)
        return value if isinstance(value, str) else float(value)

    def reward_weights_at(self, global_step: int) -> Tensor:
        """(7,) float64, the weights of the components in force."""
        if self.run.env_id:  # a foreign task has one reward; it sits in the first slot
            return torch.eye(1, len(COMPONENTS), dtype=torch.float64)[0]
        weights = [self.value_at(f"reward.weights.{name}", global_step) for name in COMPONENTS]
        return torch.tensor(weights, dtype=torch.float64, device=self.run.device)

    def reward_scaler(self, num_envs: int, agents: Sequence[Agent[Any]] | None = None) -> RewardScaler:
        """The scaler of this agent's rewards; with `agents`, of a stack of them, which have its settings."""
        of = [self] if agents is None else list(agents)

        def in_force() -> list[tuple[bool, float]]:
            return [(agent.repair.normalizes["rewards"], agent.reward_clip()) for agent in of]

        count = None if agents is None else len(of)
        return RewardScaler(self.spec.reward.scaling, None, num_envs, self.run.device, count, in_force)

    def reward_clip(self) -> float:
        """The reward clip in force; infinite where it is off."""
        clip = self.repair.value("reward.clip", self.scheduled_at("reward.clip", self.global_step))
        return math.inf if clip == "off" else float(clip)

    def observation_scaler(self, size: int) -> ObservationScaler:
        observation = self.spec.observation
        self._observation_scaler = ObservationScaler(
            size,
            running=observation.normalize == "running",
            clip=observation.clip,
            device=self.run.device,
            is_frozen=lambda: self.repair.frozen_normalizer,
            has_begun=lambda: self.repair.normalizes["observations"],
        )
        return self._observation_scaler

    def begin_normalizing(self) -> None:
        """Where an intervention asked for it: observations are standardised from the next rollout on."""
        if self._observation_scaler is not None:
            self._observation_scaler.begin()

    # ── what the trainer reports ─────────────────────────────────────────────────────────────────────────────────────

    def finished(self, global_step: int) -> bool:
        """Whether to leave the loop: all steps taken, an early stop, or someone asked for an end."""
        self.global_step = global_step
        if self.state != "running":
            return True
        if global_step >= self.total_timesteps:
            self.state = "done"
        elif self.run.stop_requested:
            self.state = "stopped"
        return self.state != "running"

    def fail(self, fault: P3kitError) -> None:
        """End this agent for good; the others of its run go on, and the run ends as failed."""
        self.state, self.fault = "failed", fault
        text = str(fault).splitlines()[0]
        self.run.directory.append_event("failed", agent=self.name, global_step=self.repair.journal_step, message=text)
        print(f"{self.run.directory.name}: {fault}", file=sys.stderr)

    def end_early(self, reason: str) -> None:
        """End this agent's training as done, before its last step."""
        if self.state == "running":
            self.state, self._ended_early = "done", reason
            self.journal("early_stop", at=self.repair.journal_step, reason=reason)

    def journal(self, kind: str, at: int | None = None, **fields: Any) -> None:
        """Write an event of this agent, at its step unless it belongs to another one."""
        step = self.global_step if at is None else at
        self.run.directory.append_event(kind, agent=self.name, global_step=step, **fields)
        self.repair.happened(kind, global_step=step, **fields)

    def due(self, every: int, before: int) -> bool:
        """Whether a thing done `every` so many steps falls due between `before` and now (or training has ended)."""
        return self.global_step // every > before // every or self.global_step >= self.total_timesteps

    def record(
        self,
        iteration: int,
        start_step: int,
        global_step: int,
        rollout: Rollout,
        update: Mapping[str, Any],
        whole: Mapping[str, float],
    ) -> None:
        """Write the rows of one iteration: rollout per tick, optimiser beside it, `whole` with the last row. Once every
        agent of the run has, the interventions decide.

        Not one finite gradient step in an update ends an agent, if no intervention takes it back: alone in its run it
        raises NumericalFault, beside others it fails and they go on.
        """
        self.run._refuse_to_train()
        self.global_step = global_step
        rows = tick_rows(rollout, self._ledger, update, start_step, global_step)
        gamma = float(getattr(self.args_at(start_step), "gamma", 1.0))
        whole = dict(whole) | self._effective(start_step) | reward_shape(rollout, gamma)
        if (ended := self._ledger.take_ended(CORRELATED_EPISODES)) is not None:
            whole |= episode_correlations(ended)
        if self._observation_scaler is not None and self._observation_scaler.drift is not None:
            whole["diag/obs_drift"] = float(self._observation_scaler.drift)
        whole["perf/steps_per_second"] = (global_step - start_step) / (whole["perf/rollout_s"] + whole["perf/update_s"])
        whole["perf/memory_mb"] = memory_mb()
        rows[-1][1].update(whole)
        now = time.time()
        written = [self._row(iteration, step, now, metrics) for step, metrics in rows]
        self.run.directory.append_metrics(written)
        for _, metrics in rows:
            self._latest |= metrics
        self._lost = self._count_nonfinite(np.asarray(update["diag/nonfinite"]))
        self.repair.recorded(written, rollout, update, global_step - start_step)
        self.run.recorded(self)
        self.run.heartbeat()

    def fail_if_lost(self) -> None:
        """End the agent where its update had not one finite step and nobody takes it back."""
        lost, self._lost = self._lost, None
        if lost is None or self.state != "running" or self.repair.going_back_to is not None:
            return
        if self.is_alone:
            raise lost
        self.fail(lost)

    @property
    def update_is_over(self) -> bool:
        """Whether an intervention has ended the update that is being made."""
        return self.repair.engine.update_is_over

    def evaluate(self, iteration: int, policy: Policy, weights: Flat) -> None:
        """Backtest `policy` on the validation split; keep the weights if they are among the best; maybe stop early."""
        if not self.market:
            return
        clock = time.perf_counter()
        evaluation = self.evaluator(policy)
        self.take_in(iteration, evaluation, time.perf_counter() - clock, weights)
        self.run.decide("eval", [self])

    @cached_property
    def evaluator(self) -> Evaluator:
        """Walks this agent's validation split."""
        return self._make_evaluator()

    def take_in(self, iteration: int, evaluation: Evaluation, seconds: float, weights: Flat) -> None:
        """Write an evaluation that took `seconds`; keep `weights` if they are among the best; maybe stop early."""
        clock = time.perf_counter()
        metrics = dict(evaluation.metrics)
        seconds += time.perf_counter() - clock
        self._latest |= metrics
        row = self._row(iteration, self.global_step, time.time(), metrics | {"perf/evaluation_s": seconds})
        self.run.directory.append_metrics([row])
        event = evaluation.summary()
        event["metrics"] = metrics | {name: self._latest[name] for name in _CARRIED if name in self._latest}
        event["new_best"] = self._keep_if_best(metrics.get("eval/sharpe_ratio"), weights)
        self.journal("evaluation", **event)
        self.run.directory.write_histogram("equity", self.name, self.global_step, evaluation.equity_curves())
        progress = self.global_step / self.total_timesteps
        reason = self._early_stop.update(self.spec, metrics, self.global_step, progress)
        if reason and progress < 1:
            self.end_early(reason)
        self.repair.evaluated(row)
        self.run.heartbeat()

    def report_backtest(self, policy: Policy) -> None:
        """Backtest `policy` as `run.backtest` asks, and print the result as one line of JSON on stdout.

        A look at the test split is journalled before it is taken, and its result after.
        """
        backtest = self.run.backtest
        if backtest is None or not self.market:
            raise P3kitError(
                self.run.directory.name, "there is nothing to backtest on", "only runs on bars have splits"
            )
        told = {"agent": self.name, "global_step": backtest.global_step, "checkpoint": backtest.checkpoint}
        told["synthetic"] = self.market[self.symbol].synthetic
        if backtest.forward:
            print(BACKTEST_RESULT + json.dumps({**told, **self.forward_pass(policy, backtest.forward)}), flush=True)
            return
        if backtest.episodes:
            found = self.episodes(policy, backtest.split, backtest.episodes, backtest.global_step or 0)
            print(BACKTEST_RESULT + json.dumps(encode({**told, "episodes": found})), flush=True)
            return
        if backtest.final:
            looks = [e for e in self.run.directory.read_events("final_evaluation", agent=self.name) if "look" in e]
            self.run.directory.append_event("final_evaluation", **told, look=len(looks) + 1)
        evaluation = self._make_evaluator(backtest.split, final=backtest.final)(policy)
        summary = evaluation.summary()
        if backtest.final:
            self.run.directory.append_event("final_evaluation", **told, **summary)
        result = {
            **told,
            **summary,
            "supervised_return": self.spec.baselines.supervised_return(self.symbol),
            "curves": evaluation.equity_curves(),
        }
        print(BACKTEST_RESULT + json.dumps(encode(result)), flush=True)

    @torch.no_grad()
    def forward_pass(self, policy: Policy, rows: int) -> dict[str, int]:
        """Ask the policy about `rows` observations of a random walk, together and one by one.

        {rows, forbidden: actions that the mask closes, apart: actions that differ when asked alone}.
        """
        device = self.run.device
        env = make_trading_env(self.market, self.spec, symbols=[self.symbol], num_envs=rows, device=device)
        generator = self.new_generator("forward pass")
        step = env.reset(torch.rand(rows, generator=generator).to(device))
        for _ in range(20):
            noise = torch.rand(step.mask.shape, generator=generator).to(device)
            action = noise.masked_fill(~step.mask, -1).argmax(1)
            step = env.step(action, torch.rand(rows, generator=generator).to(device))
        observation = env.observe(step.index, step.account)
        together = policy(observation, step.mask)
        alone = torch.cat([policy(observation[i : i + 1], step.mask[i : i + 1]) for i in range(rows)])
        allowed = step.mask.gather(1, together.unsqueeze(1)).squeeze(1)
        return {"rows": rows, "forbidden": int((~allowed).sum()), "apart": int((together != alone).sum())}

    def episodes(self, policy: Policy, split: Split, count: int, global_step: int) -> list[dict[str, Any]]:
        """`count` windows of a split bar by bar, from the best paid to the worst paid; see `p3kit.runtime.replay`."""
        gamma = float(getattr(self.args_at(global_step), "gamma", 1.0))
        return replay_episodes(self._make_evaluator(split), policy, split, count, gamma)

    def _make_evaluator(self, split: Split = "validation", *, final: bool = False) -> Evaluator:
        bars = self.market[self.symbol]
        return Evaluator(self.spec, bars, self.symbol, self.seed, self.run.device, split=split, final=final)

    def write_histograms(
        self, env: TradingEnv | VectorTask, rollout: Rollout, account: Tensor, value: Tensor, gradient: Tensor
    ) -> None:
        """Write the distributions of the last rollout and gradient. account (R, K), value (R,), gradient (P,)."""
        counts = np.bincount(rollout.action.flatten(), minlength=env.num_actions)
        tables: dict[str, dict[str, Any]] = {
            "reward": reward_histogram(rollout),
            "actions": {"labels": list(env.action_names), "counts": counts.tolist()},
            "gradients": histogram(gradient.cpu().numpy()),
        }
        if isinstance(env, TradingEnv):
            bar = (1 - account[:, ACCOUNT_FIELDS.index("episode_left")]) * self.spec.env.episode_bars
            unrealised = account[:, ACCOUNT_FIELDS.index("unrealised_return")]
            tables["value_map"] = value_map(bar.cpu().numpy(), unrealised.cpu().numpy(), value.cpu().numpy())
        gamma = float(getattr(self.args_at(self.global_step), "gamma", 1.0))
        if (curve := reward_to_go_curve(rollout, gamma)) is not None:
            tables["reward_to_go"] = dict(curve)
        for kind, table in tables.items():
            self.run.directory.write_histogram(kind, self.name, self.global_step, table)

    def conclude(self) -> None:
        """Judge the agent at the weights that validation chose, and journal it. A stopped agent has no verdict yet."""
        events = [event for event in self.run.directory.read_events("evaluation") if event["agent"] == self.name]
        if self.state in ("stopped", "failed") or not events:
            return
        traded = [event for event in events if "eval/sharpe_ratio" in event["metrics"]]
        chosen = max(traded, key=lambda event: float(event["metrics"]["eval/sharpe_ratio"])) if traded else events[-1]
        metrics = chosen["metrics"] | self._value_of(chosen["global_step"])
        self._verdict = verdict(self.spec, self.symbol, metrics, self._nonfinite, chosen | {"metrics": metrics})
        self._verdict["ended_early"] = self._ended_early
        if self.repair.engine.fired:
            self._verdict["labels"].append("intervened")
        self.run.directory.append_event("verdict", agent=self.name, global_step=self.global_step, **self._verdict)

    def _value_of(self, chosen_step: int) -> dict[str, float]:
        """How well the chosen weights' value function explained returns.

        It is measured on the rollout that those weights made, which is the one after they were chosen; the rollout they
        were trained on had its values from the weights before. The last weights made none and keep the older number. A
        trainer of the user's may record neither.
        """
        series = self.run.directory.series(self.name)
        found: dict[str, float] = {}
        for name in ("value/explained_variance", "diag/ev_reference"):
            if name not in series:
                continue
            later = series[name].values[series[name].steps > chosen_step]
            if len(later):
                found[name] = float(later[0])
        return found

    def status(self) -> dict[str, Any]:
        """The agent's part of `status.json`."""
        latest = {key: self._latest.get(name) for key, name in _STATUS.items()}
        return {
            "symbol": self.symbol,
            "state": self.state,
            "global_step": self.global_step,
            "total_timesteps": self.total_timesteps,
            **latest,
            "interventions": self.repair.engine.fired,
            "last_intervention": self.repair.last,
            "verdict": self._verdict,
        }

    # ── resume ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def state_dict(self) -> Flat:
        state: Flat = {"global_step": self.global_step, "nonfinite": self._nonfinite}
        state["ended_early"], state["fault"] = self._ended_early, str(self.fault or "")
        state["generator"] = self.generator.get_state()
        state |= under("early_stop", self._early_stop.state_dict())
        state |= under("best", {str(step): sharpe for step, sharpe in self._best.items()})
        state |= under("latest", self._latest)
        state |= under("repair", self.repair.state_dict())
        state |= under("ledger", {name: torch.as_tensor(value) for name, value in self._ledger.state_dict().items()})
        return state

    def load_state_dict(self, state: Flat) -> None:
        """Restore what `state_dict` gave; the environment's state is the trainer's to load."""
        self.global_step, self._nonfinite = int(state["global_step"]), float(state["nonfinite"])
        self._ended_early = state["ended_early"]
        self.state = "done" if self._ended_early else "running"
        if state["fault"]:
            self.state, self.fault = "failed", P3kitError(self.name, state["fault"])
        self.generator.set_state(state["generator"].cpu())
        self._early_stop.load_state_dict(part("early_stop", state))
        self._best = {int(step): float(sharpe) for step, sharpe in part("best", state).items()}
        self._latest = dict(part("latest", state))
        self.repair.load_state_dict(part("repair", state))
        self._ledger.load_state_dict({name: value.cpu().numpy() for name, value in part("ledger", state).items()})

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _row(self, iteration: int, step: int, now: float, metrics: Mapping[str, float]) -> dict[str, Any]:
        return {
            "agent": self.name,
            "iteration": iteration,
            "global_step": step,
            "time": now,
            "metrics": dict(metrics),
        }

    def _effective(self, global_step: int) -> dict[str, float]:
        """Every scheduled value, those that interventions may move, and the dials that a reader looks for first, as
        they were in force; but for words such as "off"."""
        paths = {"ppo.learning_rate", "ppo.ent_coef", "ppo.clip_range", *self.spec.schedules}
        paths |= self.repair.engine.moved_keys() if self.repair.is_on else set()
        found = {path: self.repair.value(path, self.scheduled_at(path, global_step)) for path in sorted(paths)}
        return {f"effective/{path}": float(value) for path, value in found.items() if not isinstance(value, str)}

    def _count_nonfinite(self, nonfinite: np.ndarray[Any, Any]) -> NumericalFault | None:
        """Count and journal gradient steps that were thrown away; a fault where that is all of them."""
        if not nonfinite.any():
            return None
        self._nonfinite += float(nonfinite.sum())
        self.journal(
            "nonfinite",
            gradient_steps=len(nonfinite),
            thrown_away=int(nonfinite.sum()),
            first=int(np.flatnonzero(nonfinite)[0]),
        )
        if not nonfinite.all():
            return None
        return NumericalFault(
            f"{self.name} at step {self.global_step}",
            f"none of the {len(nonfinite)} gradient steps of this update was finite",
            f"p3kit diagnose {self.run.directory.name} names the first tensor that went wrong",
        )

    def _keep_if_best(self, sharpe: float | None, weights: Flat) -> bool:
        """Keep `best-<step>.pt` while it is among the `keep_best` by validation Sharpe; whether it is the best."""
        if sharpe is None:
            return False
        is_best = sharpe > max(self._best.values(), default=float("-inf"))
        self._best[self.global_step] = sharpe
        compress = self.spec.checkpoints.compress
        save_checkpoint(self._best_path(self.global_step), weights, compress=compress)
        while len(self._best) > self.spec.checkpoints.keep_best:
            worst = min(self._best, key=lambda step: self._best[step])
            del self._best[worst]
            self._best_path(worst).unlink(missing_ok=True)
        return is_best

    def _best_path(self, step: int) -> Path:
        return self.run.directory.checkpoint(f"best-{step:09d}", agent=None if len(self.run.agents) == 1 else self.name)


_STATUS = {
    "steps_per_second": "perf/steps_per_second",
    "sharpe": "eval/sharpe_ratio",
    "entropy_norm": "policy/entropy_norm",
    "hold_share": "policy/hold_share",
}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation was refused: by the device, or by the CPU's allocator that has no exception of its own."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)


def memory_mb() -> float:
    """Peak resident memory of this process in MB (kilobytes on Linux, bytes on macOS)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def _device(spec: Spec) -> torch.device:
    wanted = spec.compute.device
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise P3kitError(f"compute.device = {wanted!r}", "this machine has no CUDA device", 'use "auto" or "cpu"')
    return torch.device(wanted)


def _precision(spec: Spec, device: torch.device) -> torch.dtype:
    wanted = spec.compute.precision
    if wanted == "auto":
        if device.type == "cpu":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[wanted]
