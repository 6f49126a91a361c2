"""A run of K agents as one tensor program, for its trainer: one call per concern.

    with StackRun(Args, load_policy, __file__) as run:
        for stack in run.stacks():                        # one stack, and smaller ones as agents end
            env = stack.make_env()                        # row n·K + k is env n of agent k
            networks, optimizer = Networks(...), AdamW(...)
            step = stack.resume(networks, {"optimizer": optimizer, ...})
            for global_step, in_force in stack.iterations():  # schedules and interventions applied
                ...                                       # rollout, advantages, loss: the trainer's own
                stack.record(...)                         # metrics, evaluation, interventions, checkpoints

It does for every agent what `AgentRun` does for one.

Notation for shapes: K agents, T steps, N envs of an agent, R = T·N rows, B sampled rows, D observation values, A
actions, C reward components, G gradient steps, M metrics, P weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from p3kit.env import Timestep, TradingEnv
from p3kit.errors import P3kitError
from p3kit.runtime.agent import Agent
from p3kit.runtime.checkpoints import Flat, under
from p3kit.runtime.entry import open_run
from p3kit.runtime.evaluation import StackPolicy
from p3kit.runtime.evidence import movement, sample_rows, update_ratio
from p3kit.runtime.iteration import Iteration, Sample, evidence_of, rollout_tables
from p3kit.runtime.loss_input import LossCheck
from p3kit.runtime.pieces import Attempt, Pieces
from p3kit.runtime.policy import LoadPolicy
from p3kit.runtime.realised import known, optimiser_settings, realised_settings
from p3kit.runtime.recording import Rollout
from p3kit.runtime.reinit import reinit_agent
from p3kit.runtime.rollout_check import RolloutCheck, as_metrics
from p3kit.runtime.run import Run
from p3kit.runtime.scaling import Rewards, RewardScaler
from p3kit.runtime.stacking import (
    AdamW,
    Draws,
    DropoutMasks,
    ObservationScalers,
    Weights,
    draw,
    masks_of_rows,
    select_agents,
    split_agents,
    stack_draws,
    stack_setting,
    to_rows,
    unstack_network,
)
from p3kit.runtime.trainer_state import Part, Registry
from p3kit.runtime.transfer import to_host

A = TypeVar("A")
RATIO_ERROR = "policy/ratio_error"
"""A metric of the first gradient step of an update alone: mean |ratio − 1|, which is 0 before any step."""


class Networks(Protocol):
    """The networks of K agents. A trainer defines them; a stack calls them when an update is over."""

    weights: Weights
    """The weights that each agent has of its own, (K, …); `policy` and `value` layers, see `layers_of_agent`."""
    output_layers: int
    """Layers of a head that `reinit` of that head resets."""

    def initial_weights(self, generator: torch.Generator) -> Weights:
        """New initial weights of one agent, (1, …)."""

    def flat(self) -> Tensor:
        """All weights that an agent acts by, (K, P)."""

    def log_probs(self, agents: Sequence[int] | slice, observation: Tensor, mask: Tensor) -> Tensor:
        """Log-probabilities (k, B, A) of some agents or all; observations (k, B, D), masks (k, B, A)."""

    def inspect(
        self, observation: Tensor, mask: Tensor, dropout: DropoutMasks | None
    ) -> tuple[Tensor, Sequence[Tensor], Sequence[Tensor], Mapping[str, Tensor]]:
        """Of observations (K, B, D): log-probabilities (K, B, A) under the rollout's dropout; activations (K, B, width)
        of each hidden layer without it, of the policies and of the values; further metrics (K,)."""

    def of_agent(self, agent: int) -> Flat:
        """The weights of one agent's policy, as `load_policy` takes them."""


