"""Runs of a spec: agents, their grouping into runs, and their work. Pure: no file, no process, no clock."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from p3kit.errors import Fault, SpecError
from p3kit.market.novelty import distribution_of
from p3kit.spec import Spec, agent_spec
from p3kit.spec.models import Split

if TYPE_CHECKING:
    from pathlib import Path

    from p3kit.market import SymbolData
    from p3kit.spec.trainer_file import TrainerFile

_MOST_PER_STACK = 10
_CACHE_BYTES = 32_000_000  # compiled, five nets of 2 × 256 in a stack are a third faster than two
_BYTES_PER_WEIGHT = 16  # the weight, its gradient and two moments
_MOST_THREADS = 4  # measured with two: they train a shared encoder 1.6 times as fast, and small nets no faster
_USUAL_OBSERVATION = 512  # values; the exact number needs the bars, which are not read yet


@dataclass(frozen=True)
class AgentPlan:
    """One agent: a symbol, a seed, a point of the matrix and a window of time, with the spec as it applies to it."""

    name: str
    symbol: str
    seed: int
    point: Mapping[str, Any]
    spec: Spec
    window: str | None = None
    """First validation day of its walk-forward window."""

    @property
    def rollout_steps(self) -> int:
        """Env steps of one full iteration."""
        return int(self.spec.ppo.n_steps * self.spec.env.num_envs)

    @property
    def iterations(self) -> int:
        """Rollout-and-update rounds; the last one is shortened so that exactly `total_timesteps` are taken."""
        return -(-int(self.spec.ppo.total_timesteps) // self.rollout_steps)

    @property
    def gradient_steps(self) -> int:
        """Optimiser steps if no update is ended early by `target_kl`."""
        knobs = self.spec.ppo
        full, rest = divmod(knobs.total_timesteps, self.rollout_steps)
        effective_batch = knobs.batch_size * knobs.accumulation_steps
        minibatches = full * math.ceil(self.rollout_steps / effective_batch) + math.ceil(rest / effective_batch)
        return int(knobs.n_epochs * minibatches)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "symbol": self.symbol,
            "seed": self.seed,
            "point": dict(self.point),
            **({"window": self.window} if self.window is not None else {}),
            "total_timesteps": self.spec.ppo.total_timesteps,
            "spec": self.spec.model_dump(mode="json"),
        }


@dataclass(frozen=True)
class RunPlan:
    """One execution of one trainer."""

    spec: Spec
    trainer: Path
    agents: tuple[AgentPlan, ...]
    windows: tuple[str, ...] = ()
    """Every window of a walk-forward, of which this run has one."""
    threads: int = 1
    """Torch threads of its trainer."""

    @property
    def market_spec(self) -> Spec:
        """The spec by which the bars of the run are loaded: its agents have the [observation] in common."""
        return self.spec.model_copy(update={"observation": self.agents[0].spec.observation})

    def without_init(self) -> RunPlan:
        """The plan with new weights, which take as long to train."""
        agents = tuple(replace(agent, spec=agent.spec.model_copy(update={"init": None})) for agent in self.agents)
        return replace(self, spec=self.spec.model_copy(update={"init": None}), agents=agents)

    def run_json(self, market: Mapping[str, SymbolData], command: Sequence[str]) -> dict[str, Any]:
        """Return the plan as `run.json` stores it. `RunDir.create` adds the time, the versions and the commit.

        `market` is empty for a task that brings no bars. A window of a walk-forward has bars of its own.
        """
        return {
            "name": self.spec.name,
            "trainer": self.trainer.stem,
            "threads": self.threads,
            "spec": self.spec.model_dump(mode="json"),
            "agents": [agent.to_json() for agent in self.agents],
            "env_id": None,
            "data": self._data(market),
            "evaluation_mode": "continuous",
            "command": list(command),
            **({"windows": list(self.windows)} if self.windows else {}),
        }

    def _data(self, market: Mapping[str, SymbolData]) -> dict[str, Any]:
        """Facts about the bars of each symbol, with the training distribution that novelty is measured against."""
        specs = {agent.symbol: agent.spec for agent in self.agents if market}
        return {
            symbol: describe_data(market[symbol])
            | {"distribution": distribution_of(market[symbol], spec.env.window).to_json()}
            for symbol, spec in specs.items()
        }


def plan_runs(
    spec: Spec,
    trainer: TrainerFile,
    cores: int = 1,
    windows: Sequence[Split] = (),
    slots: int | None = None,
) -> list[RunPlan]:
    """Plan the runs of a spec: agents in the order symbols × seeds × matrix points, grouped as the trainer takes them.

    `trainer` are the facts about `spec.trainer` (`p3kit.spec.read_trainer`).

    `windows` are those of `data.walk_forward` (`p3kit.market.walk_windows`): then all of it once per window, in runs of
    its own, whose spec has the window's days as its split.

    `cores` are those of the machine, `slots` the number of runs that keep a whole cluster busy (default: one per core,
    or as many as have the cores for `compute.threads`). Both are facts of the machine: stacks and threads of a spec do
    not depend on the number of runs that train at a time, because sums in another order differ in the last bits.

    Raises SpecError when the trainer cannot train agents of unequal sizes together.
    """
    per_run = 1 if spec.compute.threads == "auto" else int(spec.compute.threads)
    plans = _plan_windows(spec, trainer, slots or max(1, cores // per_run), windows)
    threads = _threads(spec, trainer, cores, len(plans))
    return [replace(plan, threads=threads) for plan in plans]


def _threads(spec: Spec, trainer: TrainerFile, cores: int, runs: int) -> int:
    """Return the torch threads of each run: agents that share an encoder use the cores that other runs leave idle."""
    if spec.compute.threads != "auto":
        return int(spec.compute.threads)
    return max(1, min(_MOST_THREADS, cores // runs)) if trainer.agents == "all" else 1


def _plan_windows(spec: Spec, trainer: TrainerFile, slots: int, windows: Sequence[Split]) -> list[RunPlan]:
    """Plan the runs of each window of time; without a walk-forward there is one."""
    if spec.data.walk_forward is None:
        return _plan_window(spec, trainer, slots)
    if not windows:
        hint = "p3kit run, plan and tune do; leave it out here"
        raise SpecError([Fault("data.walk_forward", "windows of time are not made here", hint)])
    names = tuple(str(window.validation).partition("..")[0] for window in windows)
    plans = []
    for window, name in zip(windows, names, strict=True):
        data = spec.data.model_copy(update={"split": window, "walk_forward": None})
        plans += [
            replace(plan, windows=names)
            for plan in _plan_window(spec.model_copy(update={"data": data}), trainer, slots, name)
        ]
    return plans


def _plan_window(spec: Spec, trainer: TrainerFile, slots: int, window: str | None = None) -> list[RunPlan]:
    specs: dict[str, Spec] = {}  # symbols without values of their own have one in common, however many they are
    agents = []
    for symbol in spec.symbols:
        for seed in spec.seeds:
            for point in spec.points():
                key = f"{symbol if symbol in spec.agents else ''} {point}"
                resolved = specs.get(key) or specs.setdefault(key, agent_spec(spec, symbol, point))
                name = agent_name(symbol, seed, point, several_seeds=len(spec.seeds) > 1, window=window)
                agents.append(AgentPlan(name, symbol, seed, point, resolved, window))
    if trainer.agents == "one":
        groups = [[agent] for agent in agents]
    elif trainer.agents == "stack":
        alike = _alike(agents, lambda agent: _shape(agent.spec, trainer.fixed))
        groups = [stack for family in alike for stack in _stacks(family, _stack_count(spec, family, slots))]
    else:
        groups = _alike(agents, lambda agent: f"{agent.seed} {dict(agent.point)}")
        _refuse_unequal(groups, trainer.fixed)
    return [RunPlan(spec, trainer.path, tuple(group)) for group in groups]


def _alike(agents: Sequence[AgentPlan], key: Callable[[AgentPlan], str]) -> list[list[AgentPlan]]:
    """Agents of equal key together, keys in the order of their first agent."""
    families: dict[str, list[AgentPlan]] = {}
    for agent in agents:
        families.setdefault(key(agent), []).append(agent)
    return list(families.values())


def _shape(spec: Spec, fixed: Sequence[str]) -> str:
    """Key that agents of one stack share: the shape of every tensor, and every rule of the one environment."""
    tables = spec.model_dump(mode="json", include={"env", "observation", "data", "compute", "checkpoints"})
    reward = spec.reward.model_dump(mode="json", exclude={"weights", "action_bonus"})
    return json.dumps([tables, reward, {name: getattr(spec.ppo, name) for name in fixed}], sort_keys=True, default=str)


def _stack_count(spec: Spec, family: Sequence[AgentPlan], slots: int) -> int:
    """Number of stacks. Each has `compute.group` agents, else few enough for the cache; all slots get equal numbers of
    stacks."""
    if spec.compute.group != "auto":
        return math.ceil(len(family) / int(spec.compute.group))
    widths: list[int] = list(getattr(family[0].spec.ppo, "hidden", ()))
    first = _USUAL_OBSERVATION * widths[0] if widths else _USUAL_OBSERVATION
    weights = 2 * (first + sum(a * b for a, b in pairwise(widths)))
    most = max(1, min(_MOST_PER_STACK, _CACHE_BYTES // (_BYTES_PER_WEIGHT * weights)))
    rounds = math.ceil(len(family) / (most * slots))
    return min(len(family), rounds * slots)


def _stacks(family: Sequence[AgentPlan], count: int) -> list[list[AgentPlan]]:
    """`family` in `count` stacks whose sizes differ by one at most, the larger ones first, because they start first."""
    small, larger = divmod(len(family), count)
    edges = accumulate([0] + [small + 1] * larger + [small] * (count - larger))
    return [list(family[a:b]) for a, b in pairwise(edges)]


def _refuse_unequal(groups: Sequence[Sequence[AgentPlan]], fixed: Sequence[str]) -> None:
    """Agents that share weights need tensors of equal shapes. Raises SpecError naming one that differs."""
    for first, *others in groups:
        for other in others:
            if _shape(other.spec, fixed) == _shape(first.spec, fixed):
                continue
            what = f"its sizes or its environment differ from {first.name}'s"
            hint = 'agents that share an encoder have them in common; trainer = "ppo_stacked" takes them apart'
            raise SpecError([Fault(f"agents.{other.name}", what, hint)])


def agent_name(
    symbol: str, seed: int, point: Mapping[str, Any], *, several_seeds: bool, window: str | None = None
) -> str:
    """`AAPL`, or `AAPL.s2`, `AAPL.s2.hidden=64x64`, `AAPL.w2018-01-04` where a symbol has several agents."""
    parts = [symbol]
    if several_seeds or point:
        parts.append(f"s{seed}")
    parts += [f"w{window}"] if window is not None else []
    parts += [f"{path.rsplit('.', 1)[-1]}={_in_a_name(value)}" for path, value in point.items()]
    return ".".join(parts)


def _in_a_name(value: Any) -> str:
    """A list as `64x64`: a name without blanks and brackets needs no quotes in a shell."""
    return "x".join(map(_in_a_name, value)) or "none" if isinstance(value, list | tuple) else str(value)


def data_notes(spec: Spec, market: Mapping[str, SymbolData], windows: Sequence[Split] = ()) -> list[str]:
    """Return the notes on a spec that need its bars. A note that fits every symbol appears once."""
    by_note: dict[str, list[str]] = {}
    for symbol, bars in market.items():
        for note in bars.notes:
            by_note.setdefault(note, []).append(symbol)
    notes = [note if len(who) == len(market) else f"{', '.join(who)}: {note}" for note, who in by_note.items()]
    if windows:
        judged = f"{str(windows[0].validation).partition('..')[0]} to {str(windows[-1].validation).partition('..')[2]}"
        notes.append(f"walk-forward: {len(windows)} windows, each an agent of its own, judged on {judged}")
    return [*notes, *_horizons(spec, market)]


def _horizons(spec: Spec, market: Mapping[str, SymbolData]) -> list[str]:
    """The horizon of gamma in days, by the bars of each symbol; symbols of equal horizon share a note."""
    if spec.data.source not in ("csv", "parquet"):
        return []
    groups: dict[str, list[str]] = {}
    for symbol, bars in market.items():
        gamma = getattr(agent_spec(spec, symbol).ppo, "gamma", None)  # a user's own trainer may have no such knob
        if gamma is not None and gamma < 1:
            days = 365.25 / bars.bars_per_year / (1 - gamma)
            text = f"horizon: about {days:.3g} calendar days at {bars.bars_per_year:,.0f} bars a year"
            groups.setdefault(text, []).append(symbol)
    return [text if len(groups) == 1 else f"{', '.join(symbols)}: {text}" for text, symbols in groups.items()]


def describe_data(bars: SymbolData) -> dict[str, Any]:
    """The identity of a symbol's bars, as stored with a run and compared on resume."""
    return {
        "fingerprint": bars.fingerprint,
        **({"price_fingerprint": bars.price_fingerprint} if bars.own_features else {}),
        "source": bars.source,
        "synthetic": bars.synthetic,
        "bars": len(bars.close),
        "first": str(bars.timestamps[0])[:19],
        "last": str(bars.timestamps[-1])[:19],
        "bars_per_year": bars.bars_per_year,
        "split_bars_per_year": dict(bars.split_bars_per_year),
        "splits": {name: list(span) for name, span in bars.splits.items()},
        "split_days": {
            name: [str(bars.timestamps[first])[:19], str(bars.timestamps[last - 1])[:19]]
            for name, (first, last) in bars.splits.items()
        },
        **({"adjust": bars.recipe.adjust, "recipe": bars.recipe.to_json()} if bars.recipe else {}),
    }
