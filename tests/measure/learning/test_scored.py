"""The scored specs differ from recommended.toml, and the market from learning.toml, in what the table states alone."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from p3kit.env import TradingEnv
from p3kit.errors import InputError
from p3kit.market import load_market
from p3kit.metrics import ACTIONS
from p3kit.runtime.evaluation import Evaluator
from p3kit.spec import agent_spec, load_spec

from . import equal_search, real_bars, sb3
from .scored import ROWS, SEPARATE, SHARED, SPECS, steps_of, write_spec

ALLOWED = {"name", "trainer", "symbols", "seeds", "data", "early_stop", "ppo"}


@pytest.mark.parametrize("row", ROWS)
def test_a_scored_spec_changes_what_is_allowed_alone(row: str, tmp_path: Path) -> None:
    own = ROWS[row]
    spec = load_spec(write_spec(tmp_path, row, own.symbols, [1, 2])).spec
    below = load_spec(SPECS / own.base).spec
    assert {name for name, value in spec if value != getattr(below, name)} <= ALLOWED
    shared = set(type(below.ppo).model_fields) & set(type(spec.ppo).model_fields)
    assert all(getattr(spec.ppo, name) == getattr(below.ppo, name) for name in shared - {"total_timesteps"})
    assert (spec.trainer, spec.seeds, spec.ppo.total_timesteps) == (own.trainer, (1, 2), 100_000)
    market = load_spec(SPECS / ("learning.toml" if own.symbols == SEPARATE else "learning_shared.toml")).spec
    assert (spec.data, spec.symbols) == (market.data, market.symbols)
    assert (spec.env.commission_bps, spec.env.slippage_bps) == (market.env.commission_bps, market.env.slippage_bps)
    assert (spec.early_stop.patience, spec.early_stop.stretch_sharpe) == ("off", "off")


def test_rows_of_equal_time_take_the_steps_of_that_time(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="measure that row first"):
        steps_of("shared_time", tmp_path)
    for row, seconds in {"sb3": (60, 80, 70), "shared": (7, 7, 7)}.items():
        results = {str(seed): {"share": 0.5, "seconds": spent} for seed, spent in enumerate(seconds)}
        (tmp_path / f"{row}.json").write_text(json.dumps(results))
    assert steps_of("shared_time", tmp_path) == 1_000_000
    assert steps_of("shared", tmp_path) == 100_000
    spec = load_spec(write_spec(tmp_path, "shared_time", SHARED, [1], 1_000_000)).spec
    assert spec.ppo.total_timesteps == 1_000_000


@pytest.mark.parametrize("rule", ["greedy", "sharpened"])
def test_a_peer_acts_by_the_rule_of_the_spec(rule: str, tmp_path: Path) -> None:
    """PPO of Stable-Baselines3 has no masks: a masked action is a HOLD, in training and by every rule."""
    changes = [
        f"evaluation.action={rule}",
        "ppo.n_steps=8",
        "ppo.batch_size=128",
        "evaluation.every=256",
        "data.synthetic.bars=2000",
    ]
    spec = load_spec(write_spec(tmp_path, "sb3", ("DRILL4",), [1], steps=256), changes).spec
    (symbol,) = spec.symbols
    bars = load_market(spec, [symbol])[symbol]
    policy = sb3.train(agent_spec(spec, symbol), bars, symbol, 1)
    evaluator = Evaluator(agent_spec(spec, symbol), bars, symbol, 1, torch.device("cpu"))
    found = evaluator(policy)
    assert found.action_rule == rule
    assert set(found.policy.action) <= set(range(len(ACTIONS)))
    seen = torch.randn(32, TradingEnv({symbol: bars}, spec, symbols=[symbol]).observation_size)
    flat = torch.tensor([name == "HOLD" or name.startswith("BUY") for name in ACTIONS]).expand(32, -1)
    with torch.no_grad():
        output = policy(seen, flat)
    if rule == "greedy":
        assert flat.gather(1, output.unsqueeze(1)).all()
    else:
        assert output.exp().sum(-1) == pytest.approx(torch.ones(32))
        assert (output[~flat] == -torch.inf).all()


def test_every_side_of_the_search_has_the_same_valid_settings_and_none_is_scored(tmp_path: Path) -> None:
    trials = equal_search.settings(equal_search.TRIALS)
    assert trials == equal_search.settings(equal_search.TRIALS)
    assert trials[0] == []
    spec = write_spec(tmp_path, "sb3", equal_search.SYMBOLS, equal_search.SEEDS)
    assert len({load_spec(spec, changes).spec.model_dump_json() for changes in trials}) == equal_search.TRIALS
    assert not set(equal_search.SYMBOLS) & {*SEPARATE, *SHARED}


def test_real_bars_count_a_window_once() -> None:
    """Ten symbols that share a market are no ten windows: the interval is that of the two means."""

    def side(*excess: float) -> pd.DataFrame:
        index = [(window, symbol) for window in ("2015", "2016") for symbol in "AB"]
        frame = pd.DataFrame(dict.fromkeys(real_bars.FIGURES, 0.0), index=index)
        return frame.assign(**{real_bars.AGAINST_HOLD: excess})

    text = real_bars.table(side(0.3, 0.5, -0.2, 0.0), side(0, 0, 0, 0))
    (row,) = [line for line in text.splitlines() if line.startswith(f"| {real_bars.AGAINST_HOLD}")]
    assert row.split(" | ")[1] == "+0.15 (-3.03 … +3.33)"  # 0.15 ± 12.706 · 0.25
    assert text.splitlines()[-1].endswith("| 1 of 2 | 0 of 2 | 1 of 2 |")