class StackRun(Generic[A]):
    """One trainer process, its run directory and its agents. Use as a context manager: it reports how the run ended.

    A trainer that is started for a backtest ends in the constructor, with the result printed.
    """

    def __init__(self, args_type: type[A], load_policy: LoadPolicy, trainer_file: str) -> None:
        self._run = open_run(args_type, trainer_file, load_policy)

    def __enter__(self) -> StackRun[A]:
        self._run.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run.__exit__(kind, error, trace)

    def stacks(self) -> Iterator[Stack[A]]:
        """The agents that train, as one stack. A smaller stack of the rest follows when half of them have ended and it
        saves time, and one with new arguments at the start of an extension."""
        state = self._run.resumed
        by_name = {agent.name: agent for agent in self._run.agents}
        agents = self._run.agents if state is None else [by_name[name] for name in state["agents"].split("\n")]
        while agents:
            stack = Stack(self._run, agents, state)
            yield stack
            kept = [k for k, agent in enumerate(agents) if stack.is_extended or agent.state == "running"]
            agents, state = [agents[k] for k in kept], stack.state_of(kept)
        for agent in self._run.agents:
            agent.conclude()


class Stack(Generic[A]):
    """K agents of equal shapes that train together."""

    def __init__(self, run: Run[A], agents: Sequence[Agent[A]], state: Flat | None) -> None:
        """`state` is where the stack stands, None at the beginning of a run."""
        self._run, self._agents, self._resumed = run, list(agents), state
        self.device, self.precision, self.count = run.device, run.precision, len(agents)
        begin = 0 if state is None else int(state["global_step"])
        first = next((agent for agent in agents if agent.state == "running"), agents[0])
        self.args: A = first.args_at(begin)
        """The arguments as the stack begins. Sizes and words are the same in all agents of a stack."""
        self._segment = first.segments.starting(begin)
        self.is_extended = False
        """True once an extension begins, for which a new stack of the same agents is made."""
        self.seed: int = agents[0].seed
        self._registry = Registry()
        self._pieces = Pieces(agents[0].spec.ppo.batch_size, run.smaller_minibatch)
        self._iteration, self._global_step = 0, 0
        # The scalar environment keeps its books in lists, which cannot be split by agent.
        self._can_shrink = agents[0].spec.env.backend == "batched"
        self._is_compiled = False

    # ── before training ──────────────────────────────────────────────────────────────────────────────────────────────

    def make_env(self) -> TradingEnv:
        """One training environment for all agents, on the run's device: row n·K + k is env n of agent k."""
        self._env = self._run.make_env(self._agents)
        self._num_envs = self._env.num_envs // self.count
        self._scale_observation = ObservationScalers(
            [agent.observation_scaler(self._env.observation_size) for agent in self._agents]
        )
        self._scale_reward: RewardScaler = self._agents[0].reward_scaler(self._num_envs, self._agents)
        self._check: RolloutCheck | None = self._agents[0].rollout_check(self._agents)
        self._loss_check = LossCheck(self._env, self.precision, self.count)
        return self._env

    def generators(self, purpose: str) -> list[torch.Generator]:
        """A generator on the CPU for each agent, seeded by (purpose, seed, symbol)."""
        return [agent.new_generator(purpose) for agent in self._agents]

    def compiled(self, function: Callable[..., Any], pays_from: float) -> Callable[..., Any]:
        """`function` under `compute.compile`; on a CPU where the run takes at least `pays_from` env steps."""
        compiled: Callable[..., Any] = self._run.compiled(function, pays_from=pays_from)
        self._is_compiled |= compiled is not function
        return compiled

    def resume(
        self, networks: Networks, optimizer: AdamW, parts: Mapping[str, Part], shared: Mapping[str, Part] | None = None
    ) -> Timestep:
        """Register what checkpoints keep, and return the timestep at which the environment stands: its first one, or
        where the run was interrupted.

        `parts` have a first dimension that counts the agents; `shared` belong to all of them, and go back when every
        agent does. Scalers, environment and `optimizer` are kept beside them.
        """
        self._networks, self._optimizer, self._shared = networks, optimizer, list(shared or ())
        self._registry.add({**parts, "optimizer": optimizer})
        self._registry.add({"observation": self._scale_observation, "reward": self._scale_reward})
        self._registry.add({**(shared or {}), "env": self._env}, rolls_back=False)
        state = self._resumed
        if state is None:
            self._load_initial()
            starts = [torch.rand(self._num_envs, generator=agent.generator) for agent in self._agents]
            return self._env.reset(torch.stack(starts, 1).flatten().to(self.device))
        self._iteration, self._global_step = state["iteration"], state["global_step"]
        self._pieces.size = state["minibatch"]
        step: Timestep = self._registry.load_state_dict(state)["env"]
        return step

    # ── while training ───────────────────────────────────────────────────────────────────────────────────────────────

    def iterations(self) -> Iterator[tuple[int, list[A]]]:
        """(env steps taken, each agent's arguments in force) at the start of each iteration, until all agents have
        ended, or half of them, or an extension begins. Every iteration ends with `record`."""
        if self._resumed is None:
            self._run.save_checkpoint("init", self._state())
        while True:
            start = self._global_step
            self._running = [a for a in self._agents if a.state == "running" and not a.finished(start)]
            if not self._running or (len(self._running) <= self.count // 2 and self._shrinking_pays(start)):
                return
            if self._running[0].segments.starting(start) != self._segment:
                self.is_extended = True
                return
            self._iteration += 1
            self._run.begin_iteration()
            self._in_force = [agent.args_at(start) for agent in self._agents]
            self._before = self._networks.flat()
            self._own_before = {name: own.clone() for name, own in self._networks.weights.items()}
            if self._check is not None:
                self._check.begin(self._env)
            self._loss_check.begin()
            self._clocks = [time.perf_counter()]
            yield start, self._in_force
            if self._global_step == start:
                raise P3kitError(self._run.directory.name, "an iteration ended without record", "call it once")

    def _shrinking_pays(self, start: int) -> bool:
        """Return whether a smaller stack saves time: where steps are compiled, for four more rollouts at least, since
        each size is compiled for itself, which takes as long as a few rollouts."""
        args: Any = self.args
        left = args.total_timesteps - start
        return self._can_shrink and (not self._is_compiled or left >= 4 * args.n_steps * self._num_envs)

    def live(self) -> Tensor:
        """(K,) bool: agents that still train. The others keep their place and do not change."""
        return torch.tensor([agent in self._running for agent in self._agents], device=self.device)

    def draws(
        self,
        shape: tuple[int, int, int],
        noise: Callable[[tuple[int, ...], torch.Generator], Tensor],
        dropout: Callable[[A, int, torch.Generator], DropoutMasks | None],
    ) -> Draws:
        """Every random number of an iteration of `shape` (T, N, A), each agent's from its own generator."""
        args: Any = self.args
        drawn = []
        for agent, own in zip(self._agents, self._in_force, strict=True):
            generator = agent.generator if agent.state == "running" else None
            drawn.append(draw(generator, shape, args.n_epochs, noise, partial(dropout, own)))
        return stack_draws(drawn, self.device)

    def observe(self, index: Tensor, account: Tensor) -> Tensor:
        """Observations (K, B, D) for the networks: gathered, clipped, and normalised by the spec."""
        self._run.heartbeat()
        self._loss_check.observe(index, account)
        return self._scale_observation(self._env.observe(index, account))

    def scale_reward(
        self, components: Tensor, action: Tensor, done: Tensor, gamma: Tensor, extra: Tensor | None = None
    ) -> tuple[Tensor, Rewards]:
        """Rewards (T, N, K) of a rollout, and their parts for the record.

        components (T, N, K, C) times the weights in force, plus `reward.action_bonus` and `extra` (T, N, K), then
        `reward.scaling` and `reward.clip`. An agent whose environment met a number that is not finite has failed.
        """
        for row, fault in self._env.faults().items():
            agent = self._agents[row % self.count]
            if agent in self._running:
                agent.fail(fault)
                self._running.remove(agent)
        self._clocks.append(time.perf_counter())
        weights = torch.stack([agent.reward_weights_at(self._global_step) for agent in self._agents])
        rates = [agent.value_at("reward.action_bonus", self._global_step) for agent in self._agents]
        bonus = torch.tensor(rates, device=self.device) * (action != 0)
        bonus = bonus if extra is None else bonus + extra
        weighted = components.double() * weights
        scaled, clipped, scale = self._scale_reward(weighted.sum(-1) + bonus, done, gamma)
        return scaled, Rewards(scaled, clipped, scale, weighted, bonus)

    def autocast(self) -> AbstractContextManager[Any]:
        """The number format of forward passes, `compute.precision`."""
        return self._run.autocast()

    @property
    def iteration(self) -> int:
        """Number of this iteration, from 1."""
        return self._iteration

    @property
    def minibatch(self) -> int:
        """Rows of a whole piece: `batch_size`, or less after memory ran out."""
        return self._pieces.size

    def pieces(self, rows: int) -> Iterator[tuple[slice, float, Attempt]]:
        """A batch of `rows` in pieces of at most `batch_size` that fit into memory: see `p3kit.runtime.pieces`."""
        return self._pieces(rows)

    def learns_from(self, rows: Tensor, batch: Any) -> None:
        """Keep some minibatches for the diagnosis, as the loss gets them: see `AgentRun.learns_from`.

        rows (K, B) of each agent's flat rollout (T·N), and a NamedTuple of columns (K, B, …).
        """
        self._loss_check.take(rows, batch)

    @property
    def encoder_is_frozen(self) -> bool:
        """An intervention keeps a shared encoder as it is."""
        return self._run.encoder_is_frozen

    def record(
        self,
        buffer: Any,
        rewards: Rewards,
        next_value: Tensor,
        advantage: Tensor,
        returns: Tensor,
        names: Sequence[str],
        update: Tensor,
        *,
        epochs: Tensor,
        gradient: Tensor,
        dropout: DropoutMasks | None,
        extra: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Write each agent's metrics of an iteration and its evidence for the diagnosis. Then do what is due: evaluate,
        let interventions act, save a checkpoint.

        Tables of the rollout are (T, N, K, …). `update` is (G, K, M) with the metrics `names`, `epochs` (K,) counts the
        epochs of each agent, and `gradient` (K, P) is the last one. `dropout` are masks (K, N, width) of layers, and
        `extra` are further metrics (K,).
        """
        args: Any = self.args
        start, rows = self._global_step, advantage.shape[0] * self._num_envs
        learnt = min(rows, args.total_timesteps - start)
        steps_per_epoch = math.ceil(learnt / (args.batch_size * args.accumulation_steps))
        gradient_steps = [int(count) * steps_per_epoch for count in epochs.tolist()]
        gamma, gae_lambda = (stack_setting(self._in_force, name, self.device) for name in ("gamma", "gae_lambda"))
        iterations = [
            Iteration(
                type(buffer)(*(column[:, :, k] for column in buffer)),
                Rewards(*(column[..., k, :] if column.dim() == 4 else column[..., k] for column in rewards)),
                next_value[..., k],
                advantage[..., k],
                returns[..., k],
                gamma[k],
                gae_lambda[k],
                same_step=True,
            )
            for k in range(self.count)
        ]
        updates = [{name: update[: gradient_steps[k], k, i] for i, name in enumerate(names)} for k in range(self.count)]
        with torch.no_grad():
            observation, evidence = self._evidence(buffer, iterations, dropout, updates, epochs.tolist(), extra or {})
            self._scale_observation.update(observation)
        self._clocks.append(time.perf_counter())
        rollouts = self._write(iterations, evidence, names, update, gradient_steps, epochs, start + learnt)
        self._evaluate(start, rollouts, iterations, gradient)
        self._act(observation)
        due = any(a.state != "running" or a.due(a.spec.checkpoints.every, start) for a in self._running)
        if due or self._run.stop_requested:
            self._run.save_checkpoint("last", self._state())

    def state_of(self, agents: Sequence[int]) -> Flat:
        """State of the stack, for some agents alone."""
        if len(agents) == self.count:
            return self._state()
        return select_agents(self._state(), agents, self._shared)

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _load_initial(self) -> None:
        """Load the weights of the spec's `[init]`, if there is one."""
        found = {k: self._run.initial_weights(agent) for k, agent in enumerate(self._agents)}
        initial = {k: weights for k, weights in found.items() if weights is not None}
        for k, weights in initial.items():
            weights.load_into_stack(self._registry, self._networks, self._shared, k)
        for k, weights in initial.items():
            weights.verify(self._registry, self._networks, self._shared, k)

    def _state(self) -> Flat:
        return {
            "agents": "\n".join(agent.name for agent in self._agents),
            "iteration": self._iteration,
            "global_step": self._global_step,
            "minibatch": self._pieces.size,
            **self._registry.state_dict(),
        }

    def _evidence(
        self,
        buffer: Any,
        iterations: Sequence[Iteration],
        dropout: DropoutMasks | None,
        updates: Sequence[Mapping[str, Tensor]],
        epochs: Sequence[float],
        extra: Mapping[str, Tensor],
    ) -> tuple[Tensor, list[dict[str, Tensor]]]:
        """Sampled observations (K, B, D) as the environment returns them, and each agent's metrics."""
        index, account, mask = (to_rows(table) for table in (buffer.index, buffer.account, buffer.mask))
        rows = sample_rows(iterations[0].rows, self.device)
        raw = self._env.observe(index[:, rows], account[:, rows])
        observation = self._scale_observation(raw)
        masks = masks_of_rows(dropout, (rows % self._num_envs).expand(self.count, -1))
        log_probs, policy, value, more = self._networks.inspect(observation, mask[:, rows], masks)
        log_prob = log_probs.gather(-1, to_rows(buffer.action)[:, rows].unsqueeze(-1)).squeeze(-1)
        after, tables = self._networks.flat(), self._loss_check.tables()
        differing = self._mismatches(buffer, tables, raw, index[:, rows], account[:, rows])
        found = []
        for k, iteration in enumerate(iterations):
            sample = Sample(
                rows,
                observation[k],
                log_prob[k],
                [layer[k] for layer in policy],
                [layer[k] for layer in value],
                self._env.observation_stats(index[k, rows], account[k, rows]),
                relu=getattr(self._in_force[k], "activation", "") == "relu",
            )
            first, steps = updates[k][RATIO_ERROR], len(updates[k][RATIO_ERROR])
            moved = update_ratio(self._before[k], after[k], steps)
            own = evidence_of(iteration, sample, moved, first[0] if steps else torch.full_like(moved, torch.nan))
            if steps:
                own |= self._movement(k, after[k], iteration, sample, updates[k], round(epochs[k]))
            departing = {name: values[k] for name, values in differing.items()}
            departing |= self._loss_check.compare(iteration, tables, updates[k], self._in_force[k], k)
            found.append(own | {name: values[k] for name, values in {**more, **extra}.items()} | as_metrics(departing))
        return raw, found

    def _movement(
        self, k: int, after: Tensor, iteration: Iteration, sample: Sample, update: Mapping[str, Tensor], epochs: int
    ) -> dict[str, Tensor]:
        """Change of each part of agent k's network by an update, and the settings that the update realised."""
        args: Any = self._in_force[k]
        before, now = (unstack_network(stack, k) for stack in (self._own_before, self._networks.weights))
        largest = torch.stack([(now[name] - own).abs().max() for name, own in before.items()]).max()
        own_size, steps = sum(own.numel() for own in now.values()), len(update[RATIO_ERROR])
        if own_size < len(after):  # what comes before the agent's own weights is shared
            before |= {"encoder.all": self._before[k][:-own_size]}
            now |= {"encoder.all": after[:-own_size]}
        settings = optimiser_settings(args, (), largest, steps, update["grad/grad_norm"][-1], ())
        left = args.total_timesteps - self._global_step
        return (
            movement(before, now, steps) | settings | realised_settings(iteration, sample, args, update, epochs, left)
        )

    def _mismatches(
        self, buffer: Any, tables: Mapping[str, Tensor], observation: Tensor, index: Tensor, account: Tensor
    ) -> dict[str, Tensor]:
        """Per field of the rollout, the fraction (K,) of each agent's rows that depart from a replay."""
        if self._check is None:
            return {}
        rows = self._check.compare(type(buffer)(*(column.flatten(1, 2) for column in buffer))._replace(**tables))
        shares = {name: split_agents(own, self.count).mean(0) for name, own in rows.items()}
        each = [self._check.compare_observations(*own) for own in zip(observation, index, account, strict=True)]
        shares |= {name: torch.stack([own[name] for own in each]) for name in each[0]}
        shares |= {name: share.expand(self.count) for name, share in self._check.departing_features.items()}
        return shares

    def _write(
        self,
        iterations: Sequence[Iteration],
        evidence: Sequence[Mapping[str, Tensor]],
        names: Sequence[str],
        update: Tensor,
        gradient_steps: Sequence[int],
        epochs: Tensor,
        end_step: int,
    ) -> dict[int, Rollout]:
        """Record every agent that still trains, after one transfer from the device; returns their rollouts."""
        began, rewarded, ended = self._clocks
        start, self._global_step = self._global_step, end_step
        values = [torch.stack([value.double() for value in own.values()]) for own in evidence]
        tables = [rollout_tables(each.buffer, each.rewards, 1.0) for each in iterations]
        numbers, arrays, steps, epochs_done = to_host((values, tables, update, epochs))
        rollouts = {}
        for k, agent in enumerate(self._agents):
            if agent not in self._running:
                continue
            rollout = Rollout(**arrays[k])
            rollouts[k] = replace(rollout, equity=rollout.equity / agent.spec.env.initial_capital)
            own = {name: steps[: gradient_steps[k], k, i] for i, name in enumerate(names) if name != RATIO_ERROR}
            shown = known(zip(evidence[k], numbers[k].tolist(), strict=True))
            whole = (
                shown
                | self._loss_check.changes(shown, k)
                | {
                    "policy/epochs_done": float(epochs_done[k]),
                    "reward/scale_steps": self._scale_reward.steps,
                    "perf/rollout_s": rewarded - began,
                    "perf/update_s": ended - rewarded,
                }
            )
            agent.record(self._iteration, start, end_step, rollouts[k], own, whole)
        return rollouts

    def _evaluate(
        self, start: int, rollouts: Mapping[int, Rollout], iterations: Sequence[Iteration], gradient: Tensor
    ) -> None:
        """Backtest together all agents whose turn it is, and write the distributions of their last rollouts."""
        due = [
            k
            for k, agent in enumerate(self._agents)
            if agent in self._running and agent.state == "running" and agent.evaluates(start)
        ]
        if not due:
            return
        self._run.evaluate([self._agents[k] for k in due], self._iteration, self._policy(due), self._policy_state)
        for k in due:
            buffer = iterations[k].buffer
            account, value = buffer.account.flatten(0, 1), buffer.value.flatten()
            self._agents[k].write_histograms(self._env, rollouts[k], account, value, gradient[k])

    def _policy(self, agents: Sequence[int]) -> StackPolicy:
        # a trainer of an earlier p3kit has `act`, which returns the most probable actions
        networks: Any = self._networks
        log_probs = getattr(networks, "log_probs", None) or networks.act
        chosen = slice(None) if len(agents) == len(self._agents) else agents  # a slice copies no weights

        def policy(observation: Tensor, mask: Tensor) -> Tensor:
            with self._run.autocast():
                found: Tensor = log_probs(chosen, self._scale_observation(observation, agents), mask)
                return found

        return policy

    def _policy_state(self, agent: Agent[A]) -> Flat:
        k = self._agents.index(agent)
        statistics = under("reward", self._scale_reward.statistics(k))
        return self._networks.of_agent(k) | under("observation", self._scale_observation.of_agent(k)) | statistics

    def _act(self, observation: Tensor) -> None:
        """Roll back and draw new weights if an intervention requires it; observations (K, B, D) of the last rollout."""
        self._run.save_snapshot(self._running, self._state)
        back = dict(self._run.rolled_back(self._agents))
        for k, earlier in back.items():
            self._registry.go_back(earlier, k, earlier["agents"].split("\n").index(self._agents[k].name))
        going = [agent for agent in self._running if agent.state == "running"]
        if back and all(self._agents.index(agent) in back for agent in going):
            oldest = min(back.values(), key=lambda earlier: int(earlier["global_step"]))
            self._registry.load_state_dict(oldest, self._shared)
        for k, name, generator in self._run.reinitialised(self._agents):
            fresh, networks = self._networks.initial_weights(generator), self._networks
            with torch.no_grad():
                seen = self._scale_observation(observation)
                _, policy, value, _ = networks.inspect(seen, _open(seen, self._env.num_actions), None)
            activations = {"policy": [layer[k] for layer in policy], "value": [layer[k] for layer in value]}
            reinit_agent(networks.weights, fresh, self._optimizer.moments, name, activations, k, networks.output_layers)


def _open(observation: Tensor, num_actions: int) -> Tensor:
    """Masks (K, B, A) under which every action is valid."""
    return torch.ones(*observation.shape[:2], num_actions, dtype=torch.bool, device=observation.device)
