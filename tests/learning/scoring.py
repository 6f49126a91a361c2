"""Scores on the synthetic market: a policy's log return per bar on unseen bars as a share of the optimal rule's."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from p3kit.market import load_market
from p3kit.market.load import synthetic_market
from p3kit.market.optimal import TradingRules, attainable
from p3kit.rundir import RunDir
from p3kit.runtime.checkpoints import load_checkpoint, part
from p3kit.runtime.evaluation import Evaluator, Policy
from p3kit.spec import Spec, resolve_spec


@dataclass(frozen=True)
class Score:
    """`share` of the attainable log return per bar; `yearly` is the policy's own log return a year."""

    share: float
    yearly: float
    bars: int


def score(spec: Spec, symbol: str, policy: Policy) -> Score:
    """Play `policy` on the test split and set it against the optimal rule on the same bars."""
    bars = load_market(spec, [symbol])[symbol]
    walk = Evaluator(spec, bars, symbol, 0, torch.device("cpu"), final=True).walk("test", policy)
    own = float(np.log1p(walk.bar_return).mean())
    first, last = bars.splits["test"]
    best = attainable(synthetic_market(spec, symbol), TradingRules.from_spec(spec), first, last).log_return_per_bar
    share = own / best if spec.data.synthetic.edge > 0 else np.nan  # without an edge nothing is attainable
    return Score(share, own * bars.bars_per_year, len(walk.bar))


def trained_policy(run: RunDir) -> tuple[Spec, str, Policy]:
    """Spec, symbol and greedy policy of a run's best weights by validation, from the trainer copy that made them."""
    agent = run.info()["agents"][0]
    spec = resolve_spec(agent["spec"], run.name)
    trainer = trainer_module(run.path / "trainer.py")
    best = _chosen_step(run)
    weights = part("net", load_checkpoint(run.checkpoint(f"best-{best:09d}")))
    observation_size = weights["policy.layers.0.weight"].shape[1]
    net = trainer.ActorCritic(observation_size, 7, trainer.Args(**spec.ppo.model_dump()), torch.Generator())
    net.load_state_dict(weights)

    def policy(observation: Tensor, mask: Tensor) -> Tensor:
        return trainer.masked_log_softmax(net(observation)[0], mask).argmax(-1)

    return spec, agent["symbol"], policy


def _chosen_step(run: RunDir) -> int:
    (verdict,) = run.read_events("verdict")
    return int(verdict["chosen_step"])


def trainer_module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"trainer_of_{path.parent.name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
