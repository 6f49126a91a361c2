"""Small markets, specs and players for the tests of the environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from p3kit.env import Timestep, TradingEnv
from p3kit.market import SymbolData
from p3kit.metrics import ACTIONS, COMPONENTS
from p3kit.spec import Spec, resolve_spec

WINDOW = 4
FEATURES = 3
FREE = {"commission_bps": 0.0, "slippage_bps": 0.0}


def action(name: str) -> int:
    """The number of an action."""
    return ACTIONS.index(name)


def component(step: Timestep, name: str) -> Tensor:
    """One raw component of a step, (N,)."""
    return step.components[:, COMPONENTS.index(name)]


def make_spec(reward: dict[str, Any] | None = None, clip: float = 10.0, **env: Any) -> Spec:
    """A spec with a window of 4 bars, and `env` and `reward` as given."""
    tables = {
        "name": "test",
        "symbols": ["A"],
        "data": {"source": "synthetic"},
        "env": {"window": WINDOW, **env},
        "reward": reward or {},
        "observation": {"clip": clip},
    }
    return resolve_spec(tables, "test")


def make_symbol(
    close: Sequence[float],
    open: Sequence[float] | None = None,
    high: Sequence[float] | None = None,
    low: Sequence[float] | None = None,
    *,
    symbol: str = "A",
    volatility: float | Sequence[float] = 0.25,
    first: int = WINDOW - 1,
) -> SymbolData:
    """A symbol with the given bars, all of which but the first few may be traded in every split."""
    bars = len(close)

    def column(values: Sequence[float] | None) -> np.ndarray | None:
        return None if values is None else np.asarray(values, dtype=np.float64)

    features = np.random.default_rng(bars).normal(size=(bars, FEATURES)).astype(np.float32)
    return SymbolData(
        symbol=symbol,
        timestamps=np.datetime64("2020-01-01", "ns") + np.arange(bars) * np.timedelta64(1, "D"),
        close=np.asarray(close, dtype=np.float64),
        open=column(open),
        high=column(high),
        low=column(low),
        features=features,
        feature_names=tuple(f"feature_{i}" for i in range(FEATURES)),
        feature_mean=np.zeros(FEATURES),
        feature_scale=np.ones(FEATURES),
        volatility=np.broadcast_to(np.asarray(volatility, dtype=np.float64), (bars,)).copy(),
        regime=np.ones(bars, dtype=np.int8),
        bars_per_year=252.0,
        fingerprint="0" * 64,
        splits={"train": (first, bars), "validation": (first, bars), "test": (first, bars)},
        source="test",
        synthetic=True,
    )


def random_symbol(
    seed: int,
    bars: int,
    *,
    scale: float,
    level: float,
    columns: str,
    symbol: str = "A",
    limit_moves: bool = False,
    drift: float = 0.0,
) -> SymbolData:
    """Bars with gaps, now and then a jump, and volatilities of every size.

    `scale` is the standard deviation of a bar's log return, `level` the first price, `columns` a subset of "ohl",
    `drift` the mean log return in units of `scale`.
    `limit_moves`: a fifth of the bars have one price only, as on a day that opens at its limit and never leaves it.
    """
    rng = np.random.default_rng(seed)
    moves = rng.normal(drift * scale, scale, bars) + rng.choice([0.0, -8.0, 8.0], bars, p=[0.96, 0.02, 0.02]) * scale
    close = level * np.exp(np.cumsum(moves))
    opened = np.concatenate([close[:1], close[:-1]]) * np.exp(rng.normal(0, scale / 2, bars))
    top = np.maximum(close, opened if "o" in columns else close) * np.exp(abs(rng.normal(0, scale / 2, bars)))
    bottom = np.minimum(close, opened if "o" in columns else close) * np.exp(-abs(rng.normal(0, scale / 2, bars)))
    if limit_moves:
        locked = rng.random(bars) < 0.2
        opened, top, bottom = (np.where(locked, close, column) for column in (opened, top, bottom))
    return make_symbol(
        close,
        opened if "o" in columns else None,
        top if "h" in columns else None,
        bottom if "l" in columns else None,
        symbol=symbol,
        volatility=rng.choice([0.0, 0.05, 0.25, 0.9, 3.0], bars),
    )


def play_windows(
    env: TradingEnv, first: Sequence[int], last: Sequence[int], symbol: Sequence[int] | None = None
) -> Timestep:
    """Start each row on its own window."""
    rows = torch.zeros(len(first), dtype=torch.int64) if symbol is None else torch.tensor(symbol)
    return env.reset_windows(rows, torch.tensor(first), torch.tensor(last))


def play(data: SymbolData, spec: Spec, actions: Sequence[str]) -> list[Timestep]:
    """Play named actions with one account from the first bar of the symbol to its last, HOLD where they run out."""
    first, end = data.splits["train"]
    env = TradingEnv({"A": data}, spec, symbols=["A"], num_envs=1)
    steps = [play_windows(env, [first], [end - 1])]
    for i in range(end - 1 - first):
        name = actions[i] if i < len(actions) else "HOLD"
        steps.append(env.step(torch.tensor([action(name)])))
        if not steps[-1].alive:
            break
    env.raise_if_faulty()
    return steps


def choose(mask: Tensor, urge: Tensor) -> Tensor:
    """A uniformly random allowed action per row, from uniform `urge` (N,)."""
    count = mask.sum(1)
    rank = (urge * count).long().clamp(max=count - 1)
    return (mask.cumsum(1) == rank.unsqueeze(1) + 1).to(torch.int64).argmax(1)


def markets() -> st.SearchStrategy[SymbolData]:
    """Random symbols: constant, calm and wild, cheap and dear, with every set of columns."""
    return st.builds(
        random_symbol,
        seed=st.integers(0, 2**32 - 1),
        bars=st.integers(WINDOW + 24, WINDOW + 40),
        scale=st.sampled_from([0.0, 0.001, 0.02, 0.2]),
        level=st.sampled_from([1e-7, 0.01, 100.0, 1e7]),
        columns=st.sampled_from(["", "o", "hl", "ohl", "oh", "l"]),
        limit_moves=st.booleans(),
        drift=st.sampled_from([-0.5, 0.0, 0.5, 1.0]),
    )


def specs(**fixed: Any) -> st.SearchStrategy[Spec]:
    """Random rules, every axis at once; `fixed` pins words of `[env]`."""
    env = {
        "initial_capital": st.sampled_from([1.0, 100_000.0, 1e9]),
        "sizes": st.sampled_from([[0.25, 0.5, 1.0], [0.1, 0.2, 0.3], [0.05, 0.4, 0.8]]),
        "max_position": st.sampled_from([0.8, 0.95, 1.0]),
        "max_adds": st.integers(0, 3),
        "fill": st.sampled_from(["next", "close"]),
        "commission_bps": st.sampled_from([0.0, 1.0, 10.0, 250.0]),
        "slippage_bps": st.sampled_from([0.0, 1.0, 5.0, 250.0]),
        "stop": st.sampled_from([*["off"] * 3, 0.001, 0.02, 0.2]),  # without forced exits positions grow
        "target": st.sampled_from([*["off"] * 3, 0.001, 0.03, 0.3]),
        "max_hold": st.sampled_from([*["off"] * 3, 1, 2, 7]),
        "ruin": st.sampled_from([0.0, 0.5, 0.97]),
        "episode_bars": st.sampled_from([2, 9, 252]),
    }
    chosen = {name: st.just(fixed[name]) if name in fixed else strategy for name, strategy in env.items()}
    reward = {
        "formulas": st.sampled_from(["sound", "guide"]),
        "target_volatility": st.sampled_from([0.1, 0.25, 2.0]),
        "target_sharpe": st.sampled_from([0.0, 1.0]),
    }
    return st.tuples(st.fixed_dictionaries(chosen), st.fixed_dictionaries(reward)).map(_spec)


def _spec(tables: tuple[dict[str, Any], dict[str, Any]]) -> Spec:
    env, reward = tables
    env["sizes"] = [round(size * env["max_position"], 6) for size in env["sizes"]]
    return make_spec(reward, **env)
