"""`p3kit check`: probes that pass where they should, and fail where something is wrong."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from p3kit.check import Probe, probe_environment, probe_reward
from p3kit.check.reward_exploits import ProbeMarket
from p3kit.market import SymbolData, load_market
from p3kit.spec import Spec, load_spec
from p3kit.symptoms import SYMPTOMS
from tests.command import invoke

SMOKE = Path(__file__).parents[2] / "specs" / "smoke.toml"
EPISODES = 400


def spec_with(*overrides: str) -> Spec:
    return load_spec(SMOKE, ["env.episode_bars=60", *overrides]).spec


@pytest.fixture(scope="module")
def bars() -> SymbolData:
    return load_market(spec_with(), ["AAPL"])["AAPL"]


def probes(bars: SymbolData, *overrides: str) -> tuple[Probe, Probe]:
    free, edge = probe_reward(spec_with(*overrides), bars, EPISODES)
    return free, edge


def test_the_default_reward_pays_for_nothing_but_money(bars: SymbolData) -> None:
    free, edge = probes(bars)
    assert free.passed, free.evidence
    assert edge.passed, edge.evidence
    rows = free.details["rules"]
    assert {row["fees"] for row in rows} == {"the spec's fees (15 bp)", "1 bp"}
    assert len(rows) == 26
    assert all(row["mean"] < 0 for row in rows if row["rule"].startswith("churn"))
    churn = {row["fees"]: row["mean"] for row in rows if row["rule"] == "churn large"}
    assert churn["the spec's fees (15 bp)"] < churn["1 bp"] < 0


def test_the_guides_formulas_are_caught_paying_for_churn(bars: SymbolData) -> None:
    free, _ = probes(bars, 'reward.formulas="guide"')
    assert not free.passed
    assert "time pays" in free.evidence
    assert free.remedy == 'reward.formulas = "sound"'
    caught = [row for row in free.details["rules"] if row["beats_flat"]]
    assert any(row["rule"] == "churn large" for row in caught)
    assert all(row["repeated"] and row["episodes"] == 4 * EPISODES for row in caught)


def test_a_permanent_action_bonus_is_caught(bars: SymbolData) -> None:
    free, _ = probes(bars, "reward.action_bonus=0.05")
    assert not free.passed
    assert "bonus pays" in free.evidence
    assert free.remedy == "reward.action_bonus = 0.0"


def test_a_reward_that_drowns_an_edge_in_costs_is_caught(bars: SymbolData) -> None:
    free, edge = probes(bars, "reward.weights.cost=20.0")
    assert free.passed
    assert not edge.passed
    assert "lower its weight" in edge.remedy


def test_a_reward_for_losing_is_caught(bars: SymbolData) -> None:
    """A cost weight below zero would pay for costs; the spec refuses it, so the rules are bent here."""
    weights = spec_with().reward.weights.model_copy(update={"cost": -1.0})
    spec = spec_with()
    spec = spec.model_copy(update={"reward": spec.reward.model_copy(update={"weights": weights})})
    free, _ = probe_reward(spec, bars, EPISODES)
    assert not free.passed
    assert "of which cost pays" in free.evidence


def test_the_driftless_market_is_a_martingale_and_the_other_is_not() -> None:
    spec = spec_with()
    for edge in (0.0, 0.4):
        market = ProbeMarket(spec, 0.02, 252.0, edge)
        made, signals = market.make(200_000, seed=3)
        growth = made.close[1:] / made.close[:-1] - 1
        error = growth.std() / np.sqrt(len(growth))
        known = signals["signal"].numpy()[:-1]
        assert abs(growth[known].mean() - 0.02 * edge) < 4 * error * 2
        assert abs(growth[~known].mean() + 0.02 * edge) < 4 * error * 2


def test_a_healthy_environment_passes_and_a_sick_one_does_not(bars: SymbolData) -> None:
    spec = spec_with()
    assert probe_environment(spec, bars).passed
    close = bars.close.copy()
    close[1_000] = np.nan
    sick = probe_environment(spec, dataclasses.replace(bars, close=close))
    assert not sick.passed
    assert "not finite" in sick.evidence


def call(*arguments: str) -> Result:
    return invoke("check", SMOKE, "--set", "env.episode_bars=40", "--episodes", "400", *arguments)


@pytest.mark.slow
def test_the_command_says_what_failed_and_ends_with_3() -> None:
    fine = call()
    assert fine.exit_code == 0, fine.output
    asked = {row.removeprefix("probe.").replace("env", "environment") for row in SYMPTOMS if row.startswith("probe.")}
    for name in (*(asked - {"learning"}), "reward", "reward-edge"):  # --learn checks that one
        assert f"passed {name}: " in fine.output
    assert "SYNTHETIC" in fine.output
    bad = call("--set", 'reward.formulas="guide"', "--json")
    assert bad.exit_code == 3
    told = {probe["name"]: probe for probe in json.loads(bad.stdout)}
    assert told["environment"]["passed"]
    assert not told["reward"]["passed"]
    wrong = call("--symbol", "MSFT")
    assert wrong.exit_code == 2
    assert "--symbol MSFT: is not in the spec; it has AAPL" in wrong.output
