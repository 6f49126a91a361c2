"""A run of one agent, for its trainer: one call per concern.

    with AgentRun(Args, load_policy, __file__) as run:
        env = run.make_env()
        net = ActorCritic(...)
        forward, backward, fast_step, grad_scaler = run.prepare(net, loss, optimizer)
        step = run.resume(net=net, optimizer=optimizer) or env.reset(...)
        for global_step, args in run.iterations():     # schedules and interventions applied
            ...                                        # rollout, advantages, loss: the trainer's own
            run.record(...)                            # metrics, evaluation, interventions, checkpoints

The trainer owns the algorithm. The run owns files, clocks, schedules, evaluation and the state in checkpoints.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from types import TracebackType
from typing import Any, Generic, TypeVar, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from p3kit.env import Timestep, TradingEnv, VectorTask
from p3kit.errors import InputError, P3kitError
from p3kit.runtime.checkpoints import Flat, under
from p3kit.runtime.entry import open_run
from p3kit.runtime.evidence import movement, sample_rows, update_ratio
from p3kit.runtime.gradient_step import gradient_function, is_supported, moments_of, step_function
from p3kit.runtime.iteration import Iteration, RolloutBuffer, Sample, evidence_of, rollout_tables
from p3kit.runtime.loss_input import LossCheck
from p3kit.runtime.pieces import Attempt, Pieces
from p3kit.runtime.policy import LoadPolicy, load_weights, sizes_on_bars
from p3kit.runtime.realised import known, optimiser_settings, realised_settings
from p3kit.runtime.recording import Rollout
from p3kit.runtime.reinit import reinit_part
from p3kit.runtime.rollout_check import RolloutCheck, as_metrics
from p3kit.runtime.scaling import ObservationScaler, Rewards, RewardScaler
from p3kit.runtime.trainer_state import Registry, Stateful
from p3kit.runtime.transfer import to_host

A = TypeVar("A")
Backward = Callable[..., tuple[Tensor, Tensor]]
FastStep = Callable[[float], tuple[Tensor, Tensor]]
RATIO_ERROR = "policy/ratio_error"
"""A metric of the first gradient step of an update alone: mean |ratio − 1|, which is 0 before any step."""


PAYS_FROM = 150_000
"""Smallest number of env steps of a run for which compiling (half a minute on a CPU) saves time."""


def flat(weights: Mapping[str, Tensor]) -> Tensor:
    """All weights as one vector."""
    return torch.cat([one.flatten() for one in weights.values()])


class AgentRun(Generic[A]):
    """One trainer process, its run directory and its one agent. Use as a context manager: it reports how the run ended.

    A trainer that is started for a backtest ends in the constructor, with the result printed.
    """

    def __init__(self, args_type: type[A], load_policy: LoadPolicy, trainer_file: str) -> None:
        self._run = open_run(args_type, trainer_file, load_policy)
        self._load_policy = load_policy
        self._agent = self._run.agent
        self.args: A = self._agent.args_at(0)
        """The arguments at the start of training."""
        self.device: torch.device = self._run.device
        self._registry = Registry()
        self._pieces = Pieces(self._agent.spec.ppo.batch_size, self._run.smaller_minibatch)
        self._iteration = 0

    def __enter__(self) -> AgentRun[A]:
        self._run.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run.__exit__(kind, error, trace)

    # ── before training ──────────────────────────────────────────────────────────────────────────────────────────────

    def generator(self, purpose: str) -> torch.Generator:
        """A generator on the CPU, seeded by (purpose, seed, symbol). Checkpoints keep the state of "agent"."""
        return self._agent.generator if purpose == "agent" else self._agent.new_generator(purpose)

    def make_env(self) -> TradingEnv | VectorTask:
        """The training environment on the run's device: N rows of one symbol, or of a Gymnasium or EnvPool task."""
        self._env = self._agent.make_env()
        if self._env.autoreset == "next_step" and getattr(self.args, "n_steps", 2) < 2:
            what = "1: this task restarts in a step of its own, so a rollout of one step can be without an action"
            raise InputError("ppo.n_steps", what, "use at least 2")
        self._scale_observation: ObservationScaler = self._agent.observation_scaler(self._env.observation_size)
        self._scale_reward: RewardScaler = self._agent.reward_scaler(self._env.num_envs)
        self._check: RolloutCheck | None = self._agent.rollout_check()
        self._loss_check = LossCheck(self._env, self._run.precision)
        return self._env

    @overload
    def prepare(self, net: nn.Module) -> tuple[Callable[..., Any], torch.amp.GradScaler]: ...

    @overload
    def prepare(
        self, net: nn.Module, loss: Callable[..., Any]
    ) -> tuple[Callable[..., Any], Callable[..., Any], torch.amp.GradScaler]: ...

    @overload
    def prepare(
        self, net: nn.Module, loss: Callable[..., Any], optimizer: torch.optim.Optimizer
    ) -> tuple[Callable[..., Any], Backward, FastStep | None, torch.amp.GradScaler]: ...

    def prepare(
        self, net: nn.Module, loss: Callable[..., Any] | None = None, optimizer: torch.optim.Optimizer | None = None
    ) -> Any:
        """`net` as a function under `compute.compile` and autocast of `compute.precision`, and its gradient scaler.

        With `loss`, between the two, net and loss as one function: (observation, dropout masks, *what `loss` takes
        after the outputs of `net`).

        With `optimizer` as well, in place of that function: `backward`, the same but for a share of the batch before
        the settings. It adds the gradient of share · loss to `.grad`, and returns loss and statistics, detached. Then
        a function of `max_grad_norm` that clips the gradient and takes a step unless that is not finite, and returns
        the norm and whether it took none. It is None where nothing is compiled, or where the optimizer is not AdamW
        with betas 0.9 and 0.999 and eps 1e-5.
        """
        self._grad_scaler = self._run.grad_scaler()
        if loss is None:
            return self._fast(net), self._grad_scaler

        def net_and_loss(observation: Tensor, dropout: Any, *rest: Any, **settings: Any) -> Any:
            return loss(*net(observation, dropout), *rest, **settings)

        if optimizer is None:
            return self._fast(net), self._fast(net_and_loss), self._grad_scaler
        backward, fast_step = self._gradient_step(net, loss, net_and_loss, optimizer)
        return self._fast(net), backward, fast_step, self._grad_scaler

    def _gradient_step(
        self, net: nn.Module, loss: Callable[..., Any], net_and_loss: Callable[..., Any], optimizer: Any
    ) -> tuple[Backward, FastStep | None]:
        """The functions of `prepare` for a gradient: compiled for whole minibatches, as they are for others."""
        plain, scaler = self._fast(net_and_loss), self._grad_scaler
        names, parameters = zip(*net.named_parameters(), strict=True)
        find_gradient = gradient_function(net, loss, self._run.precision)
        compiled = self._run.compiled(find_gradient, pays_from=PAYS_FROM)
        step = self._run.compiled(step_function(optimizer), pays_from=PAYS_FROM)
        is_fast = compiled is not find_gradient and not scaler.is_enabled() and is_supported(optimizer, parameters)

        def backward(
            observation: Tensor, dropout: Any, rows: Any, share: float, **settings: Any
        ) -> tuple[Tensor, Tensor]:
            if not is_fast or len(observation) != self._pieces.size:
                value, stats = plain(observation, dropout, rows, **settings)
                scaler.scale(value * share).backward()
                return value.detach(), stats
            own = {name: weights.detach() for name, weights in zip(names, parameters, strict=True)}
            gradient, value, stats = compiled(own, observation, dropout, rows, **self._scalars(settings))
            for weights, grad in zip(parameters, gradient.values(), strict=True):
                part = grad if share == 1 else grad * share
                weights.grad = part if weights.grad is None else weights.grad + part
            return value, stats

        @torch.no_grad()
        def fast_step(max_grad_norm: float) -> tuple[Tensor, Tensor]:
            (group,) = optimizer.param_groups
            knobs = [self._scalar(one) for one in (group["lr"], group["weight_decay"], max_grad_norm)]
            own = [weights.detach() for weights in parameters]
            norm, skipped = step(own, [weights.grad for weights in parameters], *moments_of(optimizer), *knobs)
            return norm, skipped

        return backward, fast_step if is_fast else None

    def _fast(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, whose first argument is a batch. Batches of a rollout step and of a whole minibatch are compiled.
        Others are rare and of many sizes, and each size would need its own compilation. So would each float."""
        compiled, autocast = self._run.compiled(function, pays_from=PAYS_FROM), self._run.autocast

        def call(observation: Tensor, *rest: Any, **settings: Any) -> Any:
            with autocast():
                if compiled is function or len(observation) not in (self._env.num_envs, self._pieces.size):
                    return function(observation, *rest, **settings)
                return compiled(observation, *rest, **self._scalars(settings))

        return call

    def _scalars(self, settings: dict[str, Any]) -> dict[str, Any]:
        """`settings` with a tensor for each float: a compiled function takes any of its values."""
        return {name: self._scalar(one) if isinstance(one, float) else one for name, one in settings.items()}

    @cache  # noqa: B019  it lives as long as its process
    def _scalar(self, number: float) -> Tensor:
        return torch.tensor(number, device=self.device)

    def resume(self, net: nn.Module, optimizer: torch.optim.Optimizer, **parts: Stateful) -> Timestep | None:
        """Register the contents of checkpoints, beside scalers and environment. If the run is resumed, restore all of
        it and return the current timestep of the environment. None if the run begins, with new weights or those of the
        spec's `[init]`.

        `net` has children `policy` and `value`. Each is called as (observation, dropout masks), has
        `hidden(observation)`, a list of (B, width) activations, and `nn.Linear` layers from observation to output.
        `net.reset_parameters(generator)` gives it new initial weights.
        """
        self._net, self._optimizer = net, optimizer
        self._registry.add(
            {
                "net": net,
                "optimizer": optimizer,
                **parts,
                "grad_scaler": self._grad_scaler,
                "observation": self._scale_observation,
                "reward": self._scale_reward,
            }
        )
        self._registry.add({"env": self._env}, rolls_back=False)
        state = self._run.resumed
        if state is None:
            if (initial := self._run.initial_weights(self._agent)) is not None:
                initial.load_alone(self._registry)
            return None
        self._iteration, self._pieces.size = state["iteration"], state["minibatch"]
        step: Timestep = self._registry.load_state_dict(state)["env"]
        return step

    # ── while training ───────────────────────────────────────────────────────────────────────────────────────────────

    def iterations(self) -> Iterator[tuple[int, A]]:
        """(env steps taken, arguments in force) at the start of each iteration, until training ends. Every iteration
        ends with `record`."""
        if self._run.resumed is None:
            self._run.save_checkpoint("init", self._state())
        while not self._agent.finished(self._agent.global_step):
            self._iteration += 1
            self._run.begin_iteration()
            self._start_step = self._agent.global_step
            self._args = self._agent.args_at(self._start_step)
            self._before = {name: weights.detach().clone() for name, weights in self._net.named_parameters()}
            if self._check is not None and isinstance(self._env, TradingEnv):
                self._check.begin(self._env)
            self._loss_check.begin()
            self._clocks = [time.perf_counter()]
            yield self._start_step, self._args
            if self._agent.global_step == self._start_step:
                raise P3kitError(self._run.directory.name, "an iteration ended without run.record", "call it once")
        self._agent.conclude()

    def observe(self, index: Tensor, account: Tensor) -> Tensor:
        """Observations (…, D) for the networks: gathered, clipped, and normalised by the spec."""
        self._run.heartbeat()
        self._loss_check.observe(index, account)
        return self._scale_observation(self._env.observe(index, account))

    def scale_reward(
        self, components: Tensor, action: Tensor, done: Tensor, gamma: float, extra: Tensor | None = None
    ) -> tuple[Tensor, Rewards]:
        """Rewards (T, N) of a rollout, and their parts for the record.

        components (T, N, C) times the weights in force, plus `reward.action_bonus` and `extra` (T, N), then
        `reward.scaling` and `reward.clip`. Raises NumericalFault where the environment met a number that is not finite.
        """
        self._env.raise_if_faulty()
        self._clocks.append(time.perf_counter())
        weights = self._agent.reward_weights_at(self._start_step).to(self.device)
        bonus = self._agent.value_at("reward.action_bonus", self._start_step) * (action != 0)
        bonus = bonus if extra is None else bonus + extra
        weighted = components.double() * weights
        scaled, clipped, scale = self._scale_reward(weighted.sum(-1) + bonus, done, gamma)
        return scaled, Rewards(scaled, clipped, scale, weighted, bonus)

    def pieces(self, rows: int, undo: Callable[[], object]) -> Iterator[tuple[slice, float, Attempt]]:
        """A batch of `rows` in pieces of at most `batch_size` that fit into memory: see `p3kit.runtime.pieces`."""
        return self._pieces(rows, undo)

    def learns_from(self, rows: Tensor, batch: Any) -> None:
        """Keep some minibatches for the diagnosis, as the loss gets them.

        rows (B,) of the flat rollout (T·N), and a NamedTuple of columns (B, …), named as the tables that they are rows
        of: fields of the buffer, `advantage` before it is normalised, and `returns`. Call it once per minibatch.
        """
        self._loss_check.take(rows, batch)

    def record(
        self,
        buffer: RolloutBuffer,
        rewards: Rewards,
        next_value: Tensor,
        advantage: Tensor,
        returns: Tensor,
        update: Mapping[str, Tensor],
        *,
        epochs: int,
        dropout: Sequence[Tensor] | None = None,
    ) -> None:
        """Write the metrics of an iteration and its evidence for the diagnosis. Then do what is due: evaluate, let
        interventions act, save a checkpoint.

        `update` has one value per gradient step (G,) of each metric, `dropout` the masks (N, width) of each layer.
        """
        args: Any = self._args
        same_step = self._env.autoreset == "same_step"
        iteration = Iteration(
            buffer, rewards, next_value, advantage, returns, args.gamma, args.gae_lambda, same_step=same_step
        )
        with torch.no_grad():
            observation, evidence = self._evidence(iteration, update, dropout, epochs)
            self._scale_observation.update(observation)
        self._clocks.append(time.perf_counter())
        began, rewarded, ended = self._clocks
        tables = rollout_tables(buffer, rewards, self._agent.spec.env.initial_capital)
        values = torch.stack([value.double() for value in evidence.values()])
        told, arrays, steps = to_host((values, tables, dict(update)))
        steps.pop(RATIO_ERROR, None)
        rollout = Rollout(**arrays)
        shown = known(zip(evidence, told.tolist(), strict=True))
        whole = (
            shown
            | self._loss_check.changes(shown)
            | {
                "policy/epochs_done": epochs,
                "reward/scale_steps": self._scale_reward.steps,
                "perf/rollout_s": rewarded - began,
                "perf/update_s": ended - rewarded,
            }
        )
        if self._grad_scaler.is_enabled():
            whole["diag/amp_scale"] = self._grad_scaler.get_scale()
        end_step = min(self._start_step + iteration.rows, args.total_timesteps)
        self._agent.record(self._iteration, self._start_step, end_step, rollout, steps, whole)
        if self._agent.evaluates(self._start_step):
            self._evaluate(rollout, buffer)
        self._act(observation)
        due = self._agent.due(self._agent.spec.checkpoints.every, self._start_step)
        if due or self._agent.state != "running" or self._run.stop_requested:
            self._run.save_checkpoint("last", self._state())

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _state(self) -> Flat:
        return {"iteration": self._iteration, "minibatch": self._pieces.size, **self._registry.state_dict()}

    def _evidence(
        self, iteration: Iteration, update: Mapping[str, Tensor], dropout: Sequence[Tensor] | None, epochs: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Sampled observations (B, D) as the environment returns them, and the metrics."""
        buffer: Any = iteration.buffer
        index, account, mask = (table.flatten(0, 1) for table in (buffer.index, buffer.account, buffer.mask))
        rows = sample_rows(iteration.rows, self.device)
        raw = self._env.observe(index[rows], account[rows])
        observation = self._scale_observation(raw)
        policy: Any = self._net.policy
        value: Any = self._net.value
        kept = None if dropout is None else [layer[rows % self._env.num_envs] for layer in dropout]
        logits = policy(observation, kept)
        log_prob = F.log_softmax(logits.float().masked_fill(~mask[rows], torch.finfo(torch.float32).min), dim=-1)
        sample = Sample(
            rows,
            observation,
            log_prob.gather(-1, buffer.action.flatten()[rows].unsqueeze(-1)).squeeze(-1),
            policy.hidden(observation),
            value.hidden(observation),
            self._env.observation_stats(index[rows], account[rows]),
            relu=getattr(self._args, "activation", "") == "relu",
        )
        gradient_steps = len(next(iter(update.values())))
        after = dict(self._net.named_parameters())
        moved = update_ratio(flat(self._before), flat(after), gradient_steps)
        ratio_error = update[RATIO_ERROR][0] if RATIO_ERROR in update else torch.full((), torch.nan)
        evidence = evidence_of(iteration, sample, moved, ratio_error.to(self.device))
        evidence |= movement(self._before, after, gradient_steps)
        evidence |= self._realised(iteration, sample, update, gradient_steps, epochs)
        tables = self._loss_check.tables()
        differing = self._loss_check.compare(iteration, tables, update, self._args)
        if self._check is not None:
            played = buffer._replace(**tables)
            differing |= {name: rows.mean() for name, rows in self._check.compare(played).items()}
            differing |= self._check.compare_observations(raw, index[rows], account[rows])
            differing |= self._check.departing_features
        return raw, evidence | as_metrics(differing)

    def _realised(
        self, iteration: Iteration, sample: Sample, update: Mapping[str, Tensor], gradient_steps: int, epochs: int
    ) -> dict[str, Tensor]:
        """Settings as this update realised them."""
        args: Any = self._args
        largest = max((after - self._before[name]).abs().max() for name, after in self._net.named_parameters())
        gradients = [weights.grad for weights in self._net.parameters() if weights.grad is not None]
        groups, norm = self._optimizer.param_groups, update["grad/grad_norm"][-1]
        settings = optimiser_settings(args, groups, largest, gradient_steps, norm, gradients)
        left = args.total_timesteps - self._start_step
        return settings | realised_settings(iteration, sample, args, update, epochs, left)

    def _evaluate(self, rollout: Rollout, buffer: RolloutBuffer) -> None:
        """Backtest the policy by the trainer's `load_policy`, and write the distributions of the last rollout."""
        agent = self._agent
        networks = [name for name, _ in self._registry.modules()]
        weights = self._registry.state_dict([*networks, "observation"]) | under(
            "reward", self._scale_reward.statistics()
        )
        if agent.market:
            sizes = sizes_on_bars(agent.spec, agent.market[agent.symbol])
            policy = load_weights(
                self._load_policy, self.args, agent.spec, weights, self.device, self._run.autocast, **sizes
            )
            agent.evaluate(self._iteration, policy.log_probs, weights)
        gradient = nn.utils.parameters_to_vector(p.grad for p in self._net.parameters() if p.grad is not None)
        agent.write_histograms(self._env, rollout, buffer.account.flatten(0, 1), buffer.value.flatten(), gradient)

    def _act(self, observation: Tensor) -> None:
        """Roll back and draw new weights if an intervention requires it."""
        self._run.save_snapshot([self._agent], self._state)
        for _, earlier in self._run.rolled_back([self._agent]):
            self._registry.go_back(earlier)
        for _, part, generator in self._run.reinitialised([self._agent]):
            reinit_part(self._net, self._optimizer, part, self._scale_observation(observation), generator)
