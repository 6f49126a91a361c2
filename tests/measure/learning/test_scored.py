"""The scored specs differ from recommended.toml, and the market from learning.toml, in what the table states alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from p3kit.spec import load_spec

from .scored import ROWS, SEPARATE, SPECS, write_spec

ALLOWED = {"name", "trainer", "symbols", "seeds", "data", "early_stop", "ppo"}


@pytest.mark.parametrize("row", ROWS)
def test_a_scored_spec_changes_what_is_allowed_alone(row: str, tmp_path: Path) -> None:
    _, base, trainer, symbols = ROWS[row]
    spec = load_spec(write_spec(tmp_path, row, symbols, [1, 2])).spec
    below = load_spec(SPECS / base).spec
    assert {name for name, value in spec if value != getattr(below, name)} <= ALLOWED
    shared = set(type(below.ppo).model_fields) & set(type(spec.ppo).model_fields)
    assert all(getattr(spec.ppo, name) == getattr(below.ppo, name) for name in shared)
    assert (spec.trainer, spec.seeds, spec.ppo.total_timesteps) == (trainer, (1, 2), 100_000)
    market = load_spec(SPECS / ("learning.toml" if symbols == SEPARATE else "learning_shared.toml")).spec
    assert (spec.data, spec.symbols) == (market.data, market.symbols)
    assert (spec.env.commission_bps, spec.env.slippage_bps) == (market.env.commission_bps, market.env.slippage_bps)
    assert (spec.early_stop.patience, spec.early_stop.stretch_sharpe) == ("off", "off")
