"""Backtests: every bar of the split once, fixed rules that can be checked by hand, nothing from the future."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from p3kit.market import SymbolData, load_market
from p3kit.runtime.evaluation import Evaluator
from p3kit.runtime.fixed_rules import BUY_LARGE, moving_average_signal, play_fixed_rules
from p3kit.runtime.walks import Mode, windows
from p3kit.spec import Spec, resolve_spec

CPU = torch.device("cpu")
MODES: tuple[Mode, ...] = ("continuous", "windows")
FIRST_MODE = ["continuous", pytest.param("windows", marks=pytest.mark.slow)]


@given(first=st.integers(0, 500), bars=st.integers(2, 900), length=st.integers(1, 300))
def test_windows_cover_every_return_of_the_split_once(first: int, bars: int, length: int) -> None:
    last = first + bars
    covered = [bar for a, b in windows(first, last, length) for bar in range(a, b)]
    assert covered == list(range(first, last - 1))


@pytest.fixture(scope="module")
def spec() -> Spec:
    return resolve_spec({"name": "t", "symbols": ["AAPL"]}, "t")


@pytest.fixture(scope="module")
def bars(spec: Spec) -> SymbolData:
    return load_market(spec, ["AAPL"])["AAPL"]


def hold(observation: Tensor, mask: Tensor) -> Tensor:
    return torch.zeros(len(mask), dtype=torch.long)


def buy(observation: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask[:, BUY_LARGE], BUY_LARGE, 0)


def test_a_policy_that_never_trades_has_no_sharpe_and_loses_nothing(spec: Spec, bars: SymbolData) -> None:
    evaluation = Evaluator(spec, bars, "AAPL", 1, CPU)(hold)
    assert "eval/sharpe_ratio" not in evaluation.metrics
    assert evaluation.metrics["eval/total_return"] == 0
    assert evaluation.is_constant
    assert evaluation.intervals() == {"sharpe_interval": None, "excess_interval": None}


def test_buy_and_hold_by_hand(spec: Spec, bars: SymbolData) -> None:
    """The sample has closes alone: bought at the close after the first, sold at the last close of each window."""
    evaluation = Evaluator(spec, bars, "AAPL", 1, CPU, mode="windows")(buy)
    first, last = bars.splits["validation"]
    fee, slip = 0.001, 0.0005
    growth = 1.0
    for a, b in windows(first, last, spec.env.episode_bars):
        paid = bars.close[a + 1] * (1 + slip) * (1 + fee)
        growth *= bars.close[b] * (1 - slip) * (1 - fee) / paid
    assert evaluation.policy.equity[-1] == pytest.approx(growth, rel=1e-9)
    assert evaluation.baselines["buy_and_hold"]["total_return"] == pytest.approx(growth - 1, rel=1e-9)
    assert evaluation.metrics["eval/sharpe_excess"] == pytest.approx(0)
    assert evaluation.is_constant
    assert len(evaluation.policy.bar) == last - first - 1
    assert (evaluation.summary()["mode"], evaluation.summary()["windows"]) == ("windows", 2)


def test_continuous_buy_and_hold_by_hand(spec: Spec, bars: SymbolData) -> None:
    """Bought once, at the close after the first, and marked at the last close of the split."""
    evaluation = Evaluator(spec, bars, "AAPL", 1, CPU)(buy)
    first, last = bars.splits["validation"]
    growth = bars.close[last - 1] / (bars.close[first + 1] * 1.0005 * 1.001)
    assert evaluation.policy.equity[-1] == pytest.approx(growth, rel=1e-9)
    assert evaluation.baselines["buy_and_hold"]["total_return"] == pytest.approx(growth - 1, rel=1e-9)
    assert evaluation.policy.bar.tolist() == list(range(first, last - 1))
    assert evaluation.policy.is_open
    assert evaluation.metrics["eval/total_trades"] == 1  # the one that is open
    assert evaluation.candidate(1).trades == 0
    assert "eval/win_rate" not in evaluation.metrics
    assert (evaluation.summary()["mode"], evaluation.summary()["windows"]) == ("continuous", 1)
    assert evaluation.equity_curves()["exits"] == []


def test_the_training_split_and_the_choice_of_rules_stay_in_windows(spec: Spec, bars: SymbolData) -> None:
    continuous, in_windows = (Evaluator(spec, bars, "AAPL", 1, CPU, mode=mode)(buy) for mode in MODES)
    assert (continuous.train.bar_return == in_windows.train.bar_return).all()
    assert continuous.train_hold_sharpe == in_windows.train_hold_sharpe
    assert continuous.fixed_rule[0] == in_windows.fixed_rule[0]
    assert continuous.signal_rule[0] == in_windows.signal_rule[0]
    assert (continuous.policy.bar_return != in_windows.policy.bar_return).any()


def test_validation_is_played_in_windows_too(spec: Spec, bars: SymbolData) -> None:
    """A gap to training is then none of the account that never starts again."""
    continuous, in_windows = (Evaluator(spec, bars, "AAPL", 1, CPU, mode=mode)(buy) for mode in MODES)
    sharpe = "eval/windowed_sharpe_ratio"
    assert continuous.metrics[sharpe] == in_windows.metrics[sharpe] == in_windows.metrics["eval/sharpe_ratio"]
    assert continuous.metrics[sharpe] != continuous.metrics["eval/sharpe_ratio"]


@pytest.mark.parametrize("mode", FIRST_MODE)
def test_ruin_ends_the_account_of_a_policy_and_never_buy_and_hold(spec: Spec, bars: SymbolData, mode: Mode) -> None:
    """The limit lies just below and just above the lowest equity of a policy that buys and holds."""
    evaluation = Evaluator(spec, bars, "AAPL", 1, CPU, mode=mode)(buy)
    path, first = evaluation.policy.bar_return, evaluation.spans[0][0]
    lowest = min(np.cumprod(1 + path[a - first : b - first]).min() for a, b in evaluation.spans)
    for limit, expected in ((lowest * 0.999, False), (lowest * 1.001, True)):
        limited = spec.model_copy(update={"env": spec.env.model_copy(update={"ruin": float(limit)})})
        found = Evaluator(limited, bars, "AAPL", 1, CPU, mode=mode)(buy)
        assert found.summary()["ruined"] is expected
        assert (found.policy.bar_return != path).any() == expected
        assert found.rules["buy_and_hold"][0].bar_return.tolist() == path.tolist()


@pytest.mark.parametrize("mode", FIRST_MODE)
@pytest.mark.parametrize("backend", ["batched", pytest.param("scalar", marks=pytest.mark.slow)])
def test_buy_and_hold_is_all_in_whatever_limits_the_agent(
    spec: Spec, bars: SymbolData, mode: Mode, backend: str
) -> None:
    """No stop, target, holding limit, size or ruin of the spec applies to it, on validation and training bars."""
    limits = {"stop": 0.02, "target": 0.03, "max_hold": 5, "sizes": (0.1, 0.2, 0.4), "max_position": 0.5, "ruin": 0.95}
    limited = spec.model_copy(update={"env": spec.env.model_copy(update={**limits, "backend": backend})})
    free, held = (Evaluator(own, bars, "AAPL", 1, CPU, mode=mode) for own in (spec, limited))
    walks = [own.rules["buy_and_hold"][0] for own in (free, held)]
    np.testing.assert_allclose(walks[1].bar_return, walks[0].bar_return, rtol=1e-9, atol=1e-12)
    assert walks[1].exposure[5:-1].min() == 1.0 if mode == "continuous" else True
    assert held.train_hold_sharpe == pytest.approx(free.train_hold_sharpe)


@pytest.mark.slow
def test_a_window_as_long_as_the_split_differs_in_its_last_sale_alone(spec: Spec, bars: SymbolData) -> None:
    long = spec.model_copy(update={"env": spec.env.model_copy(update={"episode_bars": 5_000})})
    continuous, in_windows = (Evaluator(long, bars, "AAPL", 1, CPU, mode=mode) for mode in MODES)
    for name, paths in continuous.rules.items():
        for path, other in zip(paths, in_windows.rules[name], strict=True):
            np.testing.assert_allclose(path.bar_return[:-1], other.bar_return[:-1], rtol=1e-9, atol=1e-12)
            if path.is_open:
                sold = (1 + path.bar_return[-1]) * (1 - path.exposure[-1] * (1 - 0.9995 * 0.999)) - 1
                assert other.bar_return[-1] == pytest.approx(sold, abs=1e-9)


def test_baselines_do_not_depend_on_the_policy_and_repeat(spec: Spec, bars: SymbolData) -> None:
    one, two = Evaluator(spec, bars, "AAPL", 1, CPU)(hold), Evaluator(spec, bars, "AAPL", 1, CPU)(buy)
    assert one.baselines == two.baselines
    other_seed = Evaluator(spec, bars, "AAPL", 2, CPU)(hold)
    assert other_seed.baselines["random"] != one.baselines["random"]
    assert other_seed.baselines["moving_average"] == one.baselines["moving_average"]


@given(closes=st.lists(st.floats(1.0, 1000.0), min_size=60, max_size=120), data=st.data())
def test_the_moving_average_rule_is_the_two_means_up_to_the_bar(closes: list[float], data: st.DataObject) -> None:
    close = np.array(closes)
    signal = moving_average_signal(close)
    assert not signal[:49].any()
    bar = data.draw(st.integers(49, len(close) - 1))
    fast, slow = close[bar - 9 : bar + 1].mean(), close[bar - 49 : bar + 1].mean()
    assert signal[bar] == (fast > slow) or fast == pytest.approx(slow)
    close[bar + 1 :] *= np.linspace(1.5, 3, len(close) - bar - 1)
    assert (moving_average_signal(close)[: bar + 1] == signal[: bar + 1]).all()


def test_the_moving_average_rule_trades_on_its_signal(spec: Spec, bars: SymbolData) -> None:
    walk = Evaluator(spec, bars, "AAPL", 1, CPU, mode="windows").rules["moving_average"][0]
    signal = moving_average_signal(bars.close)[walk.bar]
    held = walk.exposure > 0
    same_window = np.diff(walk.bar, prepend=walk.bar[0]) == 1
    ends_here = np.isin(walk.bar, [b - 1 for _, b in windows(*bars.splits["validation"], spec.env.episode_bars)])
    judged = same_window & ~ends_here & (np.roll(same_window, 1))
    # a market order fills at the next close: the position after the step follows the signal at its bar
    assert judged.sum() > 100
    assert (held[judged] == signal[judged]).mean() > 0.99


def test_a_loss_in_the_first_bar_is_a_drawdown(spec: Spec, bars: SymbolData) -> None:
    first, _ = bars.splits["validation"]
    close = np.full(len(bars.close), 100.0)
    close[first + 2 :] = 80.0  # bought at the close of the second bar; the third is the first to be marked
    evaluation = Evaluator(spec, replace(bars, close=close), "AAPL", 1, CPU)(buy)
    assert evaluation.metrics["eval/max_drawdown"] == pytest.approx(1 - evaluation.policy.equity.min(), rel=1e-9)


@pytest.mark.parametrize("mode", MODES)
def test_regimes_and_equity_add_up(spec: Spec, bars: SymbolData, mode: Mode) -> None:
    evaluation = Evaluator(spec, bars, "AAPL", 1, CPU, mode=mode)(buy)
    regimes = evaluation.regimes()
    assert sum(row["bars"] for row in regimes.values()) == len(evaluation.policy.bar)
    product = np.prod([1 + row["total_return"] for row in regimes.values()])
    assert product == pytest.approx(evaluation.policy.equity[-1])
    curves = evaluation.equity_curves()
    assert curves["equity"][-1] == pytest.approx(evaluation.policy.equity[-1])
    assert len(curves["timestamps"]) == len(curves["equity"]) == len(curves["baselines"]["hold"])


def test_a_ruined_account_stays_in_cash_for_the_rest_of_its_window(spec: Spec, bars: SymbolData) -> None:
    first, _ = bars.splits["validation"]
    close = bars.close.copy()
    close[first + 100 :] *= 0.3  # a crash inside the first window, below ruin = 0.5
    crashed = replace(bars, close=close)
    evaluation = Evaluator(spec, crashed, "AAPL", 1, CPU, mode="windows")(buy)
    walk, hold_walk = evaluation.policy, evaluation.rules["hold"][0]
    assert (walk.bar == hold_walk.bar).all()
    assert walk.bar_return[99] < -0.5
    assert not walk.bar_return[100 : spec.env.episode_bars].any()
    assert not walk.action[100 : spec.env.episode_bars].any()
    assert walk.action[spec.env.episode_bars] == BUY_LARGE  # the next window starts afresh
    assert evaluation.metrics["eval/max_drawdown"] > 0.5
    assert set(evaluation.intervals()) == {"sharpe_interval", "excess_interval"}
    mixed = Evaluator(spec, crashed, "AAPL", 1, CPU)(hold)  # not ruined, beside a buy-and-hold that is
    assert not mixed.policy.bar_return.any()
    live = Evaluator(spec, crashed, "AAPL", 1, CPU)(buy).policy
    assert live.bar_return[99] < -0.5
    assert not live.bar_return[100:].any()  # a live account that is ruined buys nothing more
    assert not live.action[100:].any()


def synthetic_evaluator(edge: float, commission_bps: float) -> Evaluator:
    spec = resolve_spec(
        {
            "name": "t",
            "symbols": ["RULE"],
            "data": {"source": "synthetic", "synthetic": {"bars": 8_000, "edge": edge, "regimes": False}},
            "env": {"window": 1, "episode_bars": 126, "commission_bps": commission_bps},
        },
        "t",
    )
    return Evaluator(spec, load_market(spec, ["RULE"])["RULE"], "RULE", 1, CPU)


def test_a_rule_of_one_feature_finds_an_edge_and_nothing_where_fees_eat_it() -> None:
    """Distinguish correct inaction from collapse: is there anything to earn at the current fees?"""
    name, earned = synthetic_evaluator(0.3, 10).signal_rule
    assert earned > 0.05
    assert name.endswith(" its mean")
    assert synthetic_evaluator(0.0, 30).signal_rule[1] <= 0
    assert synthetic_evaluator(0.3, 300).signal_rule[1] <= 0


def test_the_rule_of_one_feature_is_chosen_on_training_bars_alone() -> None:
    evaluator = synthetic_evaluator(0.3, 10)
    first, _ = evaluator.bars.splits["validation"]
    close = evaluator.bars.close.copy()
    close[first + 1 :] *= np.linspace(1, 0.5, len(close) - first - 1)
    crash = Evaluator(
        evaluator.spec, replace(evaluator.bars, close=close, open=None, high=None, low=None), "RULE", 1, CPU
    )
    assert crash.signal_rule[0] == evaluator.signal_rule[0]
    assert crash.signal_rule[1] < evaluator.signal_rule[1]


@pytest.mark.parametrize("mode", FIRST_MODE)
def test_fixed_rules_of_many_agents_are_those_of_each_alone(spec: Spec, bars: SymbolData, mode: Mode) -> None:
    """Other symbols, other seeds, a market with fewer bars and fewer windows: no neighbour changes a number."""
    other = load_market(spec, ["AMD"])["AMD"]
    end = other.splits["validation"][0] + 90
    per_bar = {name: getattr(other, name)[:end] for name in ("timestamps", "close", "features", "volatility", "regime")}
    short = replace(other, **per_bar, splits={**other.splits, "validation": (end - 90, end)})
    agents = [("AAPL", bars, 1), ("AMD", short, 1), ("AAPL", bars, 2)]

    def evaluators() -> list[Evaluator]:
        return [Evaluator(spec, own, symbol, seed, CPU, mode=mode) for symbol, own, seed in agents]

    assert len({one.spans("validation")[0][1] for one in evaluators()}) == 2
    assert len({len(one.windows("validation")) for one in evaluators()}) == 2
    for together, one in zip(play_fixed_rules(evaluators(), "validation"), evaluators(), strict=True):
        (alone,) = play_fixed_rules([one], "validation")
        assert together.signal == alone.signal
        assert together.train_hold_sharpe == alone.train_hold_sharpe
        for name, paths in alone.paths.items():
            for a, b in zip(together.paths[name], paths, strict=True):
                assert (a.bar == b.bar).all(), name
                assert (a.bar_return == b.bar_return).all(), name
                assert (a.action == b.action).all(), name
