"""Notes on a valid spec: `p3kit validate` prints them. `plan` adds those that need the bars."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator, Sequence

from p3kit.metrics import COMPONENTS
from p3kit.spec.knobs import read_agents
from p3kit.spec.loading import LoadedSpec
from p3kit.spec.models import SAMPLE_SYMBOLS, Spec
from p3kit.spec.search_fit import unfit_settings
from p3kit.spec.shipped import find_trainer
from p3kit.spec.writing import toml_value

FEATURES = 20
"""Features of a bar, about: exact numbers need the bars."""

ACCOUNT_FIELDS = 20
"""Account fields of an observation, about."""

ROW_BYTES = 160
"""A rollout row: index, account fields, action, log-probability, mask, value, components, advantage, return."""

MOST_VALID_ACTIONS = 4
"""Flat: HOLD and three BUYs. Long: HOLD, two SELLs and ADD."""

USUAL_LEARNING_RATES = (1e-4, 1e-3)
"""Guide 1.2: slower may not arrive in 100k steps, faster is unstable."""


MOST_BEFORE_A_RUN = 3


def notes(loaded: LoadedSpec) -> list[str]:
    """All notes that need no bars, one sentence each."""
    return [note for about in (*_SIZES, *_VALUES) for note in about(loaded)]


def first_notes(loaded: LoadedSpec, about_bars: Sequence[str]) -> list[str]:
    """At most three notes for the start of a run: on the bars first, on values next, on sizes last. A last line counts
    the others and names the command that prints them."""
    found = [*about_bars, *(note for about in (*_VALUES, *_SIZES) for note in about(loaded))]
    rest = len(found) - MOST_BEFORE_A_RUN
    more = [f"{_count(rest, 'more note')}: p3kit plan {shlex.quote(str(loaded.path))}"] if rest > 0 else []
    return [*found[:MOST_BEFORE_A_RUN], *more]


# --- size of the work -------------------------------------------------------------------------------------------------


def _agents(loaded: LoadedSpec) -> Iterator[str]:
    spec = loaded.spec
    symbols, seeds, points = len(spec.symbols), len(spec.seeds), len(spec.points())
    factors = [_count(symbols, "symbol"), _count(seeds, "seed")] + ([f"{points} matrix points"] if points > 1 else [])
    yield f"{_count(symbols * seeds * points, 'agent')}: {' × '.join(factors)}"


def _iterations(loaded: LoadedSpec) -> Iterator[str]:
    spec, total = loaded.spec, loaded.spec.ppo.total_timesteps
    rollout = rollout_steps(spec)
    if rollout is None:
        return
    exact = total / rollout
    shortened = "" if exact.is_integer() else ", the last one on a shorter rollout"
    product = f"({spec.ppo.n_steps:,} × {spec.env.num_envs})"
    yield f"iterations: {total:,} / {product} is {exact:.3g}, so {math.ceil(exact)} updates{shortened}"
    batch = getattr(spec.ppo, "batch_size", None)
    epochs, accumulation = getattr(spec.ppo, "n_epochs", 1), getattr(spec.ppo, "accumulation_steps", 1)
    if isinstance(batch, int):
        minibatches = math.ceil(rollout / batch)
        steps = epochs * math.ceil(rollout / (batch * accumulation))
        yield f"minibatches: {rollout:,} / {batch} is {minibatches:,} an epoch, {steps:,} gradient steps an update"
        if batch * accumulation > rollout:
            yield f"batch_size × accumulation_steps is {batch * accumulation:,}, more than a rollout's {rollout:,}"


def _memory(loaded: LoadedSpec) -> Iterator[str]:
    spec, rollout = loaded.spec, rollout_steps(loaded.spec)
    batch = getattr(spec.ppo, "batch_size", None)
    if rollout is None or not isinstance(batch, int):
        return
    seen = spec.observation
    features = (FEATURES if seen.features == "all" else len(seen.features)) + len(seen.columns)
    observation = spec.env.window * features + ACCOUNT_FIELDS
    row = observation * 4 + ROW_BYTES
    yield (
        f"memory: rollout buffer about {_bytes(rollout * ROW_BYTES)} an agent (observations are gathered, not stored: "
        f"they would be {_bytes(rollout * observation * 4)}), a minibatch about {_bytes(batch * row)}"
    )


def _horizon(loaded: LoadedSpec) -> Iterator[str]:
    gamma = getattr(loaded.spec.ppo, "gamma", None)
    if gamma == 1:
        yield "gamma = 1 has no horizon: rewards of any distance count in full"
    elif isinstance(gamma, float):
        bars = 1 / (1 - gamma)
        days = {"sample": bars, "synthetic": bars / 6.5}.get(loaded.spec.data.source)
        yield f"horizon: 1 / (1 − {gamma:g}) is {bars:,.0f} bars" + (f", {days:,.0f} trading days" if days else "")


def _evaluations(loaded: LoadedSpec) -> Iterator[str]:
    spec, rollout = loaded.spec, rollout_steps(loaded.spec)
    if rollout is None:
        return
    for table, every in (("evaluation", spec.evaluation.every), ("checkpoints", spec.checkpoints.every)):
        said = f"{table}.every = {every:,}"
        if every < rollout:
            yield f"{said} is more often than updates happen: it is once per update, every {rollout:,} steps"
        elif every % rollout:
            yield f"{said} is rounded up to updates: it is every {math.ceil(every / rollout) * rollout:,} steps"
    interval = math.ceil(spec.evaluation.every / rollout) * rollout
    evaluations = math.ceil(spec.ppo.total_timesteps / interval)
    patience = spec.early_stop.patience
    if patience != "off" and patience >= evaluations:
        yield f"early_stop.patience = {patience} never ends a run: it has {_count(evaluations, 'evaluation')}"


# --- values worth a second look ---------------------------------------------------------------------------------------


def _learning_rate(loaded: LoadedSpec) -> Iterator[str]:
    low, high = USUAL_LEARNING_RATES
    spec = loaded.spec
    rates = {"ppo.learning_rate": getattr(spec.ppo, "learning_rate", None)}
    for symbol, tables in spec.agents.items():
        rates[f"agents.{symbol}.ppo.learning_rate"] = tables.get("ppo", {}).get("learning_rate")
    for path, rate in rates.items():
        if rate is not None and not low <= rate <= high:
            risk = "training tends to become unstable" if rate > high else "100k steps may not suffice"
            yield f"{path} = {rate:g} is outside {low:g} to {high:g}: {risk} (guide 1.2)"


def _entropy_criterion(loaded: LoadedSpec) -> Iterator[str]:
    criterion, most = loaded.spec.criteria.minimum.entropy, math.log(MOST_VALID_ACTIONS)
    if criterion == "off":
        return
    for side, value in zip(("low", "high"), criterion, strict=True):
        if value > most:
            effect = "so no policy can meet it" if side == "low" else "so it never binds"
            bound = f"ln {MOST_VALID_ACTIONS} = {most:.2f} nats, the most that {MOST_VALID_ACTIONS} valid actions allow"
            yield f"criteria.minimum.entropy: its {side} end {value:g} is above {bound}, {effect}"


def _reward(loaded: LoadedSpec) -> Iterator[str]:
    reward = loaded.spec.reward
    total = sum(getattr(reward.weights, component) for component in COMPONENTS)
    if abs(total - 1) > 1e-9:
        yield f"reward.weights sum to {total:.2f}, not 1" + ("; so do the guide's" if abs(total - 0.9) < 1e-9 else "")
    if reward.action_bonus > 0:
        yield f"reward.action_bonus = {reward.action_bonus:g} for the whole run pays for churn; guide 3.2 means a while"
    if reward.formulas == "guide":
        yield from (f'reward.formulas = "guide": {defect}' for defect in GUIDE_DEFECTS)
    elif loaded.written("reward.target_sharpe"):
        yield 'reward.target_sharpe has no effect: only formulas = "guide" reads it'


GUIDE_DEFECTS = (
    "the drawdown penalty falls from 0.150 to 0.0225 as drawdown crosses 15 %",
    "any one-bar win pays the whole time component, however small the win",
    "the Sharpe component reaches ±1,000 on flat returns, and compares a ratio per bar with an annual target",
    "trailing levels of drawdown and Sharpe go on paying for the past",
)
"""Known defects of the guide's formulas (guide 2.2), which `formulas = "sound"` corrects."""


