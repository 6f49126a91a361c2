"""All agents of an experiment as one account: equal shares of the capital, each traded by its agent and left alone.

Read from the equity curves of the evaluations that validation chose. Returns are fractions, Sharpe ratios a year's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p3kit.edge import Family, Member, family
from p3kit.metrics import max_drawdown, sharpe_ratio
from p3kit.report.agent_data import AgentSummary
from p3kit.significance import excess_interval, sharpe_interval

Floats = NDArray[np.float64]
Interval = tuple[float, float]

LEAST_SYMBOLS = 3
"""Two symbols are a comparison."""

LEAST_POINTS = 60
"""Fewest common moments of all curves for a Sharpe ratio or a correlation."""

_YEAR = np.timedelta64(365 * 24 * 3600 + 6 * 3600, "s")


@dataclass(frozen=True)
class Account:
    """One way to put the same capital to work."""

    members: int
    total_return: float
    sharpe: float | None
    sharpe_interval: Interval | None
    max_drawdown: float
    equity: Floats
    """(T + 1,), from 1."""


@dataclass(frozen=True)
class Portfolio:
    """`names` are the agents in it, T the moments at which all of them were marked."""

    names: Sequence[str]
    symbols: int
    times: NDArray[np.datetime64]
    """(T,)"""
    agents: Account
    buy_and_hold: Account
    passed: Account | None
    """Of the agents that passed only: a choice made on the very bars that it is judged on."""
    excess: float | None
    """Sharpe ratio of the agents' account minus buy-and-hold's."""
    excess_interval: Interval | None
    """Without the luck of choosing each agent's weights on these bars."""
    mean_sharpe: float | None
    """Of the agents one by one, over those that traded."""
    curves: Floats
    """(agents, T + 1), each from 1."""
    moving: Sequence[str]
    """The agents whose equity moves; the others have no correlation."""
    correlation: Floats
    """(moving, moving), of returns between two moments; agents that go together lie side by side."""
    mean_correlation: float | None
    passes: int
    family: Family
    """The agents together, against buy-and-hold."""
    synthetic: bool

    @property
    def independent(self) -> float | None:
        """Number of uncorrelated agents that would spread the risk equally: n / (1 + (n − 1) mean correlation)."""
        count = len(self.moving)
        if self.mean_correlation is None or 1 + (count - 1) * self.mean_correlation <= 0:
            return None
        return count / (1 + (count - 1) * self.mean_correlation)

    def to_json(self) -> dict[str, Any]:
        def account(one: Account | None) -> dict[str, Any] | None:
            return None if one is None else {k: v for k, v in vars(one).items() if k != "equity"}

        return {
            "agents": len(self.names),
            "symbols": self.symbols,
            "passed": self.passes,
            "edge_shown": len(self.family.shown),
            "edge_shown_by_luck": self.family.by_luck,
            "family": self.family.to_json(),
            "equal_weight": account(self.agents),
            "buy_and_hold": account(self.buy_and_hold),
            "passed_only": account(self.passed),
            "sharpe_excess": self.excess,
            "sharpe_excess_interval": self.excess_interval,
            "mean_sharpe": self.mean_sharpe,
            "mean_correlation": self.mean_correlation,
            "independent_agents": self.independent,
        }


def build_portfolio(graded: Sequence[AgentSummary], *, synthetic: bool) -> Portfolio | None:
    """The portfolio of the graded agents with a curve. None for fewer than three symbols, for windows of a walk-
    forward, and if the curves have hardly a moment in common."""
    drawn = [agent for agent in graded if agent.equity is not None]
    if len({agent.symbol for agent in drawn}) < LEAST_SYMBOLS or any(agent.window for agent in drawn):
        return None
    times = _common_times(drawn)
    if len(times) < LEAST_POINTS:
        return None
    per_year = float(len(times) / ((times[-1] - times[0]) / _YEAR))
    curves = np.stack([_curve(agent, "equity", times) for agent in drawn])
    held = np.stack([_curve(agent, "buy_and_hold", times) for agent in drawn])
    agents, hold = _account(curves, per_year), _account(held, per_year)
    passed = np.array([agent.passed for agent in drawn])
    excess = None if agents.sharpe is None or hold.sharpe is None else agents.sharpe - hold.sharpe
    sharpes = [agent.scores.sharpe for agent in drawn if agent.scores and agent.scores.sharpe is not None]
    names = [agent.name for agent in drawn]
    moving, correlation = _correlation(names, curves)
    return Portfolio(
        names=names,
        symbols=len({agent.symbol for agent in drawn}),
        times=times,
        agents=agents,
        buy_and_hold=hold,
        passed=_account(curves[passed], per_year) if 0 < passed.sum() < len(drawn) else None,
        excess=excess,
        excess_interval=excess_interval(_returns(agents.equity), _returns(hold.equity), per_year),
        mean_sharpe=float(np.mean(sharpes)) if sharpes else None,
        curves=curves,
        moving=moving,
        correlation=correlation,
        mean_correlation=_mean_off_diagonal(correlation),
        passes=int(passed.sum()),
        family=family([agent.member or Member(agent.name, agent.judged) for agent in drawn]),
        synthetic=synthetic,
    )


def _common_times(agents: Sequence[AgentSummary]) -> NDArray[np.datetime64]:
    """Moments at which every curve has a mark: long ones are kept with 1,500 points each."""
    times: NDArray[np.datetime64] | None = None
    for agent in agents:
        own = np.array((agent.equity or {})["timestamps"], dtype="datetime64[s]")
        times = own if times is None else np.intersect1d(times, own)
    return np.unique(times) if times is not None else np.array([], dtype="datetime64[s]")


def _curve(agent: AgentSummary, name: str, times: NDArray[np.datetime64]) -> Floats:
    """(T + 1,), from 1."""
    data = agent.equity or {}
    own = np.array(data["timestamps"], dtype="datetime64[s]")
    values = np.asarray(data["equity"] if name == "equity" else data["baselines"][name], dtype=np.float64)
    return np.concatenate([[1.0], values[np.searchsorted(own, times)]])


def _account(curves: Floats, per_year: float) -> Account:
    """Equal shares at the beginning, and no rebalancing: the mean of the curves (n, T + 1)."""
    equity = curves.mean(axis=0)
    returns = _returns(equity)
    return Account(
        members=len(curves),
        total_return=float(equity[-1] - 1),
        sharpe=sharpe_ratio(returns, per_year),
        sharpe_interval=sharpe_interval(returns, per_year),
        max_drawdown=max_drawdown(equity),
        equity=equity,
    )


def _returns(equity: Floats) -> Floats:
    return np.asarray(equity[..., 1:] / equity[..., :-1] - 1.0)


def _correlation(names: Sequence[str], curves: Floats) -> tuple[list[str], Floats]:
    """Of the agents that move, in the order of the first principal component's loadings."""
    returns = _returns(curves)
    moves = returns.std(axis=1) > 0
    moving = [name for name, it in zip(names, moves, strict=True) if it]
    if len(moving) < 2:
        return moving, np.ones((len(moving), len(moving)))
    matrix = np.corrcoef(returns[moves])
    order = np.argsort(np.linalg.eigh(matrix)[1][:, -1], kind="stable")
    return [moving[i] for i in order], matrix[np.ix_(order, order)]


def _mean_off_diagonal(matrix: Floats) -> float | None:
    count = len(matrix)
    return None if count < 2 else float((matrix.sum() - np.trace(matrix)) / (count * (count - 1)))
