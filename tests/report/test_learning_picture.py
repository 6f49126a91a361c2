"""Learning curves of a comparison: the settings, the line, the band, and the caption."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from scipy.stats import trim_mean

from p3kit.report.comparison_data import compare_runs
from p3kit.report.learning_picture import band_of, band_words, draw_learning, interquartile_mean, settings
from tests.made_runs import make_run, spec_with

SHARPE = "eval/sharpe_ratio"


def grid(root: Path, coefficients: int, seeds: int, symbols: tuple[str, ...] = ("AAPL",)) -> None:
    """A run per setting, symbol and seed."""
    for number in range(coefficients):
        for symbol in symbols:
            for seed in range(1, seeds + 1):
                make_run(
                    root,
                    symbol=symbol,
                    seed=seed,
                    name="trial",
                    agent_name=f"{symbol}.s{seed}",
                    best_sharpe=0.5 + number + 0.1 * seed,
                    spec=spec_with(ppo__ent_coef=0.01 * (number + 1), seeds=[seed]),
                )


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40))
def test_the_line_is_the_trimmed_mean_of_rliable(values: list[float]) -> None:
    column = np.array(values)[:, None]
    assert interquartile_mean(column)[0] == pytest.approx(trim_mean(values, 0.25), rel=1e-9, abs=1e-6)


def test_runs_that_differ_in_seeds_alone_are_one_setting(tmp_path: Path) -> None:
    grid(tmp_path, coefficients=2, seeds=3)
    comparison = compare_runs(tmp_path, ["trial"])
    assert [(group.label, len(group.members)) for group in settings(comparison)] == [
        ("ent_coef = 0.01", 3),
        ("ent_coef = 0.02", 3),
    ]
    assert [len(group.members) for group in settings(compare_runs(tmp_path, ["run-1", "run-2"]))] == [1, 1]


def test_the_band_holds_the_line_and_is_within_the_agents(tmp_path: Path) -> None:
    grid(tmp_path, coefficients=2, seeds=5)
    for group in settings(compare_runs(tmp_path, ["trial"])):
        band = band_of(group.members, SHARPE)
        assert band is not None
        ends = [member.agent.curves[SHARPE][1][-1] for member in group.members]
        assert np.all((band.low <= band.line + 1e-12) & (band.line <= band.high + 1e-12))
        assert min(ends) <= band.low[-1] < band.high[-1] <= max(ends)
        assert band.line[-1] == pytest.approx(trim_mean(ends, 0.25))


def test_symbols_do_not_widen_the_band_where_seeds_are_drawn_within_each(tmp_path: Path) -> None:
    grid(tmp_path, coefficients=2, seeds=2, symbols=("AAPL", "XOM"))
    comparison = compare_runs(tmp_path, ["trial"])
    members = settings(comparison)[0].members
    levels = {"AAPL": 0.0, "XOM": 100.0}
    for member in members:
        steps, _ = member.agent.curves[SHARPE]
        member.agent.curves[SHARPE] = (steps, [levels[member.agent.symbol or ""]] * len(steps))  # type: ignore[index]
    band = band_of(members, SHARPE)
    assert band is not None
    assert band.low[0] == band.high[0] == 50.0
    assert "within each symbol" in band_words(comparison)


@pytest.mark.parametrize(
    ("seeds", "said", "unsaid"),
    [(1, "one agent per setting", "interval"), (3, "too narrow", "within each"), (5, "95 % bootstrap", "too narrow")],
)
def test_the_caption_says_what_the_band_is(tmp_path: Path, seeds: int, said: str, unsaid: str) -> None:
    grid(tmp_path, coefficients=2, seeds=seeds)
    comparison = compare_runs(tmp_path, ["trial"])
    assert said in band_words(comparison)
    assert unsaid not in band_words(comparison)
    assert draw_learning(comparison, tmp_path / "learning.png")
    assert (tmp_path / "learning.png").stat().st_size > 10_000


def test_an_agent_that_ended_early_keeps_its_last_value(tmp_path: Path) -> None:
    for until in (1.0, 0.4):
        make_run(tmp_path, until=until, seed=1)
    comparison = compare_runs(tmp_path, ["run-1", "run-2"])
    whole, short = comparison.members
    band = band_of([whole, short], SHARPE)
    assert band is not None
    assert band.steps[-1] == whole.agent.curves[SHARPE][0][-1]
    ends = [member.agent.curves[SHARPE][1][-1] for member in (whole, short)]
    assert band.line[-1] == pytest.approx(np.mean(ends))


def test_a_single_evaluation_is_a_dot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line through one point shows nothing."""
    grid(tmp_path, coefficients=2, seeds=3)
    comparison = compare_runs(tmp_path, ["trial"])
    for group in comparison.groups:
        for member in group.members:
            for name, (steps, values) in list(member.agent.curves.items()):
                member.agent.curves[name] = (steps[:1], values[:1])
    markers: list[object] = []
    plot = Axes.plot
    monkeypatch.setattr(
        Axes, "plot", lambda self, *data, **style: markers.append(style["marker"]) or plot(self, *data, **style)
    )
    assert draw_learning(comparison, tmp_path / "curves.png")
    assert set(markers) == {"o"}