def _fills(loaded: LoadedSpec) -> Iterator[str]:
    if loaded.spec.env.fill == "close":
        yield 'env.fill = "close" fills at the close the decision was made on: optimistic'


# --- what wins, and what does nothing ---------------------------------------------------------------------------------


def _schedules(loaded: LoadedSpec) -> Iterator[str]:
    spec = loaded.spec
    for path in spec.schedules:
        if loaded.written(path):
            yield f"{path} has a value and a schedule: the schedule wins"
        for symbol, tables in spec.agents.items():
            is_own = f"agents.{symbol}.{path}" in loaded.origins
            if is_own and path not in tables.get("schedules", {}):
                yield f"agents.{symbol}: {path} has a value there and a schedule in [schedules]: the schedule wins"


def _sample(loaded: LoadedSpec) -> Iterator[str]:
    if loaded.spec.data.source == "sample" and set(loaded.spec.symbols) <= set(SAMPLE_SYMBOLS):
        yield "the sample is for testing and examples only, not for investment: see `p3kit data`"


def _unused(loaded: LoadedSpec) -> Iterator[str]:
    spec = loaded.spec
    if spec.compute.group != "auto" and read_agents(find_trainer(spec.trainer)) != "stack":
        yield f'compute.group has no effect: the trainer "{spec.trainer}" makes no stacks'
    if spec.data.path is not None and spec.data.source in ("sample", "synthetic"):
        yield f'data.path has no effect: source = "{spec.data.source}" reads no file'
    if spec.data.source in ("csv", "parquet"):
        for name in spec.data.columns.own:
            if name not in _own_columns(spec):
                yield f"data.columns.own: {toml_value(name)} has no effect: it is not in observation.columns"
    if loaded.written("data.synthetic") and spec.data.source != "synthetic":
        yield f'[data.synthetic] has no effect: source = "{spec.data.source}"'
    if spec.data.walk_forward is not None:
        yield "data.walk_forward: training and validation are its windows; of data.split the test part counts alone"
    if spec.criteria.strong.beats_supervised != "off" and not spec.baselines.supervised:
        yield "criteria.strong.beats_supervised is not judged: [baselines.supervised] is empty"


