"""The environment alone (the training guide's debugging workflow, section 5.2, step 1): 1,000 random steps."""

from __future__ import annotations

import torch
from torch import Tensor

from p3kit.check.probe import Probe
from p3kit.env import Timestep, TradingEnv, make_trading_env
from p3kit.errors import NumericalFault
from p3kit.market import SymbolData
from p3kit.spec import Spec

STEPS = 1_000
SEED = 20_101


def probe_environment(spec: Spec, bars: SymbolData) -> Probe:
    """Play 1,000 random allowed steps per row on a symbol's training split, twice, and look at everything."""
    question = f"Does {bars.symbol}'s environment behave over {STEPS:,} random steps of {spec.env.num_envs} accounts?"
    try:
        first, faults = _walk(spec, bars)
        second, _ = _walk(spec, bars)
    except NumericalFault as fault:
        return Probe("environment", question, False, str(fault), "p3kit data SPEC shows the bars")
    if not torch.equal(first, second):
        faults.append("two walks with one seed differ")
    if faults:
        return Probe("environment", question, False, "; ".join(faults), "p3kit data SPEC shows the bars")
    low, high = float(first.min()), float(first.max())
    evidence = f"all finite, equity stayed within {low:,.0f} and {high:,.0f}, the same seed gave the same bits"
    return Probe("environment", question, True, evidence, details={"equity_low": low, "equity_high": high})


def _walk(spec: Spec, bars: SymbolData) -> tuple[Tensor, list[str]]:
    """Equity after every step (STEPS, N), and what was wrong."""
    env = make_trading_env({bars.symbol: bars}, spec, symbols=[bars.symbol])
    generator = torch.Generator().manual_seed(SEED)
    step = env.reset(torch.rand(env.num_envs, generator=generator))
    equity, faults = [], set(_faults(env, step))
    for _ in range(STEPS):
        noise = torch.rand(env.num_envs, env.num_actions, generator=generator)
        action = noise.masked_fill(~step.mask, -1).argmax(1)
        step = env.step(action, torch.rand(env.num_envs, generator=generator))
        faults |= set(_faults(env, step))
        equity.append(step.equity)
    env.raise_if_faulty()
    return torch.stack(equity), sorted(faults)


def _faults(env: TradingEnv, step: Timestep) -> list[str]:
    """Return the faults of the rows, before any repair."""
    observation = env.observe(step.index, step.account)
    faults = []
    if observation.shape != (env.num_envs, env.observation_size):
        faults.append(f"an observation has the shape {tuple(observation.shape)}")
    if not bool(observation.isfinite().all()):
        faults.append("an observation is not finite")
    if not bool(step.components.isfinite().all()):
        faults.append("a reward component is not finite")
    if not bool(step.mask.any(1).all()):
        faults.append("a mask allows nothing")
    return faults
