"""Faults of code, put into a trainer's process before it begins.

A hook gets a `Scene` and the numbers of its `inject` table. Faults of the environment wrap the training environment
that the run makes, never the class, so that evaluations stay what they are. A hook that draws random numbers has a
generator of its own: a run with a hook that does nothing yet is the run without it.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import p3kit.runtime.run as runtime
import p3kit.runtime.run_market as run_market
from p3kit.market import SymbolData
from p3kit.metrics import ACTIONS, COMPONENTS

Env = Any


@dataclass
class Scene:
    """The process that a hook changes: the trainer's module, and how far its training has come."""

    trainer: ModuleType
    total_timesteps: int
    """Env steps per agent."""
    agents: int
    seed: int
    taken: int = 0
    generator: torch.Generator = field(default_factory=torch.Generator)

    def __post_init__(self) -> None:
        self.generator.manual_seed(990_000 + self.seed)
        self.on_env(self._count)

    def after(self, share: float) -> bool:
        """Return True if that fraction of training is done."""
        return self.taken >= share * self.total_timesteps

    def _count(self, env: Env) -> None:
        step = env.step

        def counted(*arguments: Any) -> Any:
            self.taken += env.num_envs // self.agents
            return step(*arguments)

        env.step = counted

    def on_env(self, change: Callable[[Env], None]) -> None:
        """Call `change` on every training environment that the run makes."""
        for owner in (runtime.Agent, runtime.Run):
            made = owner.make_env

            def make(self: Any, *arguments: Any, _made: Callable[..., Env] = made) -> Env:
                env = _made(self, *arguments)
                change(env)
                return env

            owner.make_env = make  # type: ignore[method-assign]

    def on_steps(self, change: Callable[[Any], Any]) -> None:
        """Let `change` have every Timestep of training, the first one too."""

        def wrap(env: Env) -> None:
            step, reset = env.step, env.reset
            env.step = lambda *arguments: change(step(*arguments))
            env.reset = lambda *arguments: change(reset(*arguments))

        self.on_env(wrap)

    def on_bars(self, change: Callable[[SymbolData], SymbolData]) -> None:
        """Let `change` make the bars that the run trains and is evaluated on."""
        load = run_market.load_market
        run_market.load_market = lambda *arguments, **named: {
            name: change(bars) for name, bars in load(*arguments, **named).items()
        }

    def on_features(self, change: Callable[[Env, Tensor], Tensor], after: float = 0.0) -> None:
        """Let `change` (env, feature table (R, F)) make the table that training observes, from a share of training on.
        Prices, and with them what is earned, stay."""

        def wrap(env: Env) -> None:
            step, changed = env.step, False

            def stepped(*arguments: Any) -> Any:
                nonlocal changed
                if not changed and self.after(after):
                    changed = True
                    _observe_table(env, change(env, env.bars.features))
                return step(*arguments)

            env.step = stepped
            if after == 0.0:
                changed = True
                _observe_table(env, change(env, env.bars.features))

        self.on_env(wrap)


def _observe_table(env: Env, table: Tensor) -> None:
    """Let a separate environment observe `table` (R, F), as if its bars had come so."""
    env.bars.features = table
    env._clipped = table.clamp(-env._clip, env._clip)


Hook = Callable[..., None]
HOOKS: dict[str, Hook] = {}
"""Every hook by the name that a fault's file gives it."""


def hook(function: Hook) -> Hook:
    HOOKS[function.__name__] = function
    return function


# --- rewards ----------------------------------------------------------------------------------------------------------


@hook
def change_component(scene: Scene, component: str, by: float, after: float) -> None:
    """Multiply one component from a share of training on; a negative factor turns its sign."""

    def change(step: Any) -> Any:
        if not scene.after(after):
            return step
        components = step.components.clone()
        components[:, COMPONENTS.index(component)] *= by
        return step._replace(components=components)

    scene.on_steps(change)


@hook
def scale_rewards(scene: Scene, by: float, agent: int | None = None) -> None:
    """All components times `by`; of one agent of several, where it is given."""

    def change(step: Any) -> Any:
        factor = torch.full((len(step.components), 1), by, dtype=torch.float64)
        if agent is not None:
            factor[torch.arange(len(factor)) % scene.agents != agent] = 1.0
        return step._replace(components=step.components * factor)

    scene.on_steps(change)