def _own_columns(spec: Spec) -> set[str]:
    """Columns that any agent observes."""
    lists = [spec.observation.columns, *spec.matrix.get("observation.columns", ())]
    lists += [tables.get("observation", {}).get("columns", ()) for tables in spec.agents.values()]
    return {str(name) for names in lists if isinstance(names, list | tuple) for name in names}


def _later(loaded: LoadedSpec) -> Iterator[str]:
    """Notes on a rule's cost and on settings without effect."""
    spec = loaded.spec
    agents = read_agents(find_trainer(spec.trainer))
    for rule in spec.intervention:
        named = f'intervention "{rule.id}"'
        if rule.scope != "agent" and agents == "one":
            yield f'{named}: scope = "{rule.scope}" is one agent: the trainer "{spec.trainer}" trains one in a run'
        if rule.scope != "agent" and agents == "stack":
            yield (
                f'{named}: scope = "{rule.scope}" reaches as far as one process, so what it does depends on '
                f"compute.group = {toml_value(spec.compute.group)}"
            )
    if spec.intervention and spec.diagnose.mode != "act":
        number = _count(len(spec.intervention), "intervention")
        effect = "journalled, not applied" if spec.diagnose.mode == "watch" else "not looked at"
        yield f'diagnose.mode = "{spec.diagnose.mode}": {number} {effect}'


def _search(loaded: LoadedSpec) -> Iterator[str]:
    tune = loaded.spec.tune
    if tune is not None:
        agents = len(loaded.spec.symbols) * len(loaded.spec.seeds)
        searched = f"{_count(tune.trials, 'trial')} of {_count(agents, 'agent')} over {', '.join(tune.space)}"
        yield f"[tune]: {searched}; `p3kit tune` searches, every other command uses the spec without a search"
        if len(loaded.spec.seeds) == 1:
            yield "[tune]: with one seed, what is chosen may be the luck of that seed"
        if (unfit := unfit_settings(loaded.spec)) is not None:
            yield unfit.note()


_Topics = tuple[Callable[[LoadedSpec], Iterator[str]], ...]

_SIZES: _Topics = (_agents, _iterations, _memory, _horizon, _evaluations)

_VALUES: _Topics = (
    _sample,
    _later,
    _learning_rate,
    _fills,
    _schedules,
    _unused,
    _search,
    _reward,
    _entropy_criterion,
)


# --- words ------------------------------------------------------------------------------------------------------------


def rollout_steps(spec: Spec) -> int | None:
    """Env steps of one iteration; None for a trainer without `n_steps`."""
    steps = getattr(spec.ppo, "n_steps", None)
    return steps * spec.env.num_envs if isinstance(steps, int) else None


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _bytes(size: float) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:,.0f} kB"
