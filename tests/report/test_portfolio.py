"""All agents as one account: arithmetic on known curves, and its part of the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p3kit.edge import YARDSTICKS
from p3kit.metrics import sharpe_ratio
from p3kit.report import summarise_week, write_week
from p3kit.report.agent_data import AgentSummary
from p3kit.report.portfolio_data import build_portfolio
from p3kit.report.portfolio_page import portfolio_words
from p3kit.report.week_page import week_json
from tests.made_runs import MONDAY, equity_curve, make_run

DAYS = np.datetime64("2024-01-01T00:00:00", "s") + np.arange(1, 251) * np.timedelta64(86_400, "s")


def agent(name: str, returns: Any, held: Any = None, *, grade: str = "FAIL", **more: Any) -> AgentSummary:
    """A graded agent whose account had these returns, beside a buy-and-hold with `held`."""
    held = np.zeros(len(returns)) if held is None else held
    times = more.pop("times", DAYS[: len(returns)])
    equity = {
        "timestamps": [str(time) for time in times],
        "equity": np.cumprod(1 + np.asarray(returns)).tolist(),
        "baselines": {"buy_and_hold": np.cumprod(1 + np.asarray(held)).tolist()},
    }
    return AgentSummary(name, more.pop("symbol", name), state="done", grade=grade, equity=equity, **more)


def noise(seed: int, days: int = 250, mean: float = 0.0) -> Any:
    return np.random.default_rng(seed).normal(mean, 0.01, days)


def test_an_account_is_the_mean_of_its_agents_accounts() -> None:
    returns = [noise(seed, mean=0.001) for seed in range(3)]
    held = [noise(seed) for seed in range(10, 13)]
    found = build_portfolio(
        [agent(f"S{i}", own, beside) for i, (own, beside) in enumerate(zip(returns, held, strict=True))],
        synthetic=False,
    )
    assert found is not None
    whole = np.mean([np.cumprod(1 + own) for own in returns], axis=0)
    assert found.agents.equity == pytest.approx([1.0, *whole])
    assert found.agents.total_return == pytest.approx(whole[-1] - 1)
    daily = whole / np.array([1.0, *whole[:-1]]) - 1
    per_year = 250 / (249 / 365.25)  # counted from the marks
    assert found.agents.sharpe == pytest.approx(sharpe_ratio(daily, per_year))
    assert found.buy_and_hold.total_return == pytest.approx(np.mean([np.prod(1 + own) for own in held]) - 1)
    assert found.excess == pytest.approx(found.agents.sharpe - found.buy_and_hold.sharpe)
    low, high = found.excess_interval or (0.0, 0.0)
    assert low < found.excess < high


def test_agents_that_go_together_lie_side_by_side() -> None:
    """Two groups, each of one mind, mixed in the order of the spec."""
    one, other = noise(1), noise(2)
    apart = one - other
    agents = [agent(f"S{i}", (apart if i % 2 else -apart) + 0.05 * noise(20 + i)) for i in range(6)]
    found = build_portfolio(agents, synthetic=False)
    assert found is not None
    groups = [int(name[1:]) % 2 for name in found.moving]
    assert groups in ([0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0])
    assert found.correlation[0, 1] > 0.9
    assert found.correlation[0, 5] < -0.9


def test_equal_agents_spread_no_risk_and_unlike_ones_all_of_it() -> None:
    same = noise(3)
    together = build_portfolio([agent(f"S{i}", same) for i in range(5)], synthetic=False)
    assert together is not None
    assert (together.mean_correlation, together.independent) == (pytest.approx(1.0), pytest.approx(1.0))
    unlike = build_portfolio([agent(f"S{i}", noise(i, 250)) for i in range(5)], synthetic=False)
    assert unlike is not None
    assert unlike.independent == pytest.approx(5.0, rel=0.35)


def test_curves_meet_at_the_moments_they_have_in_common() -> None:
    late = agent("S2", noise(2, 200), times=DAYS[50:])
    found = build_portfolio([agent("S0", noise(0)), agent("S1", noise(1)), late], synthetic=False)
    assert found is not None
    assert (found.times == DAYS[50:]).all()
    assert found.curves.shape == (3, 201)
    assert found.curves[0, 1] == pytest.approx(np.prod(1 + noise(0)[:51]))  # what it had by then


@pytest.mark.parametrize(
    "agents",
    [
        [agent("S0", noise(0)), agent("S1", noise(1))],
        [agent(f"S0.s{i}", noise(i), symbol="S0") for i in range(5)],
        [agent(f"S{i}", noise(i), window="2020-01-02") for i in range(5)],
        [agent(f"S{i}", noise(i, 59)) for i in range(5)],
        [AgentSummary(f"S{i}", f"S{i}", grade="PASS") for i in range(5)],
    ],
    ids=["two symbols", "one symbol", "walk-forward", "few moments", "no curves"],
)
def test_what_is_no_portfolio(agents: list[AgentSummary]) -> None:
    assert build_portfolio(agents, synthetic=False) is None
    assert portfolio_words(None) == ""


def test_the_words_count_passes_luck_and_those_that_never_traded() -> None:
    over = {"shown": True, "p": 0.01, "excess": 1.0, "interval": [0.2, 1.8]}
    judged = {"why_not": "", "over": dict.fromkeys(YARDSTICKS, over)}
    none = {"why_not": "", "over": dict.fromkeys(YARDSTICKS, over | {"shown": False, "p": 0.5})}
    agents = [agent(f"S{i}", noise(i, mean=0.002), grade="PASS", judged=judged) for i in range(3)]
    agents += [agent(f"S{i}", noise(i), judged=none) for i in range(3, 9)] + [agent("S9", np.zeros(250))]
    found = build_portfolio(agents, synthetic=False)
    assert found is not None
    assert found.passed is not None
    assert (found.passed.members, found.passes, len(found.family.shown)) == (3, 3, 3)
    assert found.passed.total_return > found.agents.total_return
    words = portfolio_words(found)
    assert "3 of 10 agents of 10 symbols passed (95% interval 11% to 60%)" in words
    assert "3 of 9 agents are shown to beat buy-and-hold (1 not judged); luck alone shows about 0.2." in words
    assert "1 agent never traded." in words
    assert len(found.moving) == 9


def test_the_report_has_the_account_and_its_picture(tmp_path: Path) -> None:
    symbols = ["AAPL", "AMD", "BAC", "HD"]
    for seed, symbol in enumerate(symbols):
        curve = equity_curve(seed)
        make_run(tmp_path / "runs", symbol=symbol, symbols=symbols, seed=seed, equity=curve, verdict="PASS")
    experiments = summarise_week(tmp_path / "runs", 1, MONDAY + 86_400.0)
    path = write_week(experiments, tmp_path / "reports", 1)
    text = path.read_text()
    assert "| All 4 agents, equal shares |" in text
    assert "that passed (chosen on these bars)" not in text  # all did: no choice was made
    assert "4 of 4 agents of 4 symbols passed" in text
    assert "![Portfolio](week-01/phase3-portfolio.png)" in text
    assert (tmp_path / "reports" / "week-01" / "phase3-portfolio.png").stat().st_size > 20_000
    told = week_json(experiments, path)["experiments"][0]["portfolio"]
    assert told["agents"] == 4
    assert told["equal_weight"]["sharpe"] == pytest.approx(experiments[0].portfolio.agents.sharpe)