@hook
def outlier_rewards(scene: Scene, share: float, size: float) -> None:
    """A share of the steps earns ± `size` in the pnl component."""

    def change(step: Any) -> Any:
        hit = torch.rand(len(step.components), generator=scene.generator, dtype=torch.float64)
        sign = torch.where(hit < share / 2, -1.0, 1.0)
        components = step.components.clone()
        components[:, 0] += torch.where(hit < share, sign * size, 0.0)
        return step._replace(components=components)

    scene.on_steps(change)


@hook
def constant_rewards(scene: Scene, value: float) -> None:
    def change(step: Any) -> Any:
        components = torch.zeros_like(step.components)
        components[:, 0] = value
        return step._replace(components=components)

    scene.on_steps(change)


@hook
def pay_action(scene: Scene, action: str, component: str, amount: float, after: float) -> None:
    """From a share of training on, an action is paid for itself."""

    def change(step: Any) -> Any:
        if not scene.after(after):
            return step
        components = step.components.clone()
        components[:, COMPONENTS.index(component)] += amount * (step.action == ACTIONS.index(action))
        return step._replace(components=components)

    scene.on_steps(change)


# --- observations and masks -------------------------------------------------------------------------------------------


@hook
def nan_feature(scene: Scene, share: float, after: float) -> None:
    """From a share of training on, the first feature of that share of the bars is missing."""

    def change(env: Env, table: Tensor) -> Tensor:
        hit = torch.rand(len(table), generator=scene.generator) < share
        return torch.cat([torch.where(hit, torch.nan, table[:, 0])[:, None], table[:, 1:]], dim=1)

    scene.on_features(change, after)


@hook
def scale_feature(scene: Scene, by: float) -> None:
    """The first feature of every bar, times `by`."""
    scene.on_features(lambda env, table: torch.cat([table[:, :1] * by, table[:, 1:]], dim=1))


@hook
def shuffle_features(scene: Scene) -> None:
    """The features of some other bar, always the same one: ratio and mask stay right, only the sense is lost."""

    def change(env: Env, table: Tensor) -> Tensor:
        whole = table.isfinite().all(1).nonzero().squeeze(1)  # the first bars have no look-back
        shuffled = table.clone()
        shuffled[whole] = table[whole[torch.randperm(len(whole), generator=scene.generator)]]
        return shuffled

    scene.on_features(change)


@hook
def late_features(scene: Scene, bars: int) -> None:
    """Observations that lag: the newest `bars` bars are missing."""
    scene.on_features(lambda env, table: torch.cat([table[:bars], table[:-bars]]))


@hook
def close_mask(scene: Scene, share: float) -> None:
    """With probability `share` a row may only hold."""

    def change(step: Any) -> Any:
        mask = step.mask.clone()
        closed = torch.rand(len(mask), generator=scene.generator) < share
        mask[closed, 1:] = False
        return step._replace(mask=mask)

    scene.on_steps(change)


@hook
def open_mask(scene: Scene) -> None:
    """The policy's mask allows every action; the environment's mask does not."""
    scene.on_steps(lambda step: step._replace(mask=torch.ones_like(step.mask)))


@hook
def leak(scene: Scene, noise: float) -> None:
    """One feature more: the return of the coming bar in standard deviations, with noise of that many."""

    def leaky(bars: SymbolData) -> SymbolData:
        move = np.append(np.diff(np.log(bars.close)), 0.0)
        known = move / move.std() + noise * np.random.default_rng(scene.seed).standard_normal(len(move))
        return dataclasses.replace(
            bars,
            features=np.concatenate([bars.features, known[:, None].astype(np.float32)], axis=1),
            feature_names=(*bars.feature_names, "momentum_next"),
            feature_mean=np.append(bars.feature_mean, 0.0),
            feature_scale=np.append(bars.feature_scale, 1.0),
        )

    scene.on_bars(leaky)


@hook
def break_columns(scene: Scene, how: str, count: int, begin: float, amount: float) -> None:
    """Break `count` random columns of the bars from a share of all bars on, for training and evaluation alike."""

    numbers = {"how": how, "count": count, "begin": begin, "amount": amount}
    scene.on_bars(lambda bars: broken_bars(bars, scene.seed, **numbers))


