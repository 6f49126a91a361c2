"""The observation of a live account: the one that the environment's continuous account has at the same bar."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from p3kit.env.account import Account as AccountTensors
from p3kit.env.account import observe_account
from p3kit.env.rules import Rules
from p3kit.errors import BarsError, DataError
from p3kit.market import Bars, FeatureRecipe
from p3kit.market.annual import SECONDS_PER_YEAR
from p3kit.market.files import read_frame
from p3kit.market.load import reading_of
from p3kit.metrics import ACTIONS
from p3kit.policy.live_account import Account, start_capital_of, to_tensors
from p3kit.policy.live_decision import Fill, is_ruined, reasons
from p3kit.spec import Spec


@dataclass(frozen=True, eq=False)
class Observed:
    """Observation and valid actions at the close of the last bar."""

    bars: Bars
    features: NDArray[np.float32]
    """Of the last `window` bars, (window, F)."""
    observation: Tensor
    """(1, D) float32"""
    account: AccountTensors
    """One row of the environment."""
    rules: Rules
    valid: dict[str, str | None]
    """Action → the reason that it is masked, None where it is valid."""

    @property
    def mask(self) -> Tensor:
        """(1, A) bool, True where an action is valid."""
        return torch.tensor([[self.valid[name] is None for name in ACTIONS]])


def read_bars_of(bars: pd.DataFrame | Bars, symbol: str, spec: Spec) -> Bars:
    """Past bars from a DataFrame, read and checked as the files of the spec are."""
    if isinstance(bars, Bars):
        return bars
    return read_frame(bars, symbol, reading_of(spec))


def observe(bars: Bars, account: Account | None, spec: Spec, recipe: FeatureRecipe) -> Observed:
    """The observation at the close of the last bar. Raises BarsError for too few bars."""
    window = spec.env.window
    needed = window + recipe.look_back
    if len(bars) < needed:
        what = f"has {len(bars)} bars; a decision needs {needed} (env.window {window} + look-back {recipe.look_back})"
        raise BarsError(bars.source or bars.symbol, what, "give more past bars")
    features = recipe.features(bars.part(len(bars) - needed, len(bars)))[-window:]
    _check_finite(features, recipe, bars)
    rules = Rules.from_spec(spec, continuous=True)
    own = Account(cash=rules.initial_capital) if account is None else account
    start = rules.initial_capital if account is None else start_capital_of(own, rules)
    rules = replace(rules, initial_capital=start)
    row = to_tensors(own, float(bars.close[-1]), rules)
    fields = observe_account(row, torch.tensor([ACTIONS.index(own.last_action)]), _ONE_HOT, rules)
    clip = float(spec.observation.clip)
    seen = torch.cat((torch.from_numpy(features).reshape(1, -1), fields), dim=1).clamp(-clip, clip)
    valid = reasons(row, is_ruined(float(row.equity[0]), start, rules), rules)
    return Observed(bars, features, seen, row, rules, valid)


def fill_of(seen: Observed) -> Fill:
    """Price at which an order fills: `env.fill`, or the close where the bars have no open."""
    if seen.rules.fill == "close":
        return "this close"
    return "next close" if seen.bars.open is None else "next open"


def time_of(bars: Bars) -> pd.Timestamp:
    """The time of the last bar."""
    return pd.Timestamp(bars.timestamps[-1])


def bars_since(bars: Bars, moment: str, bars_per_year: float) -> int:
    """Bars after `moment`. Those before the first of `bars` are estimated from the bars per year."""
    begin = np.datetime64(moment)
    counted = int((bars.timestamps > begin).sum())
    years = float((bars.timestamps[0] - begin) / np.timedelta64(1, "s") / SECONDS_PER_YEAR)
    return counted + max(0, round(years * bars_per_year) - 1)


_ONE_HOT = torch.eye(len(ACTIONS), dtype=torch.float64)


def _check_finite(features: NDArray[Any], recipe: FeatureRecipe, bars: Bars) -> None:
    wrong = np.argwhere(~np.isfinite(features))
    if len(wrong):
        row, column = wrong[0]
        when = str(bars.timestamps[len(bars) - len(features) + row])[:19]
        what = f"feature {recipe.names[column]} of the bar at {when} is not finite"
        raise DataError(bars.source or bars.symbol, what, "check the bars before it")
