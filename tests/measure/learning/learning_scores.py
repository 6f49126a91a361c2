"""Scores on the synthetic market: a policy's log return per bar on unseen bars as a share of the optimal rule's.

python -m tests.measure.learning.learning_scores RUNS …    scores of the agents of these folders, and means of the seeds
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from p3kit.env.account import ACCOUNT_FIELDS, HOLD
from p3kit.errors import InputError
from p3kit.market import SymbolData, load_market
from p3kit.metrics import ACTIONS
from p3kit.rundir import RunDir, list_runs
from p3kit.runtime.attainable import attainable_share
from p3kit.runtime.checkpoints import Flat, load_checkpoint, part
from p3kit.runtime.evaluation import Evaluator, Policy, walk_together
from p3kit.runtime.walks import Walk
from p3kit.spec import Spec, resolve_spec


@dataclass(frozen=True)
class Score:
    """`share` of the attainable log return per bar; `yearly` is the policy's own log return a year."""

    share: float
    yearly: float
    bars: int


def score(spec: Spec, symbol: str, policy: Policy) -> Score:
    """Play `policy` on the test split and set it against the optimal rule on the same bars."""
    return score_together([spec], [symbol], [policy])[0]


def score_together(specs: Sequence[Spec], symbols: Sequence[str], policies: Sequence[Policy]) -> list[Score]:
    """Play policies side by side, each on the test split of its symbol: one walk over the bars costs most."""
    spec_of = dict(zip(symbols, specs, strict=True))
    markets = {symbol: load_market(spec, [symbol])[symbol] for symbol, spec in spec_of.items()}
    bars, device = [markets[symbol] for symbol in symbols], torch.device("cpu")
    agents = list(zip(specs, bars, symbols, strict=True))
    players = [Evaluator(*one, 0, device, final=True) for one in agents]

    def act(observation: Tensor, mask: Tensor) -> Tensor:
        return torch.stack([policy(observation[k], mask[k]) for k, policy in enumerate(policies)])

    walks = walk_together(players, "test", act)
    return [_score_of(*one, *walk) for one, walk in zip(agents, walks, strict=True)]


def _score_of(spec: Spec, bars: SymbolData, symbol: str, walk: Walk) -> Score:
    own = float(np.log1p(walk.bar_return).mean())
    found = attainable_share(spec, symbol, walk)
    share = np.nan if found is None else found["share"]  # without an edge nothing is attainable
    return Score(share, own * bars.bars_per_year, len(walk.bar))


def scores(run: RunDir) -> dict[str, Score]:
    """Of every agent of a run, at the weights that validation chose; an agent that never traded scores 0. Raises
    InputError for a run that is not done."""
    require_done(run)
    info, trainer = run.info(), trainer_module(run.path / "trainer.py")
    names, specs, policies = [], [], []
    for agent in info["agents"]:
        spec = resolve_spec(agent["spec"], run.name, run.trainer_file)
        (verdict,) = run.read_events("verdict", agent=agent["name"])
        among = agent["name"] if len(info["agents"]) > 1 else None
        best = run.checkpoint(f"best-{int(verdict['chosen_step']):09d}", among)
        names.append(agent["name"])
        specs.append(spec)
        policies.append(probabilities(trainer, spec, load_checkpoint(best)) if best.exists() else always_hold)
    found = score_together(specs, [agent["symbol"] for agent in info["agents"]], policies)
    return dict(zip(names, found, strict=True))


def require_done(run: RunDir) -> None:
    """Raise InputError for a training that was cut short. A trainer that is stopped by a signal exits with 0."""
    state = run.status()["state"]
    if state != "done":
        raise InputError(str(run.path), f"is {state}, and its weights are not the final ones", "train it again")


def print_scores(runs_root: Path) -> None:
    """A line per agent, the mean over the symbols of each seed, and the median of those."""
    by_seed: dict[int, list[float]] = {}
    for run in list_runs(runs_root):
        seeds = {agent["name"]: agent["seed"] for agent in run.info()["agents"]}
        for name, found in scores(run).items():
            print(f"{run.name:<10}{name:<16}{found.share:6.2f}")
            by_seed.setdefault(seeds[name], []).append(found.share)
    means = {seed: float(np.mean(shares)) for seed, shares in sorted(by_seed.items())}
    told = "  ".join(f"seed {seed} {mean:.2f}" for seed, mean in means.items())
    print(f"{runs_root}: {told}  median {np.median(list(means.values())):.2f}", flush=True)


def probabilities(trainer: Any, spec: Spec, weights: Flat) -> Policy:
    """The log-probabilities of a checkpoint of one agent, through the code that trained it. `evaluation.action` of the
    spec chooses from them."""
    args = trainer.Args(**spec.ppo.model_dump())
    if hasattr(trainer, "forward_all"):  # a shared encoder
        encoder = part("encoder", weights)
        heads = {name: own.unsqueeze(0) for name, own in part("heads", weights).items()}
        values = encoder["embed.weight"].shape[0] // args.patch
        shape = trainer.Shape(spec.env.window, values, len(ACCOUNT_FIELDS))

        def logits_of(observation: Tensor) -> Tensor:
            logits, *_ = trainer.forward_all(encoder, heads, observation.unsqueeze(0), shape, args)
            return logits.squeeze(0)

    else:
        own = part("net", weights)
        net = trainer.ActorCritic(own["policy.layers.0.weight"].shape[1], len(ACTIONS), args, torch.Generator())
        net.load_state_dict(own)

        def logits_of(observation: Tensor) -> Tensor:
            return net(observation)[0]

    def policy(observation: Tensor, mask: Tensor) -> Tensor:
        with torch.no_grad():
            return trainer.masked_log_softmax(logits_of(observation), mask)

    return policy


def always_hold(observation: Tensor, mask: Tensor) -> Tensor:
    """Log-probabilities of a policy that never trades."""
    return torch.full(mask.shape, -torch.inf).index_fill(-1, torch.tensor(HOLD), 0.0)


def trainer_module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"trainer_of_{path.parent.name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    torch.set_num_threads(1)
    for folder in sys.argv[1:]:
        print_scores(Path(folder))
