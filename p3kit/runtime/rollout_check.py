"""Replay of the first steps of each rollout in a fresh environment of the same spec and bars.

A step is a function of state, action and bars. So a rollout that is played again from its own start, with its own
actions, has the same numbers in every field. Where a field departs, something between the environment and the learner
changed it. One step in 64 is replayed. No random number is drawn: a row ends its replay with its episode.

Notation for shapes: T steps, R rows of the environment, K account fields, C reward components, D observation values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from p3kit.env import TradingEnv
from p3kit.env.account import ACCOUNT_FIELDS
from p3kit.env.reward import guide_drawdown, sound_drawdown
from p3kit.env.rules import UNIT, Rules
from p3kit.market import SymbolData
from p3kit.market.column_breaks import column_breaks, departing_features
from p3kit.metrics import COMPONENTS
from p3kit.runtime.field_changes import MISMATCH, is_exact

_STEP_OF = 64
_LEAST_STEPS = 2
_ROWS = 256
_EXACT, _FLOAT32, _FIELDS = 1e-6, 1e-5, 1e-3


class RolloutCheck:
    """A second environment that follows the one that trains."""

    def __init__(self, make_env: Callable[[], TradingEnv], bars: Sequence[SymbolData]) -> None:
        """`bars` are those that the environments play on."""
        self._make_env, self._bars, self._names = make_env, bars, bars[0].feature_names
        self._env: TradingEnv | None = None
        self._start: dict[str, Tensor] = {}

    def begin(self, env: TradingEnv) -> None:
        """Remember where the rollout begins."""
        self._start = {name: value.clone() for name, value in env.state_dict().items()}

    @property
    def env(self) -> TradingEnv:
        """The second environment, made when it is first used."""
        if self._env is None:
            self._env = self._make_env()
        return self._env

    @cached_property
    def departing_features(self) -> dict[str, Tensor]:
        """Per built-in feature that is not what its formula gives: the largest fraction of bars of a symbol, 0-d."""
        shares: dict[str, float] = {}
        for bars in self._bars:
            for name, share in departing_features(bars).items():
                shares[name] = max(share, shares.get(name, 0.0))
        device = self.env.device
        breaks = {
            f"{COLUMN}{one.column}": torch.ones((), device=device) for bars in self._bars for one in column_breaks(bars)
        }
        return breaks | {f"feature.{name}": torch.tensor(share, device=device) for name, share in shares.items()}

    @torch.no_grad()
    def compare(self, buffer: Any) -> dict[str, Tensor]:
        """Per field that departs in some row: 1 where it does, (R,). `buffer` has tables (T, R, …)."""
        steps = min(len(buffer.action), max(_LEAST_STEPS, len(buffer.action) // _STEP_OF))
        step = self.env.load_state_dict(self._start)
        following = torch.ones_like(buffer.valid[0])
        found: dict[str, Tensor] = {}
        for t in range(steps):
            before = step
            step = self.env.step(buffer.action[t], torch.zeros_like(step.equity))
            departs = {
                "bar": buffer.index[t] != before.index,
                "mask": (buffer.mask[t] != before.mask).any(-1),
                **_columns("account", buffer.account[t], before.account, ACCOUNT_FIELDS, _FLOAT32),
                **_rewards(buffer.components[t], step.components, following),
                "equity": apart(buffer.equity[t], step.equity, _EXACT),
                "terminated": buffer.terminated[t] != step.terminated,
                "truncated": buffer.truncated[t] != step.truncated,
                "final observation": (buffer.final_index[t] != step.final_index)
                | apart(buffer.final_account[t], step.final_account, _FLOAT32).any(-1),
            }
            wrong = torch.zeros_like(following)
            for name, rows in departs.items():
                found[name] = found.get(name, torch.zeros_like(following)) | (rows & following)
                wrong = wrong | (rows & following if name != SAME_UNIT else wrong)
            following = following & ~(wrong | step.terminated | step.truncated)
        formulas = departing_formulas(buffer, self.env.rules)
        return {name: torch.maximum(rows.double(), formulas.get(name, rows.double())) for name, rows in found.items()}

    @torch.no_grad()
    def compare_observations(self, observation: Tensor, index: Tensor, account: Tensor) -> dict[str, Tensor]:
        """Per feature: the fraction of sampled observations (B, D) that are not those of their bars, 0-d."""
        some = slice(None, None, max(len(index) // _ROWS, 1))
        expected = self.env.observe(index[some], account[some])
        count = expected.shape[-1] - self.env.account_size
        seen, expected = observation[some, :count], expected[:, :count]
        same = (seen == expected) | (seen.isnan() & expected.isnan())
        share = (~same).double().mean(0).view(-1, len(self._names)).amax(0)
        return {f"observation.{name}": share[i] for i, name in enumerate(self._names)}


def as_metrics(shares: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`mismatch/` and each field; and `diag/mismatch`, the largest of them, which is 1 where an exact field departs."""
    counted = {name: share for name, share in shares.items() if name != SAME_UNIT and not name.startswith(COLUMN)}
    sizes = [(share > 0).double() if is_exact(name) else share for name, share in counted.items()]
    largest = torch.stack(sizes).amax(0)
    return {MISMATCH + name: share for name, share in shares.items()} | {"diag/mismatch": largest}


