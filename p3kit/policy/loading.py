"""Load the policy of an agent from a run directory or a checkpoint, through the `load_policy` of its trainer."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch

from p3kit.errors import CheckpointError, InputError, P3kitError, P3kitWarning
from p3kit.market import FeatureRecipe, load_market
from p3kit.market.novelty import Distribution, distribution_of
from p3kit.plan import describe_data
from p3kit.policy.exported import is_export, load_export
from p3kit.policy.trained_agent import Policy
from p3kit.rundir import RunDir, find_checkpoint, find_run, folder_of_runs
from p3kit.runtime.card import Card, cards_in, make_card, weights_of
from p3kit.runtime.checkpoints import Flat, load_checkpoint
from p3kit.runtime.machine import precision_of
from p3kit.runtime.policy import LoadedPolicy, load_policy_of, load_weights, sizes_of
from p3kit.runtime.trainer_import import import_trainer
from p3kit.spec import Spec, find_trainer, resolve_spec
from p3kit.spec.shipped import shipped_trainers


def load_policy(
    agent: str | os.PathLike[str], checkpoint: str = "best", device: str = "cpu", runs_root: str | Path | None = None
) -> Policy:
    """Load a trained agent.

    The network comes from the run's own copy of its trainer, whose code is imported into this process: load only runs
    that you trust. The bars of the run are not needed. A run of format 1, made before runs held the statistics of their
    features, still needs them. An exported policy runs no code: its network is ONNX (extra `export`).

    Args:
        agent: `run-42/AAPL`, or a run that `open_run` returned; `run-42` is enough for a run of one agent. Or a
            checkpoint, `checkpoints/last.pt` or `last.pt/AAPL`, with the `trainer.py` of its run or a shipped trainer.
            Or the folder of an exported policy.
        checkpoint: `best` (the weights that validation chose), `last`, or the name of a file in `checkpoints/`.
        device: `cpu`, `cuda` or `cuda:1`.
        runs_root: Folder of the run directories. Default: the environment variable `P3KIT_RUNS`, else `runs`.

    Returns:
        The policy: `predict(bars, account)` decides on a DataFrame of past bars. `act(observation, mask)`, `logits`,
        `probabilities` and `value` take one row, (D,) and (A,), or a batch, (B, D) and (B, A); D = `observation_size`,
        A = 7 actions.

    Raises:
        RunNotFound: No run or agent has that name.
        InputError: The run has several agents and none is named, or no such checkpoint.
        CheckpointError: The checkpoint is torn or altered.
        DataError: The bars of a run of format 1 are missing or wrong.

    Example:
        >>> policy = p3kit.load_policy("run-42/AAPL")
        >>> policy.predict(bars, p3kit.Account(cash=10_000)).action
        'BUY_SMALL'
        >>> env = p3kit.env.TradingVectorEnv(policy.spec, symbols=[policy.symbol], split="validation")
        >>> observation, info = env.reset(seed=1)
        >>> actions = policy.act(observation, info["action_mask"])
    """
    place = _device(device)
    if is_export(Path(agent)):
        return load_export(Path(agent), place)
    source = _of_checkpoint(os.fspath(agent), place) or _of_run(agent, checkpoint, runs_root, place)
    card, state = source.card, source.state
    spec = resolve_spec(card["spec"], source.where, source.trainer_file)
    data = card["data"] if {"recipe", "distribution"} <= card["data"].keys() else _data_of_format_1(source, spec)
    recipe = FeatureRecipe.from_json(data["recipe"])
    sizes: dict[str, Any] = {**sizes_of(spec, len(recipe.names)), "agent": card["name"]}
    return Policy(
        name=source.name,
        symbol=card["symbol"],
        spec=spec,
        checkpoint=source.path.name,
        global_step=_step(source.path, card["name"], state),
        feature_names=recipe.names,
        device=place,
        function=_function(source, spec, place, sizes),
        recipe=recipe,
        trained_until=data["split_days"]["train"][1],
        distribution=Distribution.from_json(data["distribution"]),
        seed=card["seed"],
    )


@dataclass(frozen=True)
class _Source:
    """A checkpoint and the card of one agent."""

    name: str
    where: str
    path: Path
    state: Flat
    card: Card
    trainer_file: Path
    run: RunDir | None = None

    @property
    def is_older(self) -> bool:
        """True for a run of an earlier format, whose trainer may use names that are gone."""
        return self.run is not None and self.run.is_older


def _of_checkpoint(reference: str, device: torch.device) -> _Source | None:
    """The checkpoint that `reference` names; None where it names a run."""
    found = re.fullmatch(r"(.+\.pt)(?:/(.+))?", reference)
    if found is None or not Path(found[1]).is_file():
        return None
    path, agent = Path(found[1]), found[2]
    state = load_checkpoint(path, device)
    cards = cards_in(state)
    if not cards:
        raise InputError(str(path), "has format 1, without the card of an agent", "name the run: RUN or RUN/AGENT")
    if agent is None and len(cards) > 1:
        raise InputError(str(path), f"holds {len(cards)} agents", f'name one, for example "{path}/{next(iter(cards))}"')
    if agent is not None and agent not in cards:
        raise InputError(str(path), f"holds no agent {agent}", f"its agents: {', '.join(cards)}")
    card = cards[agent or next(iter(cards))]
    _require_bars(card["data"], str(path))
    if "recipe" not in card["data"]:
        raise InputError(str(path), "is of a run of format 1, without the recipe of its features", "name the run")
    own = path.resolve().parent.parent / "trainer.py"
    trainer = own if own.is_file() else find_trainer(str(card["trainer"]))
    return _Source(f"{path.stem}/{card['name']}", f"{path}: {card['name']}", path, state, card, trainer)


def _of_run(
    agent: str | os.PathLike[str], checkpoint: str, runs_root: str | Path | None, device: torch.device
) -> _Source:
    """The checkpoint of an agent of a run."""
    run, plan = _find(agent, runs_root)
    path = run.checkpoint(find_checkpoint(run, plan["name"], checkpoint))
    card = make_card(run.info(), plan)
    where = f"{run.path / 'run.json'}: {plan['name']}"
    return _Source(
        f"{run.name}/{plan['name']}", where, path, load_checkpoint(path, device), card, run.trainer_file, run
    )


def _find(agent: str | os.PathLike[str], runs_root: str | Path | None) -> tuple[RunDir, Mapping[str, Any]]:
    """The run, and the entry of the agent in its plan. Raises InputError where the agent is not determined."""
    run, name = find_run(folder_of_runs(runs_root), os.fspath(agent))
    info = run.info()
    plans = {plan["name"]: plan for plan in info["agents"]}
    if name is None and len(plans) != 1:
        raise InputError(
            run.name, f"has {len(plans)} agents", f'name one, for example "{run.name}/{next(iter(plans))}"'
        )
    _require_bars(info.get("data") if not info["env_id"] else None, run.name)
    return run, plans[name or next(iter(plans))]


def _require_bars(data: Any, where: str) -> None:
    if not data:
        raise InputError(where, "trains on a task of its own, not on bars", "only agents on bars can be loaded")


def _data_of_format_1(source: _Source, spec: Spec) -> dict[str, Any]:
    """The facts about the bars that a newer run holds, from the bars of a run of format 1."""
    stored, run, symbol = source.card["data"], source.run, source.card["symbol"]
    assert run is not None  # noqa: S101  a checkpoint without a recipe has no card
    year = {symbol: stored["bars_per_year"]} if "bars_per_year" in stored else None
    bars = load_market(spec, [symbol], run.paths_from(), year)[symbol]
    if bars.fingerprint != stored["fingerprint"] and not stored.get("synthetic"):  # processors round exp in other ways
        raise InputError(run.name, f"the bars of {symbol} have changed since it was trained", "restore the file")
    return {**describe_data(bars), "distribution": distribution_of(bars, spec.env.window).to_json()}


def _device(device: str) -> torch.device:
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device={device!r}", "this machine has no CUDA device", 'use "cpu"')
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device={device!r}", "is no device", "cpu, cuda or cuda:1") from error


def _step(path: Path, agent: str, state: Flat) -> int | None:
    """Env steps of the agent at the checkpoint: from the file, else from its name."""
    step = state.get(f"agent/{agent}/global_step")
    if step is None and (found := re.match(r"best-(\d+)", path.stem)):
        return int(found[1])
    return step


def _function(source: _Source, spec: Spec, device: torch.device, sizes: dict[str, Any]) -> LoadedPolicy:
    """The trainer's policy function with the weights of the checkpoint.

    The trainer of a run of an earlier format may not work with this p3kit. Then the shipped trainer of the same name
    takes the weights, with a warning, if they fit its network.
    """
    try:
        return _function_of(source.trainer_file, source, spec, device, sizes)
    except Exception as error:
        shipped = shipped_trainers().get(str(source.card["trainer"]))
        if not source.is_older or shipped is None:
            raise
        reason = error.faults[0].what if isinstance(error, P3kitError) else str(error).splitlines()[0]
    made = source.run.made_by() if source.run else ""
    try:
        function = _function_of(shipped, source, spec, device, sizes)
    except Exception as error:
        what = f"was made by {made}; neither its trainer works with this p3kit ({reason}), nor {shipped.name}"
        raise CheckpointError(source.name, what, "load it with the p3kit that made it") from error
    text = f"{source.name} was made by {made}; {shipped.name} of this p3kit takes its weights ({reason})"
    warnings.warn(text, P3kitWarning, stacklevel=4)
    return function


def _function_of(
    trainer: Path, source: _Source, spec: Spec, device: torch.device, sizes: dict[str, Any]
) -> LoadedPolicy:
    """The policy function of one trainer file, in the number format of the run."""
    module = import_trainer(trainer)
    if not hasattr(module, "Args"):
        raise P3kitError(str(trainer), "has no class Args", "see docs/own.md")
    knobs = spec.ppo.model_dump()
    if trainer != source.trainer_file:
        known = {field.name for field in fields(module.Args)}
        knobs = {name: value for name, value in knobs.items() if name in known}
    weights = weights_of(source.state)
    return load_weights(
        load_policy_of(module), module.Args(**knobs), spec, weights, device, _autocast(spec, device), **sizes
    )


def _autocast(spec: Spec, device: torch.device) -> Any:
    """Context of a forward pass: bf16 or fp16 where the run used it on such a device."""
    precision = precision_of(spec, device)
    if precision == torch.float32:
        return nullcontext
    return partial(torch.autocast, device.type, dtype=precision)