def broken_bars(bars: SymbolData, seed: int, *, how: str, count: int, begin: float, amount: float) -> SymbolData:
    """Bars with `count` columns that change their nature."""
    rng = np.random.default_rng(seed)
    features = bars.features.copy()
    chosen = rng.permutation(features.shape[1])[:count]
    first = max(int(begin * len(features)), int(np.isnan(features).any(1).sum()))
    features[first:, chosen] = COLUMN_FAULTS[how](features[first:], chosen, amount, rng)
    return dataclasses.replace(bars, features=features)


Table = NDArray[np.float32]
COLUMN_FAULTS: dict[str, Callable[[Table, NDArray[np.intp], float, np.random.Generator], Table]] = {
    "frozen": lambda rows, chosen, amount, rng: np.broadcast_to(rows[:1, chosen], rows[:, chosen].shape),
    "scaled": lambda rows, chosen, amount, rng: rows[:, chosen] * np.float32(amount),
    "shifted": lambda rows, chosen, amount, rng: rows[:, chosen] + np.float32(amount),
    "noise": lambda rows, chosen, amount, rng: rng.standard_normal(rows[:, chosen].shape).astype(np.float32),
    "swapped": lambda rows, chosen, amount, rng: rows[:, (chosen + 1) % rows.shape[1]],
    "late": lambda rows, chosen, amount, rng: np.roll(rows[:, chosen], max(1, int(amount)), axis=0),
}
"""Faults of columns: (rows from the first broken bar on, columns, amount, generator) to the broken columns."""


# --- the environment's contract ---------------------------------------------------------------------------------------


@hook
def never_end(scene: Scene) -> None:
    """Accounts restart, and no step is marked as an end."""
    scene.on_steps(
        lambda step: step._replace(
            truncated=torch.zeros_like(step.truncated), terminated=torch.zeros_like(step.terminated)
        )
    )


@hook
def same_starts(scene: Scene) -> None:
    """Every row starts and restarts where the first one does."""

    def wrap(env: Env) -> None:
        step, reset = env.step, env.reset
        env.reset = lambda start: reset(start[:1].expand_as(start))
        env.step = lambda action, start: step(action, start[:1].expand_as(start))

    scene.on_env(wrap)


@hook
def slow_environment(scene: Scene, seconds: float) -> None:
    def change(step: Any) -> Any:
        time.sleep(seconds)
        return step

    scene.on_steps(change)


@hook
def louder(scene: Scene, by: float, after: float) -> None:
    """Not a fault: from a share of training on, P&L and costs are larger, as in a volatile market."""

    def change(step: Any) -> Any:
        return step._replace(components=step.components * by) if scene.after(after) else step

    scene.on_steps(change)


# --- the rollout buffer -----------------------------------------------------------------------------------------------

BUFFER_FIELDS = {
    "obs": ("shift", "mix"),
    "actions": ("shift", "mix"),
    "log_probs": ("shift", "mix", "scale"),
    "values": ("shift", "mix", "scale"),
    "rewards": ("shift", "mix", "scale"),
    "dones": ("shift", "mix"),
    "advantages": ("shift", "mix", "scale"),
    "returns": ("shift", "mix", "scale"),
}
"""Fields of the rollout buffer, and what can go wrong with each."""
_COLUMNS = {
    "obs": ("index", "account"),
    "actions": ("action",),
    "log_probs": ("log_prob",),
    "values": ("value",),
    "rewards": ("components",),
    "dones": ("truncated", "terminated"),
}
_BATCH = {"advantages": "advantage", "returns": "returns"}


@hook
def spoil_buffer(scene: Scene, field: str, how: str, share: float, amount: float, after: float) -> None:
    """Shift, mix or scale a field in a share of the envs, from a share of training on."""

    def spoilt(table: Tensor, envs: Tensor) -> Tensor:
        """Change a table (T, N, …)."""
        if not scene.after(after):
            return table
        changed, own = table.clone(), table[:, envs]
        if how == "shift":
            changed[:, envs] = own.roll(int(amount), 0)
        elif how == "mix":
            changed[:, envs] = own[torch.randperm(len(own), generator=scene.generator)]
        else:
            changed[:, envs] = own * amount
        return changed

    def envs_of(table: Tensor) -> Tensor:
        count = max(1, round(share * table.shape[1]))
        return torch.randperm(table.shape[1], generator=scene.generator)[:count]

    if field in _COLUMNS:
        _spoil_rollout(scene.trainer, lambda buffer: _with_columns(buffer, _COLUMNS[field], spoilt, envs_of))
    else:
        _spoil_batch(scene.trainer, _BATCH[field], lambda table: spoilt(table, envs_of(table)))


