"""The policy of a checkpoint as a function of observations, without a run, an optimiser or an environment.

A trainer defines it at module level, and `p3kit evaluate`, evaluations while training and `p3kit.load_policy` call it:

    def load_policy(args, weights, device, observation_size, num_actions, **_):
        net = ActorCritic(observation_size, num_actions, args, torch.Generator()).to(device)
        net.load_state_dict(weights["net"])

        def policy(observation, mask):
            logits, value = net(observation)
            return masked_log_softmax(logits, mask), value

        return policy

**In.** `args` are the knobs of the spec. `weights` holds the state dicts of a checkpoint by the names under which the
trainer registered them: those of a `best-*.pt`, or the trainer's part of a whole checkpoint. Sizes come by name:
`observation_size` and `num_actions` always, and for agents on bars `window`, `num_features` (per bar) and
`account_size`, where observation_size = window · num_features + account_size. `agent` is the agent's name, for
checkpoints of several agents. A trainer takes what it needs and leaves the rest in `**_`.

**Out.** `policy(observation, mask)` takes observations (B, observation_size) float32 and masks (B, num_actions) bool,
True where an action is valid. It returns logits (B, num_actions) float32, as log-probabilities in which an invalid
action has the smallest number, and values (B,) float32. Rows do not depend on each other.

The observation is already normalised: p3kit applies the statistics that it keeps below `observation/` of the same
checkpoint, if there are any. It also sets autocast and `torch.no_grad`.

A trainer without `load_policy` is evaluated by running its script with `--evaluate`. It then has to call
`agent.report_backtest` itself, and it cannot be loaded through `p3kit.load_policy`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from p3kit.env.account import ACCOUNT_FIELDS
from p3kit.errors import InputError
from p3kit.market import SymbolData
from p3kit.metrics import ACTIONS
from p3kit.runtime.checkpoints import Flat, part
from p3kit.runtime.scaling import ObservationScaler
from p3kit.spec import Spec

PolicyFunction = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(normalised observation (B, D), mask (B, A)) → (logits (B, A), value (B,))"""


SMALL_BATCH = 32
"""Rows of a pass of a backtest with a continuous account: bars ahead times action rules."""

LoadPolicy = Callable[..., PolicyFunction]
"""A trainer's `load_policy(args, weights, device, **sizes)`; see the module's docstring."""


class LoadedPolicy:
    """A policy with the observation statistics and the number format of its run."""

    def __init__(
        self,
        function: PolicyFunction,
        normalise: Callable[[Tensor], Tensor],
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self._function, self._normalise, self._autocast = function, normalise, autocast

    @torch.no_grad()
    def __call__(self, observation: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, A) and values (B,) of observations (B, D) as the environment returns them.

        Fewer than `SMALL_BATCH` rows are filled up to it: sums over a row have another order in a smaller batch, and a
        live decision would then differ from the backtest in the last bits.
        """
        rows = len(observation)
        if 0 < rows < SMALL_BATCH:
            observation, mask = (_fill_up(table) for table in (observation, mask))
        logits, value = self.forward(observation, mask)
        return logits[:rows], value[:rows]

    def forward(self, observation: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and values as a call returns them, from a batch of any size as it is."""
        with self._autocast():
            return self._function(self._normalise(observation), mask)

    def log_probs(self, observation: Tensor, mask: Tensor) -> Tensor:
        """Log-probabilities (B, A), as evaluations take them."""
        return self(observation, mask)[0]


def _fill_up(table: Tensor) -> Tensor:
    """Repeat the last row of a table (B, …) until it has `SMALL_BATCH` rows."""
    return torch.cat((table, table[-1:].expand(SMALL_BATCH - len(table), *table.shape[1:])))


def load_weights(
    load_policy: LoadPolicy,
    args: Any,
    spec: Spec,
    weights: Flat,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    **sizes: Any,
) -> LoadedPolicy:
    """The policy that `weights` hold, by the trainer's own `load_policy`."""
    observation = spec.observation
    scaler = ObservationScaler(
        sizes["observation_size"], running=observation.normalize == "running", clip=observation.clip, device=device
    )
    if statistics := _statistics(weights, sizes.get("agent")):
        scaler.load_state_dict(statistics)
    return LoadedPolicy(load_policy(args, by_part(weights), device, **sizes), scaler, autocast)


def by_part(weights: Flat) -> dict[str, Any]:
    """A flat checkpoint as state dicts by part: `net/policy.weight` becomes ["net"]["policy.weight"]."""
    parts: dict[str, Any] = {}
    for key, value in weights.items():
        name, slash, rest = key.partition("/")
        if slash:
            parts.setdefault(name, {})[rest] = value
        else:
            parts[name] = value
    return parts


def sizes_on_bars(spec: Spec, bars: SymbolData) -> dict[str, int]:
    """The sizes of an agent's observation on these bars, and of its actions, as `load_policy` takes them."""
    return sizes_of(spec, len(bars.feature_names))


def sizes_of(spec: Spec, features: int) -> dict[str, int]:
    """The sizes of an agent's observation with `features` per bar, and of its actions."""
    window, account = spec.env.window, len(ACCOUNT_FIELDS)
    return {
        "observation_size": window * features + account,
        "num_actions": len(ACTIONS),
        "window": window,
        "num_features": features,
        "account_size": account,
    }


def load_policy_of(module: ModuleType) -> LoadPolicy:
    """The `load_policy` of an imported trainer. Raises InputError where it has none."""
    function: LoadPolicy | None = getattr(module, "load_policy", None)
    if function is None:
        hint = "copy load_policy from trainers/ppo.py, and change it to the trainer's own networks"
        raise InputError(str(module.__file__), "has no function load_policy at module level", hint)
    return function


def _statistics(weights: Flat, agent: str | None) -> Flat:
    """Observation statistics in a checkpoint; of one agent where a whole checkpoint has those of several."""
    found = part("observation", weights)
    if "agents" in weights and agent is not None:
        place = weights["agents"].split("\n").index(agent)
        return {name: value[place] for name, value in found.items()}
    return found