def departing_formulas(buffer: Any, rules: Rules) -> dict[str, Tensor]:
    """Per component that account fields alone decide: 1 in rows (R,) in which some step departs from its formula.

    It covers every step of the rollout, since a drawdown or an overdue position is rare in the few that are replayed.
    pnl is the change of equity. Costs, drawdowns, sizing and overdue positions never pay.
    """
    ends = buffer.account.double(), buffer.final_account.double()
    before, after = (dict(zip(ACCOUNT_FIELDS, table.unbind(-1), strict=True)) for table in ends)
    paid = dict(zip(COMPONENTS, buffer.components.double().unbind(-1), strict=True))
    is_sound = rules.formulas == "sound"
    if is_sound:
        drawdown = sound_drawdown(before["max_drawdown"], after["max_drawdown"])
    else:
        drawdown = guide_drawdown(after["drawdown"])
    gain = (after["equity_change"] - before["equity_change"]) / (UNIT if is_sound else 1.0)
    factor = (paid["pnl"] * gain).sum(1, keepdim=True) / gain.square().sum(1, keepdim=True).clamp_min(1e-12)
    unit = torch.where(factor > 0, factor, 1.0)  # a step in another unit is no fault
    departs = {
        "pnl": apart(paid["pnl"], unit * gain, _FIELDS) if is_sound else torch.zeros_like(buffer.valid),
        "drawdown": apart(paid["drawdown"], unit * drawdown, _FIELDS),
        **{name: paid[name] > 1e-9 for name in ("cost", "sizing", "hold")},
    }
    return {f"reward.{name}": (rows & buffer.valid).any(0).double() for name, rows in departs.items()}


COLUMN = "column."
"""Columns of the user's that change part of the way: for `data.break`, and no departure from a replay."""
SAME_UNIT = "reward.unit"
"""All components times one positive number: another unit, and no fault by itself."""


def _rewards(seen: Tensor, expected: Tensor, following: Tensor) -> dict[str, Tensor]:
    """Per component (R,): where it departs; as one change of unit where all are times one positive factor."""
    paid = (expected[:, 0].abs() > 1e-12) & following
    ratio = torch.where(paid, seen[:, 0] / expected[:, 0], torch.nan)
    factor = ratio.nanmedian().nan_to_num(1.0).clamp_min(0.0)
    is_unit = ~(apart(seen, factor * expected, _EXACT) & following.unsqueeze(1)).any() & (factor > 0)
    departs = _columns("reward", seen, expected, COMPONENTS, _EXACT)
    every = torch.stack(list(departs.values())).any(0)
    return {name: rows & ~is_unit for name, rows in departs.items()} | {SAME_UNIT: every & is_unit}


def _columns(kind: str, seen: Tensor, expected: Tensor, names: tuple[str, ...], error: float) -> dict[str, Tensor]:
    departs = apart(seen, expected, error)
    return {f"{kind}.{name}": departs[:, i] for i, name in enumerate(names)}


def apart(seen: Tensor, expected: Tensor, error: float) -> Tensor:
    """Elements that differ by more than rounding; two that are not finite alike do not."""
    near = (seen - expected).abs() <= error * (1 + expected.abs())
    return ~(near | (seen == expected) | (seen.isnan() & expected.isnan()))