def _spoil_rollout(trainer: ModuleType, change: Callable[[Any], Any]) -> None:
    """Let `change` have the whole buffer (T, N) when it is made; its single steps (N,) stay."""
    made = trainer.Buffer
    trainer.Buffer = lambda *columns: change(made(*columns)) if columns[0].dim() == 2 else made(*columns)


def _with_columns(
    buffer: Any, names: tuple[str, ...], change: Callable[..., Tensor], envs_of: Callable[..., Tensor]
) -> Any:
    envs = envs_of(buffer.action)
    return buffer._replace(**{name: change(getattr(buffer, name), envs) for name in names})


def _spoil_batch(trainer: ModuleType, name: str, change: Callable[[Tensor], Tensor]) -> None:
    """Let `change` have a column (T, N) of what the loss gets, once an iteration."""
    gae, made, shapes = trainer.compute_gae, trainer.Minibatch, []

    def remembered(reward: Tensor, *tables: Any) -> Tensor:
        shapes[:] = [reward.shape]
        advantage: Tensor = gae(reward, *tables)
        return advantage

    def spoilt(*columns: Tensor) -> Any:
        batch = made(*columns)
        if not shapes:  # a minibatch of the batch that was changed
            return batch
        table = getattr(batch, name).unflatten(0, shapes.pop())
        return batch._replace(**{name: change(table).flatten()})

    trainer.compute_gae, trainer.Minibatch = remembered, spoilt


# --- the trainer's code -----------------------------------------------------------------------------------------------


@hook
def noisy_log_prob(scene: Scene, std: float) -> None:
    sample = scene.trainer.sample_action

    def noisy(log_prob: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        action, chosen = sample(log_prob, noise)
        return action, chosen + std * torch.randn(chosen.shape, generator=scene.generator)

    scene.trainer.sample_action = noisy


@hook
def detach_actor(scene: Scene) -> None:
    forward = scene.trainer.ActorCritic.forward

    def detached(self: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        logits, value = forward(self, *arguments)
        return logits.detach(), value

    scene.trainer.ActorCritic.forward = detached


@hook
def ignore_next_value(scene: Scene) -> None:
    gae = scene.trainer.compute_gae

    def without(reward: Tensor, value: Tensor, next_value: Tensor, *rest: Any) -> Tensor:
        return gae(reward, value, torch.zeros_like(next_value), *rest)

    scene.trainer.compute_gae = without


@hook
def truncation_is_the_end(scene: Scene) -> None:
    """As if nothing followed where the window ends: the value of the final observation is taken for 0."""

    gae = scene.trainer.compute_gae

    def ended(
        reward: Tensor, value: Tensor, next_value: Tensor, terminated: Tensor, done: Tensor, *rest: Any
    ) -> Tensor:
        next_value[done] = 0.0  # in place, as a slip in the trainer would have it
        return gae(reward, value, next_value, terminated, done, *rest)

    scene.trainer.compute_gae = ended


@hook
def low_biases(scene: Scene, value: float) -> None:
    start = scene.trainer.ActorCritic.__init__

    def init(self: Any, *arguments: Any) -> None:
        start(self, *arguments)
        for body in (self.policy, self.value):
            for layer in body.layers[:-1]:
                torch.nn.init.constant_(layer.bias, value)

    scene.trainer.ActorCritic.__init__ = init


@hook
def out_of_memory(scene: Scene, after: float, rows: int) -> None:
    """From a share of training on there is memory for fewer than `rows` rows at a time."""
    loss = scene.trainer.ppo_loss

    def refused(logits: Tensor, *arguments: Any, **knobs: Any) -> tuple[Tensor, Tensor]:
        if len(logits) >= rows and scene.after(after):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        result: tuple[Tensor, Tensor] = loss(logits, *arguments, **knobs)
        return result

    scene.trainer.ppo_loss = refused
