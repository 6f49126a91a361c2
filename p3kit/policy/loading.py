"""Load the policy of an agent from a run directory, through the `load_policy` of the run's own trainer."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch

from p3kit.errors import InputError, P3kitError
from p3kit.market import SymbolData, load_market
from p3kit.policy.trained_agent import Policy
from p3kit.rundir import RunDir, find_checkpoint, find_run, folder_of_runs
from p3kit.runtime.card import weights_of
from p3kit.runtime.checkpoints import Flat, load_checkpoint
from p3kit.runtime.machine import precision_of
from p3kit.runtime.policy import import_trainer, load_policy_of, load_weights, sizes_on_bars
from p3kit.spec import Spec, resolve_spec


def load_policy(
    agent: str | os.PathLike[str], checkpoint: str = "best", device: str = "cpu", runs_root: str | Path | None = None
) -> Policy:
    """Load a trained agent.

    The network comes from the run's own copy of its trainer, whose code is imported into this process: load only runs
    that you trust. The bars of the run have to be there, since they determine the features of an observation.

    Args:
        agent: `run-42/AAPL`, or a run that `open_run` returned; `run-42` is enough for a run of one agent.
        checkpoint: `best` (the weights that validation chose), `last`, or the name of a file in `checkpoints/`.
        device: `cpu`, `cuda` or `cuda:1`.
        runs_root: Folder of the run directories. Default: the environment variable `P3KIT_RUNS`, else `runs`.

    Returns:
        The policy: `act(observation, mask)`, `logits`, `probabilities` and `value`, with `name` and `spec`. One row,
        (D,) and (A,), or a batch, (B, D) and (B, A); D = `observation_size`, A = 7 actions.

    Raises:
        RunNotFound: No run or agent has that name.
        InputError: The run has several agents and none is named, or no such checkpoint.
        CheckpointError: The checkpoint is torn or altered.
        DataError: The bars of the run are missing or wrong.

    Example:
        >>> policy = p3kit.load_policy("run-42/AAPL")
        >>> env = p3kit.env.TradingVectorEnv(policy.spec, symbols=[policy.symbol], split="validation")
        >>> observation, info = env.reset(seed=1)
        >>> actions = policy.act(observation, info["action_mask"])
    """
    run, plan = _find(agent, runs_root)
    where = f"{run.path / 'run.json'}: {plan['name']}"
    spec = resolve_spec(plan["spec"], where, run.trainer_file)
    bars = _bars(run, spec, plan["symbol"])
    path = run.checkpoint(find_checkpoint(run, plan["name"], checkpoint))
    place = _device(device)
    state = load_checkpoint(path, place)
    return Policy(
        name=f"{run.name}/{plan['name']}",
        symbol=plan["symbol"],
        spec=spec,
        checkpoint=path.name,
        global_step=_step(path, plan["name"], state),
        feature_names=tuple(bars.feature_names),
        device=place,
        function=_function(run.trainer_file, spec, state, place, agent=plan["name"], **sizes_on_bars(spec, bars)),
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
    if info["env_id"]:
        raise InputError(run.name, f"trains on {info['env_id']}, not on bars", "only agents on bars can be loaded")
    return run, plans[name or next(iter(plans))]


def _bars(run: RunDir, spec: Spec, symbol: str) -> SymbolData:
    """The bars of the run, refused where they are not those it was trained on."""
    stored = run.info()["data"][symbol]
    bars = load_market(spec, [symbol], run.paths_from(), {symbol: stored["bars_per_year"]})[symbol]
    if bars.fingerprint != stored["fingerprint"]:
        raise InputError(run.name, f"the bars of {symbol} have changed since it was trained", "restore the file")
    return bars


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


def _function(trainer: Path, spec: Spec, state: Flat, device: torch.device, **sizes: Any) -> Any:
    """The trainer's policy function with the weights of a checkpoint, in the number format of the run."""
    module = import_trainer(trainer)
    if not hasattr(module, "Args"):
        raise P3kitError(str(trainer), "has no class Args", "see docs/own.md")
    args = module.Args(**spec.ppo.model_dump())
    return load_weights(load_policy_of(module), args, spec, weights_of(state), device, _autocast(spec, device), **sizes)


def _autocast(spec: Spec, device: torch.device) -> Any:
    """Context of a forward pass: bf16 or fp16 where the run used it on such a device."""
    precision = precision_of(spec, device)
    if precision == torch.float32:
        return nullcontext
    return partial(torch.autocast, device.type, dtype=precision)
