"""`Policy`: the network of a trained agent, with its observation statistics, as functions of observations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from p3kit.env.account import ACCOUNT_FIELDS
from p3kit.errors import InputError
from p3kit.market import Bars, FeatureRecipe
from p3kit.market.novelty import Distribution
from p3kit.metrics import ACTIONS
from p3kit.policy.live_account import Account
from p3kit.policy.live_decision import Decision, order_of
from p3kit.policy.observing import bars_since, fill_of, observe, read_bars_of, time_of
from p3kit.runtime.action_rule import GREEDY, bar_draws, choose_action
from p3kit.runtime.policy import LoadedPolicy
from p3kit.spec import Spec

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Policy:
    """A trained agent: action, logits and value of observations.

    Shapes: B rows, D = `observation_size` values, A = 7 actions in the order of `action_names`. Every function takes
    one row, (D,) and (A,), or a batch, (B, D) and (B, A), of numpy arrays or anything that `numpy.asarray` takes, and
    returns arrays with or without the axis B. An observation is the one of `p3kit.env.TradingVectorEnv(policy.spec)`:
    `window` bars of `feature_names`, the oldest first, then `account_fields`, each within ± `spec.observation.clip`.
    A mask is its `info["action_mask"]`: True where an action is valid. Rows do not depend on each other.
    """

    name: str
    """`run-42/AAPL`."""
    symbol: str
    spec: Spec
    """The spec of this agent, with every value."""
    checkpoint: str
    """Name of the checkpoint file."""
    global_step: int | None
    """Env steps after which the checkpoint was written. None where the file does not record it."""
    feature_names: tuple[str, ...]
    """The features of a bar, in the order of the observation."""
    device: torch.device
    function: LoadedPolicy
    """The policy on tensors: (observation (B, D), mask (B, A)) → (logits (B, A), value (B,))."""
    recipe: FeatureRecipe
    """The features of a bar."""
    trained_until: str
    """Time of the last bar of the training split."""
    distribution: Distribution
    """The training distribution, for novelty."""
    seed: int
    """The agent's seed, by which the rules `sharpened` and `sampled` draw."""

    action_names: Sequence[str] = ACTIONS
    account_fields: Sequence[str] = ACCOUNT_FIELDS

    @property
    def action_rule(self) -> str:
        """The rule that picks the action, `evaluation.action` of the spec: greedy, sharpened or sampled."""
        return self.spec.evaluation.action

    @property
    def bars_needed(self) -> int:
        """Past bars that a decision needs: window and longest look-back of a feature."""
        return self.window + self.recipe.look_back

    @property
    def window(self) -> int:
        """Bars in an observation."""
        return self.spec.env.window

    @property
    def observation_size(self) -> int:
        """Values of an observation: window × features + account fields."""
        return self.window * len(self.feature_names) + len(self.account_fields)

    def predict(self, bars: pd.DataFrame | Bars, account: Account | None = None) -> Decision:
        """Decide at the close of the last bar, as the backtest of the continuous account does, bit for bit.

        `bars` are past bars, the oldest first, with the columns of the user's files (open, high, low, close, volume)
        and the timestamps as a column or as the row index. At least `bars_needed`; more change nothing. `account` is
        the account at the close of the last bar. Default: flat, with the initial capital of the spec.

        Raises BarsError for too few bars, DataError for bars that cannot be trusted, InputError for an account that
        cannot be.
        """
        seen = observe(read_bars_of(bars, self.symbol, self.spec), account, self.spec, self.recipe)
        logits, value = self.function(seen.observation.to(self.device), seen.mask.to(self.device))
        action = int(self._choose(logits.cpu(), seen.bars.timestamps[-1:])[0])
        chances = torch.exp(logits[0]).tolist()
        return Decision(
            time=time_of(seen.bars),
            action=self.action_names[action],
            probabilities=dict(zip(self.action_names, chances, strict=True)),
            value=float(value[0]),
            valid=seen.valid,
            order=order_of(action, seen.account, float(seen.bars.close[-1]), seen.rules, fill_of(seen)),
            novelty=self.distribution.assess(seen.features),
            weights_age_bars=bars_since(seen.bars, self.trained_until, self.recipe.bars_per_year),
        )

    def act(self, observation: ArrayLike, mask: ArrayLike, times: ArrayLike | None = None) -> NDArray[np.int64]:
        """Return the action by the action rule: (B,), or an array of no dimension for one row.

        All rules but `greedy` need `times`: the time of each observation's last bar, (B,) datetime64 in UTC.
        """
        logits = torch.from_numpy(self.logits(observation, mask))
        if times is None and self.action_rule != GREEDY:
            hint = "give act(observation, mask, times), the time of each observation's last bar"
            raise InputError(self.name, f"acts by the rule {self.action_rule}, which needs the time of the bar", hint)
        if times is None:
            return np.asarray(choose_action(logits, self.action_rule, logits[..., 0]).numpy())
        moments = np.asarray(times, dtype="datetime64[us]")
        if moments.shape != tuple(logits.shape[:-1]):
            what = f"times has shape {moments.shape} for {tuple(logits.shape[:-1])} observations"
            raise InputError(self.name, what, "give a time per observation")
        return np.asarray(self._choose(logits, moments.ravel()).numpy()).reshape(moments.shape)

    def _choose(self, logits: Tensor, times: NDArray[np.datetime64]) -> Tensor:
        """Actions (B,) of logits at the times (B,) of their bars."""
        draws = torch.from_numpy(bar_draws(self.seed, self.symbol, times))
        return choose_action(logits, self.action_rule, draws)

    def logits(self, observation: ArrayLike, mask: ArrayLike) -> NDArray[np.float32]:
        """Return log-probabilities (B, A), float32. A masked action has the smallest number: its probability is 0."""
        return self._forward(observation, mask)[0]

    def probabilities(self, observation: ArrayLike, mask: ArrayLike) -> NDArray[np.float32]:
        """Return the probability of each action, (B, A) float32. Rows sum to 1."""
        probabilities: NDArray[np.float32] = np.exp(self.logits(observation, mask))
        return probabilities

    def value(self, observation: ArrayLike, mask: ArrayLike | None = None) -> NDArray[np.float32]:
        """Return the value (B,), float32: the expected discounted sum of the scaled rewards that the agent trained on.

        The value of the shipped trainers does not depend on the mask. Default: every action is valid.
        """
        rows = np.shape(observation)[:-1]
        return self._forward(observation, np.ones((*rows, len(self.action_names)), bool) if mask is None else mask)[1]

    def _forward(self, observation: ArrayLike, mask: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        seen, valid = self._checked(observation, mask)
        if seen.ndim == 1:
            logits, value = self.function(seen[None], valid[None])
            return _array(logits[0]), _array(value[0])
        logits, value = self.function(seen, valid)
        return _array(logits), _array(value)

    def _checked(self, observation: ArrayLike, mask: ArrayLike) -> tuple[Tensor, Tensor]:
        """Tensors on the device. Raises InputError for other shapes, for NaN, and for a row without a valid action."""
        seen, valid = np.asarray(observation, dtype=np.float32), np.asarray(mask)
        self._check_shape("observation", seen, self.observation_size)
        self._check_shape("mask", valid, len(self.action_names))
        if seen.shape[:-1] != valid.shape[:-1]:
            what = f"mask has shape {valid.shape} for observations of shape {seen.shape}"
            raise InputError(self.name, what, "give a mask per observation")
        if valid.dtype != np.bool_:
            raise InputError(self.name, f"mask is {valid.dtype}", "give booleans, True where an action is valid")
        if not valid.any(-1).all():
            raise InputError(self.name, "a mask has no valid action", "HOLD is valid in every state")
        if not np.isfinite(seen).all():
            raise InputError(self.name, "an observation is not finite", "check the bars that it was made from")
        return torch.from_numpy(seen).to(self.device), torch.from_numpy(valid).to(self.device)

    def _check_shape(self, word: str, values: NDArray[Any], size: int) -> None:
        if values.ndim not in (1, 2) or values.shape[-1] != size:
            what = f"{word} has shape {values.shape}, expected ({size},) or (rows, {size})"
            raise InputError(self.name, what, "p3kit.env.TradingVectorEnv(policy.spec) makes observations and masks")


def _array(values: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = values.float().cpu().numpy()
    return array
